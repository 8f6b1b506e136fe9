# SPDX-License-Identifier: Apache-2.0
"""A kernel of another series, out of the distribution's packages, for a virtual machine to boot.

See: Documentation/driver-api/early-userspace/buffer-format.rst for the initial file system,
Documentation/x86/boot.rst for what is inside vmlinuz.
"""

import contextlib
import fcntl
import hashlib
import lzma
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import packages

SERIES = {"6.1": "", "6.12": "bookworm-backports"}
"""Kernels to be had, by where they are: in what this machine installs from, or in another suite of
Debian's, of which it need not know; nothing is changed about that."""

MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay"),  # the machine's own root
    *("veth", "sch_ingress", "cls_bpf", "sch_netem"),
)
"""Modules to load, beside those that they need and what is built here."""

NETDEVSIM = "drivers/net/netdevsim"
"""A network card that only pretends, with devlink and its traps; no package has it built."""

STORE = packages.STORE.parent / "kernel"

_XZ, _ZSTD = b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class GuestKernel:
    """What to boot.

    Args:
        image: The kernel, not compressed: an emulated processor takes seconds to unpack it.
        modules: In the order in which they can be loaded.
    """

    image: Path
    modules: tuple[Path, ...]

    @property
    def release(self) -> str:
        """As `uname -r` says it."""
        return self.image.name.removeprefix("vmlinux-")


def guest_kernel(series: str = "6.1") -> GuestKernel:
    """The newest kernel of a series that the distribution has; made at the first call.

    Args:
        series: One of `SERIES`.

    Raises:
        LookupError: The distribution has none.
        subprocess.CalledProcessError: A step failed; what it said is a note.
    """
    STORE.mkdir(parents=True, exist_ok=True)
    made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = STORE / f"{series}-{made_by}"
    with (STORE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            for old in STORE.iterdir():  # made by another version of this file
                if old.is_dir() and not old.name.endswith(made_by):
                    shutil.rmtree(old)
            suite = SERIES[series]
            with packages.suite(suite) if suite else contextlib.nullcontext():
                try:
                    _make(target, series)
                except (LookupError, subprocess.CalledProcessError):
                    packages.update()  # the lists were missing or old
                    _make(target, series)
    (image,) = target.glob("vmlinux-*")
    order = (target / "order").read_text(encoding="ascii").split()
    return GuestKernel(image, tuple(target / name for name in order))


def initial_files(kernel: GuestKernel, init: str) -> bytes:
    """The initial file system: busybox, modules, and the shell script INIT that runs first."""
    busybox = packages.unpacked("busybox-static") / "bin/busybox"
    entries = [
        *(_entry(name, 0o040755) for name in ("bin", "dev", "modules")),
        _entry("dev/console", 0o020600, device=(5, 1)),
        _entry("bin/busybox", 0o100755, busybox.read_bytes()),
        _entry("init", 0o100755, init.encode()),
        *(_entry(f"modules/{m.name}", 0o100644, m.read_bytes()) for m in kernel.modules),
        _entry("TRAILER!!!", 0),
    ]
    return b"".join(entries)


def _make(target: Path, series: str) -> None:
    with tempfile.TemporaryDirectory(dir=STORE, prefix=".new-") as directory:
        root, new = Path(directory) / "root", Path(directory) / "new"
        new.mkdir()
        built = not SERIES[series]  # what is built here needs sources and headers
        release, version = _newest(series, sources=built)
        names = [f"linux-image-{release}"]
        if built:
            names += [
                f"linux-headers-{release}",
                f"linux-headers-{release.removesuffix('-amd64')}-common",
                f"linux-kbuild-{series}",
                f"linux-source-{series}",
            ]
        packages.unpack(root, *(f"{name}={version}" for name in names))
        image = _decompressed((root / f"boot/vmlinuz-{release}").read_bytes())
        (new / f"vmlinux-{release}").write_bytes(image)
        modules = root / f"lib/modules/{release}"
        found = {_name(m): m for m in map(_plain, modules.rglob("*.ko*"))}
        inside = (modules / "modules.builtin").read_text(encoding="ascii")
        wanted = [name for name in MODULES if f"/{name}.ko\n" not in inside]
        if built:
            made = _netdevsim(root, release, series)
            found[_name(made)] = made
            wanted.append(_name(made))
        order = list(dict.fromkeys(_in_order(wanted, found)))
        for name in order:
            shutil.copy(found[name], new)
        (new / "order").write_text(" ".join(found[name].name for name in order), encoding="ascii")
        new.rename(target)


def _plain(module: Path) -> Path:
    """The file of a MODULE, not compressed."""
    if module.suffix != ".xz":
        return module
    plain = module.with_suffix("")
    plain.write_bytes(lzma.decompress(module.read_bytes()))
    return plain


def _newest(series: str, *, sources: bool) -> tuple[str, str]:
    """Release and package version of the newest kernel, whose source is there as well if needed."""
    number = rf"{re.escape(series)}\.\d+(?:-\d+|\+deb\d+(?:\.\d+)?)"  # 6.1.0-50, 6.12.95+deb12
    pattern = re.compile(rf"linux-image-({number}-amd64)")
    names = packages.run("apt-cache", "pkgnames", f"linux-image-{series}.").split()
    releases = [match[1] for match in map(pattern.fullmatch, names) if match]
    there = _versions(f"linux-source-{series}") if sources else []
    for release in sorted(releases, key=_numbers, reverse=True):
        for version in _versions(f"linux-image-{release}"):
            if version in there or not sources:
                return release, version
    raise LookupError(f"This distribution has no kernel {series} for amd64.")


def _versions(package: str) -> list[str]:
    """Of a package, newest first."""
    rows = packages.run("apt-cache", "madison", package).splitlines()
    return [row.split("|")[1].strip() for row in rows]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _netdevsim(root: Path, release: str, series: str) -> Path:
    """The module, built with unpacked headers from unpacked sources."""
    headers = root / f"usr/src/linux-headers-{release}"
    common = root / f"usr/src/linux-headers-{release.removesuffix('-amd64')}-common"
    (headers / "Makefile").write_text(f"include {common}/Makefile\n", encoding="ascii")
    directory = _source(root, NETDEVSIM, series)
    choices = ("CONFIG_NETDEVSIM=m", "KCFLAGS=-g0")
    packages.run("make", "-j2", "-C", str(headers), f"M={directory}", *choices, "modules")
    return directory / "netdevsim.ko"


def _source(root: Path, name: str, series: str) -> Path:
    """The directory NAME of the kernel's sources: their archive is read no further than that."""
    source = f"linux-source-{series}"
    directory = root / source / name
    with tarfile.open(root / f"usr/src/{source}.tar.xz", "r|xz") as archive:
        for member in archive:
            if member.name.startswith(f"{source}/{name}"):
                archive.extract(member, root)
            elif directory.exists():
                break
    return directory


def _decompressed(vmlinuz: bytes) -> bytes:
    """The kernel inside: an ELF file, which a virtual machine can be told to run as it is."""
    for at in (match.start() for match in re.finditer(re.escape(_XZ), vmlinuz)):
        try:
            image = lzma.LZMADecompressor().decompress(vmlinuz[at:])
        except lzma.LZMAError:
            continue
        if image.startswith(_ELF):
            return image
    for at in (match.start() for match in re.finditer(re.escape(_ZSTD), vmlinuz)):
        # what stands behind it makes zstd fail, once it has written all
        done = subprocess.run(
            [_zstd(), "-dc"], input=vmlinuz[at:], capture_output=True, check=False
        )
        if done.stdout.startswith(_ELF):
            return done.stdout
    raise LookupError("No kernel compressed by xz or zstd in vmlinuz.")


def _zstd() -> str:
    """The tool, which Python 3.11 has no module for."""
    return shutil.which("zstd") or str(packages.unpacked("zstd") / "usr/bin/zstd")


def _name(module: Path) -> str:
    return module.stem.replace("-", "_")


def _in_order(names: list[str], found: dict[str, Path]) -> Iterator[str]:
    """What each needs, as it says itself, and then it."""
    for name in names:
        needs = re.search(rb"\0depends=([^\0]*)\0", found[name].read_bytes())
        if needs and needs[1]:
            yield from _in_order(needs[1].decode().replace("-", "_").split(","), found)
        yield name


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """A file of an archive in the format "newc" of cpio, each part filled up to four bytes."""
    path = name.encode() + b"\0"
    # inode, mode, user, group, links, time, size, device of the archive, of the file, path, sum
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return _filled(header) + _filled(data)


def _filled(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
