# SPDX-License-Identifier: Apache-2.0
"""Compiled programs are kept, found again, and never taken from where others may write."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import loading
from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.bpf import kernel, store
from trapstream_vtap.bpf.code import Code, Map, load
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = """
#include <uapi/linux/bpf.h>
struct key { u32 a; u8 b[3]; };
BPF_TABLE("lru_hash", struct key, u64, table, 77);
BPF_PERCPU_ARRAY(unnamed, u64, 3);
BPF_RINGBUF_OUTPUT(ring, 1);
int first(struct __sk_buff *skb)
{
	struct key key = {.a = skb->len};
	u32 zero = 0;
	u64 *count = unnamed.lookup(&zero), one = 1;

	table.update(&key, &one);
	return count ? ring.ringbuf_output(count, sizeof(*count), 0) : 0;
}
int second(struct xdp_md *ctx)
{
	struct key key = {};
	u64 *value = table.lookup(&key);

	return value ? XDP_PASS : XDP_DROP;
}
"""
SOURCE = Source(
    TEXT,
    (
        Program("first", "SCHED_CLS"),
        Program("again", "SOCKET_FILTER", "first"),
        Program("second", "XDP", buffers=True),
        Program("second_plain", "XDP", "second"),
    ),
    ("ring", "table"),
)
OTHER = replace(SOURCE, maps=("table",))
MADE = Code({"f": b"12345678"}, (Map("m", 1, 2, 3, 4, 5),))

BY_BCC = """
import os, sys
from trapstream_vtap.bpf.source import HERE
os.environ["BCC_KERNEL_SOURCE"] = str(HERE / "headers")
from bcc import BPF
import test_store
module = BPF(text=test_store.TEXT, cflags=["-Wno-macro-redefined"])
for name, kind in (("first", BPF.SCHED_CLS), ("second", BPF.XDP)):
    print(test_store.tag(module.load_func(name, kind).fd))
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled programs are kept; nothing is yet."""
    directory = tmp_path / "of root" / "programs"
    directory.parent.mkdir()
    monkeypatch.setenv("CACHE_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """What would have been compiled; MADE comes of all."""
    asked: list[Source] = []

    def compiled(source: Source) -> Code:
        asked.append(source)
        return MADE

    monkeypatch.setattr(compiler, "compiled", compiled)
    return asked


def tag(program: int) -> str:
    """The kernel's digest of a program's instructions, maps left out (`struct bpf_prog_info`)."""
    information = (ctypes.c_uint64 * 32)()
    size = ctypes.c_uint32(ctypes.sizeof(information))
    libbpf = ctypes.CDLL("libbpf.so.1")
    assert libbpf.bpf_obj_get_info_by_fd(program, information, ctypes.byref(size)) == 0
    return f"{information[1]:016x}"


def test_same_as_bcc() -> None:
    """What is kept and loaded are the instructions that BCC itself would have loaded."""
    done = subprocess.run(
        [sys.executable, "-c", BY_BCC],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        capture_output=True,
        text=True,
    )
    code = compiled_elsewhere(SOURCE)
    objects = load(SOURCE, code)
    first, again, second, plain = map(tag, objects.programs.values())
    assert done.stdout.split() == [first, second]
    assert (again, plain) == (first, second)
    described = {name: kernel.describe_map(fd) for name, fd in objects.maps.items()}
    assert described == {
        "ring": ("ring", 27, 0, 0, 4096, 0),  # enum bpf_map_type
        "table": ("table", 9, 8, 8, 77, 0),
    }
    assert [each.name for each in code.maps] == ["ring", "table", "unnamed"]
    objects.close()


def compiled_elsewhere(source: Source) -> Code:
    """SOURCE compiled, in another process."""
    loading.compile_ahead([source])
    code = store.kept(source)
    assert code
    return code


def test_compiled_once(kept: Path, uncompiled: list[Source]) -> None:
    """What has been compiled is not compiled again."""
    for _ in range(2):
        assert store.code(SOURCE) == MADE
        assert store.code(OTHER) == MADE
    assert uncompiled == [SOURCE, OTHER]
    assert len(list(kept.iterdir())) == 2


CHANGES: dict[str, Callable[[pytest.MonkeyPatch, Path], object]] = {
    "kernel": lambda patch, _: patch.setattr(
        store.os, "uname", lambda: type("Uname", (), {"release": "5.4", "machine": "x86_64"})
    ),
    "BCC": lambda patch, _: patch.setattr(store, "_bcc", lambda: "0.99"),
    "header": lambda _, here: (here / "packet.h").write_text("/* another */"),
    "header for BCC": lambda _, here: (here / "headers/include/asm/page.h").write_text("/* */"),
    "new header": lambda _, here: (here / "headers/include/asm/new.h").write_text(""),
    "how it is compiled": lambda _, here: (here / "compile.py").write_text("# otherwise"),
}


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("what", CHANGES)
def test_anything_changed(
    what: str, uncompiled: list[Source], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the code depends on: when it has changed, it is compiled anew."""
    here = tmp_path / "bpf"
    shutil.copytree(store.HERE, here)
    monkeypatch.setattr(store, "HERE", here)
    store.code(SOURCE)
    store.code(SOURCE)
    assert len(uncompiled) == 1
    CHANGES[what](monkeypatch, here)
    store.code(SOURCE)
    assert len(uncompiled) == 2


def test_version_of_bcc() -> None:
    """It is read without importing what brings LLVM."""
    look = "import sys; from trapstream_vtap.bpf import store; print(store._bcc(), [*sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("__version__ = ")
    assert "'bcc.libbcc'" not in done.stdout


@pytest.mark.usefixtures("kept")
def test_another_kernel(uncompiled: list[Source]) -> None:
    """What is kept for another kernel is not for this one."""
    store.keep(SOURCE, MADE, "6.1.0-other")
    store.code(SOURCE)
    assert uncompiled == [SOURCE]


def damaged(content: bytes) -> list[bytes]:
    """Cut at, or changed in, any place."""
    cut = [content[:at] for at in range(len(content))]
    changed = [
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))
    ]
    return [*cut, *changed, content + b"\n", b"\n", b"\xff\n"]


def test_damaged(kept: Path, uncompiled: list[Source]) -> None:
    """What is not whole is compiled again, and then it is."""
    store.code(SOURCE)
    (file,) = kept.iterdir()
    content = file.read_bytes()
    for bad in damaged(content):
        file.write_bytes(bad)
        assert store.kept(SOURCE) is None, bad
    assert store.code(SOURCE) == MADE
    assert file.read_bytes() == content
    assert len(uncompiled) == 2


def link(kept: Path, file: Path) -> None:
    """Elsewhere, by a symbolic link."""
    elsewhere = kept.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


DISTRUSTED: dict[str, Callable[[Path, Path], object]] = {
    "directory for all": lambda kept, _: kept.chmod(0o777),
    "directory for a group": lambda kept, _: kept.chmod(0o770),
    "another's directory": lambda kept, _: os.chown(kept, 1, 1),
    "file for all": lambda _, file: file.chmod(0o606),
    "another's file": lambda _, file: os.chown(file, 1, 1),
    "link": link,
    "not a file": lambda _, file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("what", DISTRUSTED)
def test_distrusted(what: str, kept: Path, uncompiled: list[Source]) -> None:
    """What others may have written is not loaded."""
    store.code(SOURCE)
    (file,) = kept.iterdir()
    DISTRUSTED[what](kept, file)
    assert store.kept(SOURCE) is None
    assert store.code(SOURCE) == MADE
    assert len(uncompiled) == 2


def test_for_its_owner_only(kept: Path) -> None:
    """Nobody else sees what is kept."""
    store.keep(SOURCE, MADE)
    (file,) = kept.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", ["/proc/no", "/dev/null", "/dev/null/no"])
def test_nowhere_to_keep(
    where: str, uncompiled: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be kept, it is compiled each time."""
    monkeypatch.setenv("CACHE_DIRECTORY", where)
    for _ in range(2):
        assert store.code(SOURCE) == MADE
    assert len(uncompiled) == 2


def test_bounded(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not been wanted for longest goes."""
    monkeypatch.setattr(store, "_MOST", 3)
    sources = [replace(SOURCE, text=str(number)) for number in range(4)]
    for number, source in enumerate(sources[:3]):
        store.keep(source, MADE)
        (newest,) = [file for file in kept.iterdir() if file.stat().st_mtime > 1000]
        os.utime(newest, (number, number))
    assert store.kept(sources[0]) == MADE  # it is the newest now
    store.keep(sources[3], MADE)
    assert [store.kept(source) is not None for source in sources] == [True, False, True, True]
    assert len(list(kept.iterdir())) == 3


def test_only_our_own_go(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that has other files, too, those stay, however old they are."""
    monkeypatch.setattr(store, "_MOST", 1)
    kept.mkdir(mode=0o700)
    for name in ("passwd", "f" * 63, ".hidden"):
        (kept / name).touch()
        os.utime(kept / name, (1, 1))
    for number in range(3):
        store.keep(replace(SOURCE, text=str(number)), MADE)
    assert len(list(kept.iterdir())) == 3 + 1
    assert (kept / "passwd").exists()


def test_behind_somebody_elses_link(
    tmp_path: Path, uncompiled: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another user may put links, root follows none: nothing is kept there."""
    theirs, target = tmp_path / "theirs", tmp_path / "target"
    for path in (theirs, target):
        path.mkdir()
    (theirs / "link").symlink_to(target)
    os.chown(theirs, 1, 1)
    for where in (theirs / "link", theirs / "link" / "programs"):
        monkeypatch.setenv("CACHE_DIRECTORY", str(where))
        assert store.code(SOURCE) == MADE
    assert list(target.iterdir()) == []
    assert len(uncompiled) == 2


def open_files() -> set[str]:
    """This process's descriptors."""
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def test_refused() -> None:
    """What the verifier refuses is told with its last words, and nothing stays open."""
    source = Source(
        "#include <uapi/linux/bpf.h>\n"
        "BPF_ARRAY(numbers, u64, 1);\n"
        "int bad(struct __sk_buff *skb)\n"
        "{\n\tu32 at = 0;\n\n\tnumbers.increment(at);\n\treturn *(u8 *)(long)skb->data;\n}\n",
        (Program("bad", "SCHED_CLS"),),
        ("numbers",),
    )
    code = compiled_elsewhere(source)
    before = open_files()
    with pytest.raises(
        RunError, match=r"5.12 or newer is\): .*, R\d offset is outside of the packet"
    ):
        load(source, code)
    assert open_files() == before


def test_not_c() -> None:
    """What BCC does not compile is told with its last words."""
    with pytest.raises(RunError, match=r"needed of BPF .*: "):
        loading.compile_ahead([replace(SOURCE, text="int first( {")])
