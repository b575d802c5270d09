"""Baselines from files: trees, root filesystems, Debian packages, event logs; and what can't be one."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tpm.boot_simulator import BootSimulator, Machine
from ztrooted import baseline_sources, debian_package, limits
from ztrooted.baseline_diff import diff
from ztrooted.baseline_sources import Source, compute, tree_files
from ztrooted.debian_package import package_files
from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason
from ztrooted.reference import Baseline, parse_baseline


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, data).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root filesystem with a merged /usr, links in and out, and things that are no files."""
    root = tmp_path / "root"
    for folder in ("usr/bin", "etc", "var/empty"):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    for name, mode in (("ls", 0o755), ("notes", 0o644)):
        (root / "usr/bin" / name).write_bytes(name.encode())
        (root / "usr/bin" / name).chmod(mode)
    (root / "usr/bin/dir").symlink_to("ls")
    (root / "usr/bin/out").symlink_to("/etc/passwd")
    (root / "etc/conf").write_bytes(b"conf")
    os.mkfifo(root / "etc/pipe")
    (root / os.fsdecode(b"etc/\xff")).write_bytes(b"odd")
    return root


def test_a_tree_is_hashed_under_the_paths_of_the_machine(root: Path) -> None:
    found = dict(tree_files(root, root, "sha256"))
    assert found == {
        "/usr/bin/ls": digest(b"ls"),
        "/usr/bin/notes": digest(b"notes"),
        "/etc/conf": digest(b"conf"),
        os.fsdecode(b"/etc/\xff"): digest(b"odd"),
    }
    assert set(dict(tree_files(root / "bin", root, "sha256"))) == {"/usr/bin/ls", "/usr/bin/notes"}
    assert set(dict(tree_files(root, root, "sha256", executable_only=True))) == {"/usr/bin/ls"}
    assert dict(tree_files(root / "etc/conf", root, "sha512")) == {"/etc/conf": digest(b"conf", "sha512")}


def test_a_tree_outside_of_its_root_is_refused(root: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "missing", root / "usr/bin/out"):
        with pytest.raises(PolicyError) as refused:
            list(tree_files(wrong, root, "sha256"))
        assert refused.value.reason is GateReason.BASELINE_SOURCE


# --- packages ----------------------------------------------------------------------------------------------------
def archive(members: dict[str, bytes | tuple[bytes, str]], *, mode: str = "xz") -> bytes:
    """A tar: files by name, or (type, link name)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{mode}" if mode else "w") as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if "bin" in name else 0o644
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def deb(files: bytes, *, name: str = "data.tar.xz") -> bytes:
    return (
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("control.tar.xz", archive({"./control": b"Package: x\n", "./md5sums": b"lies  usr/bin/tool\n"}))
        + member(name, files)
    )


FILES: dict[str, bytes | tuple[bytes, str]] = {
    "./usr/bin/tool": b"tool",
    "./usr/bin/alias": (tarfile.SYMTYPE, "tool"),
    "./usr/bin/hard": (tarfile.LNKTYPE, "./usr/bin/tool"),
    "./bin/old": b"old",
    "./usr/share/doc": b"doc",
}


@pytest.mark.parametrize(
    ("mode", "name"), [("xz", "data.tar.xz"), ("gz", "data.tar.gz"), ("bz2", "data.tar.bz2"), ("", "data.tar")]
)
def test_a_packages_files_are_hashed(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(deb(archive(FILES, mode=mode), name=name))
    assert dict(package_files(path, "sha256")) == {
        "/usr/bin/tool": digest(b"tool"),
        "/usr/bin/hard": digest(b"tool"),
        "/bin/old": digest(b"old"),
        "/usr/share/doc": digest(b"doc"),
    }
    executables = dict(package_files(path, "sha256", executable_only=True))
    assert set(executables) == {"/usr/bin/tool", "/usr/bin/hard", "/bin/old"}
    listed = compute(Source(packages=[path]), 0).ima
    assert listed["/usr/bin/old"] == listed["/bin/old"]  # the machine may have a merged /usr


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no archive": b"PK\x03\x04" + bytes(100),
    "cut in the header": deb(archive(FILES))[:80],
    "cut in the files": deb(archive(FILES))[:-40],
    "zstd": deb(b"(\xb5/\xfd" + bytes(50), name="data.tar.zst"),
    "no files at all": b"!<arch>\n" + member("debian-binary", b"2.0\n"),
    "not the compression of its name": deb(b"\x00" * 600, name="data.tar.xz"),
    "a size that is no number": b"!<arch>\n" + b"data.tar.xz".ljust(48) + b"x".ljust(10) + b"`\n",
    "a size beyond all bounds": b"!<arch>\n" + b"data.tar.xz".ljust(48) + b"9999999999" + b"`\n",
    "a path out of it": deb(archive({"./../etc/passwd": b"x"})),
    "a hard link to nothing": deb(archive({"./usr/bin/a": (tarfile.LNKTYPE, "./usr/bin/b")})),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_package_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(data)
    with pytest.raises(PolicyError) as refused:
        list(package_files(path, "sha256"))
    assert refused.value.reason is GateReason.BASELINE_SOURCE
    assert str(path) in refused.value.detail


@pytest.mark.parametrize(
    ("module", "name", "most"),
    [(baseline_sources, "MAX_FILES", 2), (debian_package, "MAX_FILES", 2), (debian_package, "MAX_PACKAGE", 100)],
    ids=["files", "members", "bytes"],
)
def test_more_than_a_baseline_may_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, most: int
) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(deb(archive({f"./usr/bin/{number}": bytes([number]) * 100 for number in range(3)})))
    assert len(compute(Source(packages=[path]), 0).ima) == 3
    monkeypatch.setattr(module, name, most)
    with pytest.raises(PolicyError) as refused:
        compute(Source(packages=[path]), 0)
    assert refused.value.reason is GateReason.BASELINE_SOURCE


def test_a_package_without_a_single_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(deb(archive({})))
    with pytest.raises(PolicyError, match="nothing in it"):
        list(package_files(path, "sha256"))


def test_an_event_log_over_its_maximum_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(limits.EVENT_LOG + 1)
    with pytest.raises(PolicyError, match=f"{limits.EVENT_LOG}"):
        compute(Source(event_log=path), 0)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_package_of_the_real_tool_is_read_as_it_unpacks_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    for number in range(30):
        (tree / "usr/bin" / f"tool-{number}").write_bytes(os.urandom(number * 1000))
    subprocess.run(["dpkg-deb", "-Zxz", "-b", str(tree), str(tmp_path / "x.deb")], check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(tmp_path / "x.deb"), str(tmp_path / "out")], check=True)
    out = tmp_path / "out"
    assert dict(package_files(tmp_path / "x.deb", "sha256")) == dict(tree_files(out, out, "sha256"))


# --- whole baselines ---------------------------------------------------------------------------------------------
@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    def boot(machine: Machine | None = None, name: str = "machine") -> Path:
        BootSimulator(lambda _pcr, _digests: None, ["sha256"], tmp_path / name).boot(machine)
        return tmp_path / name / "binary_bios_measurements"

    return boot


def test_a_baseline_of_everything_is_read_back(root: Path, log: Callable[..., Path]) -> None:
    made = compute(Source(root=root, trees=[root], event_log=log(), pins=[7, 4, 11]), 1)
    assert parse_baseline(made.encode()) == made
    assert set(made.pcrs) == {4, 7, 11}
    assert made.pcrs[11] == bytes(32)
    assert made.boot is not None
    assert made.captured_from == "files"
    assert compute(Source(root=root, trees=[root], event_log=log(), pins=[4, 7, 11]), 1).encode() == made.encode()


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"x" * (1 << 21)], ids=["empty", "zeros", "huge"])
def test_a_log_that_proves_nothing_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(data)
    with pytest.raises(PolicyError) as refused:
        compute(Source(event_log=path), 0)
    assert refused.value.reason is GateReason.BASELINE_SOURCE


def test_nothing_is_no_baseline(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (Source(root=tmp_path, trees=[tmp_path / "empty"]), Source(packages=[]), Source(pins=[4])):
        with pytest.raises(PolicyError) as refused:
            compute(source, 0)
        assert refused.value.reason is GateReason.BASELINE_SOURCE


def test_a_difference_is_told_part_by_part(root: Path, log: Callable[..., Path]) -> None:
    first = compute(Source(root=root, trees=[root], event_log=log(), pins=[4, 9]), 1)
    (root / "etc/conf").write_bytes(b"changed")
    (root / "usr/bin/ls").unlink()
    (root / "usr/bin/new").write_bytes(b"new")
    second = compute(Source(root=root, trees=[root], event_log=log(Machine(kernel=b"k"), "other"), pins=[4, 9]), 2)
    found = diff(first, second)
    assert {(one.part, one.kind, one.name) for one in found if one.part in {"pcr", "file"}} == {
        ("pcr", "changed", "4"),
        ("pcr", "changed", "9"),
        ("file", "changed", "/etc/conf"),
        ("file", "removed", "/usr/bin/ls"),
        ("file", "added", "/usr/bin/new"),
    }
    assert {one.kind for one in found if one.part == "images"} == {"added", "removed"}
    assert any(one.part == "event" and "event 5 of PCR 4" in one.after for one in found)
    assert diff(first, first) == []
    backwards = {(one.part, one.name): one for one in diff(second, first)}
    assert backwards["file", "/usr/bin/ls"].kind == "added"


def test_two_banks_are_a_difference() -> None:
    one, other = (
        Baseline(bank, {}, {"/a": frozenset({"sha256:" + "0" * 64})}, "x", 0) for bank in ("sha256", "sha384")
    )
    assert [found.part for found in diff(one, other)] == ["bank"]
