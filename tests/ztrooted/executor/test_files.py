"""Nobody can change a program between its comparison and its start, however they race for it."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import Marked, Streams, refusal, start
from ztrooted.executor import files
from ztrooted.executor.supervisor import JobSpec, SupervisorError

NAME, OTHER = b"GNU coreutils", b"GNU coreutilz"

# Rewrites the program in place, back and forth, through every way of writing that there is.
WRITER = """
import mmap, os, sys
path, offset, good, bad = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode()
print("up", flush=True)
turn = 0
while True:
    turn += 1
    try:
        fd = os.open(path, os.O_RDWR | (os.O_NONBLOCK if turn % 2 else 0))
    except OSError:
        continue
    for text in (bad, good):
        if turn % 3:
            os.pwrite(fd, text, offset)
        else:
            with mmap.mmap(fd, 0) as memory:
                memory[offset:offset + len(text)] = text
        if turn % 5 == 0:
            break
    os.close(fd)
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A program that says its name, which stands in it as a text."""
    copy = tmp_path / "tool"
    content = Path("/bin/true").read_bytes()
    if NAME not in content:
        pytest.skip("the true of this machine does not say its name")
    copy.write_bytes(content)
    copy.chmod(0o755)
    return copy


def listed(marked: Marked, tool: Path) -> JobSpec:
    spec = marked.job(str(tool), "--version")
    return JobSpec(spec.argv, spec.env, "/", {str(tool): hashlib.sha256(tool.read_bytes()).hexdigest()})


@pytest.fixture
def writer(tool: Path) -> Iterator["subprocess.Popen[bytes]"]:
    offset = tool.read_bytes().index(NAME)
    command = [sys.executable, "-c", WRITER, str(tool), str(offset), NAME.decode(), OTHER.decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def test_a_writer_that_races_the_start_never_wins(
    marked: Marked, tool: Path, request: pytest.FixtureRequest
) -> None:
    spec = listed(marked, tool)
    writer = request.getfixturevalue("writer")
    writer.stdout.readline()
    said: list[str] = []
    codes: list[str] = []
    for _ in range(60):
        streams = Streams()
        try:
            await (await start(spec, streams)).wait()
            said.append(streams.text().splitlines()[0])
        except SupervisorError as error:
            codes.append(error.code)
        finally:
            streams.close()
    assert all(NAME.decode() in line for line in said)
    assert set(codes) == {"job.file_mismatch"}, "the writer never got in the way"


@pytest.fixture
def held(tool: Path) -> files.Image:
    image = files.verify_files({str(tool): hashlib.sha256(tool.read_bytes()).hexdigest()}, str(tool))
    assert image is not None
    assert image.hold is not None
    if not image.hold.leased:
        pytest.skip("no leases on this filesystem")
    return image


def test_whoever_wants_to_write_to_a_compared_program_waits(tool: Path, held: files.Image) -> None:
    assert held.hold is not None
    held.hold.check()
    with pytest.raises(BlockingIOError):
        os.open(tool, os.O_WRONLY | os.O_NONBLOCK)
    with pytest.raises(files.LaunchError, match="about to"):
        held.hold.check()
    os.close(held.fd)


@pytest.mark.parametrize("how", ["write", "truncate"])
def test_a_writer_that_waits_keeps_the_program_from_starting(tool: Path, held: files.Image, how: str) -> None:
    """The kernel counts a writer before it makes it wait, and executes nothing that has one."""
    before = tool.read_bytes()

    def change() -> None:
        if how == "truncate":
            os.truncate(tool, 0)
        else:
            with tool.open("ab"):
                pass

    waiting = threading.Thread(target=change)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    child = os.fork()
    if child == 0:
        try:
            os.execve(held.fd, ["tool"], {})  # noqa: S606 -- as the launcher does
        except OSError as error:
            os._exit(error.errno or 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.ETXTBSY
    assert tool.read_bytes() == before
    os.close(held.fd)
    waiting.join()


async def test_a_program_that_is_open_for_writing_does_not_start(marked: Marked, tool: Path, streams: Streams) -> None:
    spec = listed(marked, tool)
    with tool.open("ab"):
        refused = await refusal(spec, streams)
    assert (refused.code, "open for writing" in refused.message) == ("job.file_mismatch", True)


def test_without_a_lease_a_change_is_noticed(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent that is not root has on programs that belong to others."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no lease")

    with monkeypatch.context() as patched:
        patched.setattr(files.fcntl, "fcntl", refuse)
        image = files.verify_files({str(tool): hashlib.sha256(tool.read_bytes()).hexdigest()}, str(tool))
    assert image is not None
    assert image.hold is not None
    assert not image.hold.leased
    image.hold.check()
    with tool.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(files.LaunchError, match="it changed"):
        image.hold.check()
    os.close(image.fd)
