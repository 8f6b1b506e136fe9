# SPDX-License-Identifier: Apache-2.0
"""From the declarations to the command's options, and from what it was told to settings."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from trapstream_vtap.errors import UsageError, printable
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.settings import file as config_file
from trapstream_vtap.settings.address import Address, is_ipv6, parse
from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.kinds import Names, Port, ValueType, check_strings, some, unit_of
from trapstream_vtap.settings.option import declared, flag_of, key_of
from trapstream_vtap.settings.settings import Settings, build, classes, keys, own
from trapstream_vtap.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trapstream_vtap.settings.option import Option

NO_KEYS = ("file", "version", "help")
"""Options that are no keys of a file."""


class Command(click.Command):
    """The command, whose errors may say words of others: names, keys of files."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The two arguments belong together."""
        *pieces, host, port = super().collect_usage_pieces(ctx)
        return [*pieces, f"[{host} {port}]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Room by room."""
        rooms: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                rooms.setdefault(getattr(param, "room", "Options"), []).append(record)
        for room, records in rooms.items():
            with formatter.section(room):
                formatter.write_dl(records)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click does, out of the arguments."""
        with _printable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, with the arguments."""
        with _printable_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_errors() -> Iterator[None]:
    """Errors on their way out say nothing that is not printed."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(printable(error.format_message()), error.ctx) from error


class OptionOfRoom(click.Option):
    """An option, and where it belongs.

    Args:
        room: The heading under which it is listed.
        kind: What its declaration says that it may be.
    """

    def __init__(self, *args: Any, room: str, kind: ValueType, **others: Any) -> None:
        super().__init__(*args, **others)
        self.room = room
        self.kind = kind


class FilePath(ValueType):
    """A configuration file; what it says of options becomes their default."""

    name = "FILE"

    def convert(self, value: Any, _param: Any, ctx: Any) -> config_file.ConfigFile:
        """What the file says."""
        if isinstance(value, config_file.ConfigFile):
            return value
        try:
            found = config_file.read(Path(value), keys())
            ctx.default_map = _defaults(ctx, value, found)
        except UsageError as error:
            raise click.UsageError(str(error), ctx) from error
        return found


def parameters() -> list[click.Parameter]:
    """All that the command takes: collector, file, and every option that is declared."""
    host = click.Argument(["host"], metavar="COLLECTOR_IP", required=False)
    port = click.Argument(["port"], metavar="COLLECTOR_PORT", type=Port(), required=False)
    return [host, port, *_options()]


def load_settings(arguments: Sequence[str], known: Sequence[str] = ()) -> Settings:
    """The settings that the command line ARGUMENTS ask for, with its configuration file as it is.

    Args:
        arguments: Without the command's name.
        known: Names of interfaces that are measured, and need not be up.

    Raises:
        UsageError: They cannot be.
    """
    command = Command("vtap-stream", params=parameters())
    try:
        ctx = command.make_context("vtap-stream", list(arguments))
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    except click.exceptions.Exit as error:
        raise UsageError("--help and --version are for the command alone.") from error
    return settings(ctx, known)


def _options() -> Iterator[click.Option]:
    """In order."""
    core = "Options"
    yield OptionOfRoom(
        ["-c", "--config", "file"],
        metavar="FILE",
        type=FilePath(),
        is_eager=True,
        help="JSON file with rules, and with options that the command line does not say; SIGHUP "
        "reads it again.  [default: none]",
        room=core,
        kind=FilePath(),
    )
    for kind in classes():
        room = core if kind is Core else " and ".join(_rooms(kind)).capitalize()
        for name, made in own(kind):
            if name == "probes":
                yield _probes(core)
            elif made.names:
                yield _option(name, made, room)


def _rooms(kind: type[Core]) -> list[str]:
    return [probe.name for probe in REGISTRY if probe.settings is kind]


def _probes(room: str) -> click.Option:
    listed = ", ".join(f"{p.name} ({p.doc})" if p.doc else p.name for p in REGISTRY)
    kind = Names("PROBE,…", [probe.name for probe in REGISTRY], "probe")
    return OptionOfRoom(
        ["--probe", "probes"],
        type=kind,
        multiple=True,
        default=(REGISTRY[0].name,),
        help=f"What to stream, repeatable or comma-separated: {listed}.  "
        f"[default: {REGISTRY[0].name}]",
        room=room,
        kind=kind,
    )


def _option(name: str, made: Option, room: str) -> click.Option:
    words = isinstance(made.default, tuple) and not made.multiple
    said = "[default: " in made.help
    return OptionOfRoom(
        [*made.names, name],
        type=None if made.flag else made.kind,
        is_flag=made.flag,
        metavar=made.metavar,
        multiple=made.multiple,
        default=",".join(made.default) if words else made.default,
        show_default=not (said or made.flag),
        help=made.help,
        room=room,
        kind=made.kind,
    )


def _defaults(ctx: click.Context, path: str, found: config_file.ConfigFile) -> dict[str, Any]:
    """The options in a file as click wants them, by parameter."""
    known = {
        key_of(option.opts): option
        for option in ctx.command.params
        if isinstance(option, OptionOfRoom) and option.name not in NO_KEYS
    }
    defaults = {}
    for key, value in found.options:
        if key not in known:
            every = (*keys(), *known)
            hint = nearest(key, every) or f" There are {', '.join(every)}."
            raise UsageError(f"{path}: there is no key {key!r}.{hint}")
        option = known[key]
        try:
            plain = (
                check_strings(key, value)
                if option.multiple
                else option.kind.check_json(key, value, unit_of(option))
            )
            defaults[option.name or key] = option.type_cast_value(ctx, plain)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        except click.BadParameter as error:
            raise UsageError(f"{path}: {key}: {error.message}") from error
    return defaults


def settings(ctx: click.Context, known: Sequence[str] = ()) -> Settings:
    """What the command was told in CTX.

    Args:
        ctx: Of the command.
        known: Names of interfaces that are measured, and need not be up.

    Raises:
        UsageError: It cannot be.
    """
    file = ctx.params.get("file") or config_file.ConfigFile()
    values = {
        name: made.internal(ctx.params[name])
        for kind in classes()
        for name, made in declared(kind)
        if made.names
    }
    for name, value in file.fields.items():
        source = ctx.get_parameter_source(name)
        if source in (None, ParameterSource.DEFAULT):  # else another word weighs more
            values[name] = value
    names = ",".join(name for each in ctx.params["probes"] for name in each)
    values["probes"] = some(names, [probe.name for probe in REGISTRY], "probe")
    if not values["probes"]:
        raise UsageError(f"Name at least one of {', '.join(p.name for p in REGISTRY)}.")
    if ctx.params["selected"] and not values["selected"]:
        raise UsageError("--interface is empty: name an interface, or leave the option out.")
    first = _first_sink(ctx.params["host"], ctx.params["port"], values["transport"])
    values["sinks"] = (*first, *map(parse, values["sinks"]))
    _check_needs(ctx, values)
    return build(values, tuple(known))


def _check_needs(ctx: click.Context, values: dict[str, Any]) -> None:
    """See that nothing on the command line does nothing; a file may say what is not in use.

    Raises:
        UsageError: It would do nothing.
    """
    for kind in classes():
        rooms = _rooms(kind)
        for name, made in own(kind):
            if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                continue
            flag = flag_of(made.names or (f"--{name}",))
            if rooms and not {*rooms} & {*values["probes"]}:
                raise UsageError(f"{flag} is for --probe {' or '.join(rooms)}.")
            if made.needs and not any(values.get(need) not in (None, False) for need in made.needs):
                needed = " or ".join(_flag(kind, need) for need in made.needs)
                raise UsageError(f"{flag} needs {needed}.")


def _flag(kind: type[Core], field: str) -> str:
    """What the person says for FIELD."""
    return flag_of(dict(declared(kind))[field].names)


def _first_sink(host: str | None, port: int | None, transport: str) -> list[Address]:
    """The sink that the positional arguments say, if they are there."""
    if host is None:
        return []
    if host == "-":
        if port is not None:
            raise UsageError("- is standard output, which has no port: leave the port out.")
        return [parse(host)]
    if "://" in host:
        raise UsageError(f"{host!r} is a URL: give it behind --sink.")
    bare, colon, word = host.rpartition(":")
    if colon and word.isdecimal() and (":" not in bare or bare.startswith("[")):
        bare = bare.strip("[]")
        raise UsageError(f"{host!r} is one word: give address and port as two, {bare} {word}.")
    if ":" in host and not is_ipv6(host):
        hint = f": give {host[1:-1]}" if is_ipv6(host[1:-1]) else ""
        raise UsageError(f"{host!r} is neither a name nor an address{hint}.")
    if port is None:
        raise UsageError("Missing argument 'COLLECTOR_PORT'.")
    return [Address(transport, ((host, port),))]
