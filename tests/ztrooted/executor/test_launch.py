"""The program and the files that run are the ones that were authorized."""

# ruff: noqa: ASYNC240 -- nothing else waits in the loops of these tests

import asyncio
import hashlib
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import (
    PATH,
    Marked,
    Streams,
    refusal,
    run,
    start,
)
from ztrooted.executor import files
from ztrooted.executor.files import interpreter_line
from ztrooted.executor.supervisor import JobSpec


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestFiles:
    @pytest.fixture
    def tool(self, tmp_path: Path) -> Path:
        copy = tmp_path / "tool"
        shutil.copy(shutil.which("sleep", path=PATH) or "/bin/sleep", copy)
        return copy

    @pytest.fixture
    def script(self, tmp_path: Path) -> Path:
        path = tmp_path / "script"
        path.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
        path.chmod(0o755)
        return path

    def with_files(self, spec: JobSpec, *paths: Path) -> JobSpec:
        return JobSpec(spec.argv, spec.env, spec.cwd, {str(path): sha256(path) for path in paths})

    async def test_a_listed_program_runs(self, marked: Marked, streams: Streams, tool: Path) -> None:
        assert (await run(self.with_files(marked.job(str(tool), "0"), tool), streams)).exit_status == 0

    async def test_another_program_does_not(self, marked: Marked, streams: Streams, tool: Path) -> None:
        spec = self.with_files(marked.job(str(tool), "0"), tool)
        with tool.open("ab") as file:
            file.write(b"\0")
        refused = await refusal(spec, streams)
        assert (refused.code, str(tool) in refused.message) == ("job.file_mismatch", True)

    async def test_what_runs_is_the_file_that_was_compared(
        self, marked: Marked, streams: Streams, tmp_path: Path
    ) -> None:
        """Replaced between comparison and start, it is still the compared one that runs."""
        program, other = tmp_path / "program", tmp_path / "other"
        shutil.copy("/bin/true", program)
        shutil.copy("/bin/false", other)
        source = f"""
import os, sys
sys.path.append({str(Path(__file__).parents[3])!r})
from ztrooted.executor import files, launch
from ztrooted.executor.wire import Plan
plan = Plan(argv=["x"], env={{}}, cwd="/", files={{{str(program)!r}: {sha256(program)!r}}}, stdio=[], lease_until=0,
            run_until=0, allow_weak=False)
image = files.verify_files(plan.files, {str(program)!r})
os.rename({str(other)!r}, {str(program)!r})
launch.execute({str(program)!r}, image, plan)
"""
        assert (await run(marked.python(source), streams)).exit_status == 0
        assert (await run(marked.job(str(program)), streams)).exit_status == 1

    @pytest.mark.parametrize("replace", ["rename", "link"])
    async def test_the_name_may_be_any_that_leads_to_it(
        self, marked: Marked, streams: Streams, tool: Path, tmp_path: Path, replace: str
    ) -> None:
        other = tmp_path / "other"
        if replace == "link":
            other.symlink_to(tool)
        else:
            other.hardlink_to(tool)
        wrong = JobSpec((str(other), "0"), {}, "/", {str(tool): "0" * 64})
        assert (await refusal(wrong, streams)).code == "job.file_mismatch"
        assert (await run(self.with_files(marked.job(str(other), "0"), tool), streams)).exit_status == 0

    async def test_a_program_found_in_path_counts_as_listed(self, marked: Marked, streams: Streams, tool: Path) -> None:
        spec = self.with_files(marked.job("tool", "0", PATH=str(tool.parent)), tool)
        assert (await run(spec, streams)).exit_status == 0
        tool.write_bytes(tool.read_bytes() + b"\0")
        assert (await refusal(spec, streams)).code == "job.file_mismatch"

    async def test_a_listed_script_gets_its_arguments(self, marked: Marked, streams: Streams, script: Path) -> None:
        end = await run(self.with_files(marked.job(str(script), "a b", "c"), script), streams)
        assert (end.exit_status, streams.text()) == (0, "a b|c|")

    async def test_a_listed_script_cannot_be_rewritten_while_it_runs(
        self, marked: Marked, streams: Streams, script: Path
    ) -> None:
        """A shell reads its script as it goes: without the sealed copy, what is appended later would run."""
        fifo = script.parent / "fifo"
        os.mkfifo(fifo)
        script.write_text(f"#!/bin/sh\nread line < {fifo}\necho authorized\n")
        running = await start(self.with_files(marked.job(str(script)), script), streams)
        with script.open("a") as file:
            file.write("echo smuggled\n")
        await asyncio.to_thread(fifo.write_text, "go\n")
        assert (await running.wait()).exit_status == 0
        assert streams.text() == "authorized\n"

    async def test_the_copy_of_a_script_is_sealed(self, marked: Marked, streams: Streams, script: Path) -> None:
        script.write_text('#!/bin/sh\nif echo more 2>/dev/null >> "$0"; then echo written; else echo sealed; fi\n')
        await run(self.with_files(marked.job(str(script)), script), streams)
        assert streams.text() == "sealed\n"

    async def test_a_script_and_its_listed_interpreter(
        self, marked: Marked, streams: Streams, script: Path, tmp_path: Path
    ) -> None:
        shell = tmp_path / "shell"
        shutil.copy("/bin/sh", shell)
        script.write_text(f"#!{shell} -e\nfalse\necho not reached\n")
        spec = self.with_files(marked.job(str(script)), script, shell)
        assert (await run(spec, streams)).exit_status == 1
        with shell.open("ab") as file:
            file.write(b"\0")
        assert (await refusal(spec, streams)).code == "job.file_mismatch"

    async def test_a_listed_interpreter_that_is_a_script_is_refused(
        self, marked: Marked, streams: Streams, script: Path, tmp_path: Path
    ) -> None:
        outer = tmp_path / "outer"
        outer.write_text(f"#!{script}\n")
        outer.chmod(0o755)
        refused = await refusal(self.with_files(marked.job(str(outer)), outer, script), streams)
        assert "itself a script" in refused.message

    async def test_a_listed_script_must_be_executable(self, marked: Marked, streams: Streams, script: Path) -> None:
        script.chmod(stat.S_IRUSR)
        assert "Permission denied" in (await refusal(self.with_files(marked.job(str(script)), script), streams)).message

    async def test_data_is_compared_too(self, marked: Marked, streams: Streams, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.write_bytes(b"x" * 3_000_000)
        spec = self.with_files(marked.job("cat", str(data)), data)
        shutil.copy(data, tmp_path / "copy")
        assert (await run(self.with_files(marked.job("true"), data, tmp_path / "copy"), streams)).exit_status == 0
        data.write_bytes(b"x" * 2_999_999 + b"y")
        assert (await refusal(spec, streams)).code == "job.file_mismatch"

    @pytest.mark.parametrize("kind", ["absent", "folder", "fifo", "device", "socket"])
    async def test_what_is_no_regular_file_is_refused(
        self, marked: Marked, streams: Streams, tmp_path: Path, kind: str
    ) -> None:
        path = Path("/dev/null") if kind == "device" else tmp_path / "thing"
        if kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        spec = marked.job("true")
        empty = hashlib.sha256().hexdigest()
        refused = await refusal(JobSpec(spec.argv, spec.env, "/", {str(path): empty}), streams)
        assert refused.code == "job.file_mismatch"


class TestFilesThatMove:
    """What happens between two steps, made to happen there."""

    def test_a_file_that_changes_while_it_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = tmp_path / "data"
        data.write_bytes(b"authorized")
        honest = files._digest

        def digest(fd: int, *, keep: bool) -> tuple[str, bytes]:
            found = honest(fd, keep=keep)
            data.write_bytes(b"something else")
            return found

        monkeypatch.setattr(files, "_digest", digest)
        with pytest.raises(files.LaunchError, match="changed while it was read"):
            files.verify_files({str(data): hashlib.sha256(b"authorized").hexdigest()}, "/bin/true")

    def test_a_listed_program_that_is_replaced_after_it_was_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else it would count as a program that is not listed, and run unchecked."""
        program, other = tmp_path / "program", tmp_path / "other"
        program.write_bytes(b"authorized")
        other.write_bytes(b"something else")
        honest = files._identity

        def identity(path: str) -> tuple[int, int]:
            if other.exists():
                other.rename(program)
            return honest(path)

        monkeypatch.setattr(files, "_identity", identity)
        with pytest.raises(files.LaunchError, match="replaced"):
            files.verify_files({str(program): hashlib.sha256(b"authorized").hexdigest()}, str(program))


class TestInterpreterLine:
    """As execve(2) reads it: one interpreter, at most one argument."""

    @pytest.mark.parametrize(
        ("head", "words"),
        [
            (b"#!/bin/sh\n", ["/bin/sh"]),
            (b"#! /bin/sh -e -x \necho", ["/bin/sh", "-e -x"]),
            (b"#!\t/usr/bin/env\tpython3\n", ["/usr/bin/env", "python3"]),
            (b"#!/bin/sh", ["/bin/sh"]),
            (b"\x7fELF", []),
            (b"", []),
            (b"#", []),
            (b" #!/bin/sh\n", []),
        ],
    )
    def test_read(self, head: bytes, words: list[str]) -> None:
        assert interpreter_line(head) == words

    @pytest.mark.parametrize("head", [b"#!", b"#!\n", b"#!  \n", b"#!sh\n", b"#!../sh\n", b"#!/" + b"a" * 253])
    def test_refused(self, head: bytes) -> None:
        with pytest.raises(OSError, match="Exec format error"):
            interpreter_line(head)
