"""What cannot be started, and that nothing is left of it."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import (
    Marked,
    Streams,
    refusal,
    run,
    start,
    until_async,
    zombies,
)
from ztrooted.executor.supervisor import JobSpec


def open_descriptors() -> list[int]:
    return [fd for fd in range(256) if Path(f"/proc/self/fd/{fd}").is_symlink()]


class TestStartFailures:
    async def test_no_such_program(self, marked: Marked, streams: Streams) -> None:
        assert "no-such-program" in (await refusal(marked.job("no-such-program"), streams)).message
        refused = await refusal(marked.job("/usr/bin/no-such-program"), streams)
        assert (refused.code, "/usr/bin/no-such-program" in refused.message) == ("execution.start_failed", True)

    async def test_no_path_means_no_lookup(self, marked: Marked, streams: Streams) -> None:
        assert "PATH" in (await refusal(JobSpec(("true",), {}, "/"), streams)).message

    async def test_relative_entries_of_path_are_not_looked_in(self, streams: Streams, tmp_path: Path) -> None:
        shutil.copy("/bin/true", tmp_path / "tool")
        for entries in ("", ".", "bin", ":/nowhere"):
            assert (
                await refusal(JobSpec(("tool",), {"PATH": entries}, str(tmp_path)), streams)
            ).code == "execution.start_failed"

    async def test_not_executable(self, marked: Marked, streams: Streams, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        plain.write_text("no program")
        assert "Permission denied" in (await refusal(marked.job(str(plain)), streams)).message
        plain.chmod(0o755)
        assert "format" in (await refusal(marked.job(str(plain)), streams)).message

    async def test_no_working_directory(self, marked: Marked, streams: Streams) -> None:
        spec = marked.job("true")
        assert "/no/such" in (await refusal(JobSpec(spec.argv, spec.env, "/no/such"), streams)).message

    @pytest.mark.parametrize(
        "spec",
        [
            JobSpec((), {}, "/"),
            JobSpec(("",), {}, "/"),
            JobSpec(("x",) * 257, {}, "/"),
            JobSpec(("a\0b",), {}, "/"),
            JobSpec(("a", "\ud800"), {}, "/"),
            JobSpec(("a",), {"": "x"}, "/"),
            JobSpec(("a",), {"A=B": "x"}, "/"),
            JobSpec(("a",), {"A": "\0"}, "/"),
            JobSpec(("a",), {}, "here"),
            JobSpec(("a",), {}, "/", {"relative": "0" * 64}),
            JobSpec(("a",), {}, "/", {"/a": "0" * 63}),
            JobSpec(("a",), {}, "/", {"/a": "A" * 64}),
            JobSpec(("a",), {}, "/", {f"/{n}": "0" * 64 for n in range(257)}),
            JobSpec(("a", "x" * (17 << 20)), {}, "/"),
        ],
    )
    async def test_what_no_job_can_mean(self, streams: Streams, spec: JobSpec) -> None:
        assert (await refusal(spec, streams)).code == "job.malformed"

    @pytest.mark.parametrize("name", ["lease_s", "max_runtime_s", "grace_s"])
    @pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e9])
    async def test_times_that_are_none(self, marked: Marked, streams: Streams, name: str, value: float) -> None:
        assert (await refusal(marked.job("true"), streams, **{name: value})).code == "job.malformed"

    @pytest.mark.parametrize("name", ["lease_s", "max_runtime_s"])
    async def test_a_time_of_zero_is_no_time(self, marked: Marked, streams: Streams, name: str) -> None:
        assert (await refusal(marked.job("true"), streams, **{name: 0.0})).code == "job.malformed"

    async def test_a_lease_that_ends_before_the_start_starts_nothing(
        self, marked: Marked, streams: Streams, tmp_path: Path
    ) -> None:
        trace = tmp_path / "ran"
        refused = await refusal(marked.job("touch", str(trace)), streams, lease_s=0.001)
        assert refused.code == "lease.expired"
        assert not trace.exists()

    async def test_a_start_that_is_cancelled_leaves_nothing(self, marked: Marked, streams: Streams) -> None:
        for delay in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03):
            starting = asyncio.create_task(start(marked.job("sleep", "600"), streams))
            await asyncio.sleep(delay)
            if starting.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await starting
            else:
                await (await starting).interrupt("too late")
            await until_async(lambda: not marked.alive(), "nothing runs")
            assert not zombies()

    async def test_no_descriptor_is_left_open(self, marked: Marked, streams: Streams) -> None:
        await run(marked.job("true"), streams)
        before = open_descriptors()
        await run(marked.job("true"), streams)
        await refusal(marked.job("no-such-program"), streams)
        await refusal(JobSpec(("a", "x" * (17 << 20)), {}, "/"), streams)
        assert open_descriptors() == before
