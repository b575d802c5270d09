"""What a job gets, when it ends, and how. No test measures time: what matters is what is over before what."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import (
    LONG,
    PATH,
    PATIENCE_S,
    SHORT,
    STUBBORN,
    Marked,
    Streams,
    exists,
    run,
    start,
    stubborn,
    zombies,
)
from ztrooted.executor.supervisor import JobSpec, Supervisor, SupervisorError


class TestWhatTheJobGets:
    @pytest.mark.parametrize("status", [0, 1, 42, 127, 255])
    async def test_its_exit_status_is_passed_on(self, marked: Marked, streams: Streams, status: int) -> None:
        end = await run(marked.job("sh", "-c", f"exit {status}"), streams)
        assert (end.outcome, end.exit_status, end.signal, end.reason) == ("exited", status, None, "exited")
        assert end.enforcement.startswith("pid-namespace")
        assert end.ended_monotonic_ns <= time.monotonic_ns()
        assert not zombies()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGINT])
    async def test_a_signal_it_sends_itself_ends_it_as_it_ends_any_program(
        self, marked: Marked, streams: Streams, number: int
    ) -> None:
        end = await run(marked.job("sh", "-c", f"ulimit -c 0; kill -{int(number)} $$; exit 9"), streams)
        assert (end.outcome, end.exit_status, end.signal, end.reason) == ("exited", None, number, "exited")

    async def test_its_environment_is_the_given_one_and_nothing_else(self, marked: Marked, streams: Streams) -> None:
        await run(marked.job("/usr/bin/env", "-0", ODD="a=b\nc \udcff"), streams)
        os.close(streams.write)
        streams.write = -1
        seen = os.read(streams.read, 65536).rstrip(b"\0").split(b"\0")
        assert sorted(seen) == sorted([b"PATH=" + PATH.encode(), b"MARK=" + marked.mark.encode(), b"ODD=a=b\nc \xff"])

    async def test_its_arguments_and_working_directory(self, marked: Marked, streams: Streams, tmp_path: Path) -> None:
        spec = marked.job("sh", "-c", 'pwd; printf "%s|" "$0" "$@"', "", "two words", "ü")
        await run(JobSpec(spec.argv, spec.env, str(tmp_path)), streams)
        assert streams.text() == f"{tmp_path}\n|two words|ü|"

    async def test_its_three_streams_are_the_given_ones(self, marked: Marked, tmp_path: Path) -> None:
        files = [tmp_path / name for name in ("in", "out", "err")]
        files[0].write_text("hello")
        fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in files]
        spec = marked.job("sh", "-c", "cat; echo wrong >&2; ls /proc/self/fd")
        running = await Supervisor.start(spec, lease_s=LONG, max_runtime_s=LONG, stdio=(fds[0], fds[1], fds[2]))
        await running.wait()
        for fd in fds:
            os.close(fd)  # the caller's own are still open
        assert files[1].read_text().split() == ["hello0", "1", "2", "3"]  # 3 is the directory that ls reads
        assert files[2].read_text() == "wrong\n"

    async def test_streams_below_three_are_passed_on_too(self, marked: Marked) -> None:
        running = await Supervisor.start(marked.job("true"), lease_s=LONG, max_runtime_s=LONG, stdio=(0, 1, 2))
        assert (await running.wait()).exit_status == 0

    async def test_a_reader_sees_the_end_of_output_when_the_job_closes_it(
        self, marked: Marked, streams: Streams
    ) -> None:
        running = await start(marked.job("sh", "-c", "exec >&- 2>&-; exec sleep 600"), streams)
        assert await asyncio.wait_for(asyncio.to_thread(streams.text), PATIENCE_S) == ""
        assert (await running.interrupt("over")).reason == "over"

    async def test_it_starts_with_default_signal_handling(self, marked: Marked, streams: Streams) -> None:
        """Python ignores SIGPIPE; were that passed on, ``yes | head`` would behave oddly in every job."""
        await run(marked.job("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"), streams)
        assert {line.split()[1] for line in streams.text().splitlines()} == {"0" * 16}

    async def test_it_is_no_init_and_sees_no_other_processes(self, marked: Marked, streams: Streams) -> None:
        visible = "sorted(int(p) for p in os.listdir('/proc') if p.isdigit())"
        source = f"import os; print(os.getpid() != 1, os.getppid(), {visible})"
        running = await start(marked.python(source), streams)
        await running.wait()
        if running.enforcement.endswith("host-proc"):
            pytest.skip("this machine does not let a namespace have its own /proc")
        assert streams.text() == "True 1 [1, 2]\n"

    async def test_its_orphans_are_buried(self, marked: Marked, streams: Streams) -> None:
        source = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.wait()
until = time.monotonic() + 10
def left():
    return [p for p in os.listdir('/proc') if p.isdigit() and int(p) > 2]
while left() and time.monotonic() < until:
    time.sleep(0.01)
print(left())
"""
        running = await start(marked.python(source), streams)
        await running.wait()
        if running.enforcement.endswith("host-proc"):
            pytest.skip("this machine does not let a namespace have its own /proc")
        assert streams.text() == "[]\n"

    async def test_it_cannot_end_its_init_with_signals(self, marked: Marked, streams: Streams) -> None:
        end = await run(
            marked.job("sh", "-c", "for s in INT TERM HUP USR1 CHLD STOP KILL; do kill -$s 1; done; exit 5"), streams
        )
        assert (end.outcome, end.exit_status) == ("exited", 5)

    async def test_what_it_leaves_running_ends_with_it(self, marked: Marked, streams: Streams) -> None:
        """The job is over when its first process is: a daemon would run without a lease."""
        source = STUBBORN[: STUBBORN.rindex("time.sleep")]
        end = await run(marked.python(source + "os._exit(7)"), streams)
        assert (end.outcome, end.exit_status) == ("exited", 7)
        assert not marked.alive()


class TestLease:
    async def test_it_ends_by_itself(self, marked: Marked, streams: Streams) -> None:
        running = await stubborn(marked, streams, lease_s=3.0)
        end = await running.wait()
        assert (end.outcome, end.exit_status, end.signal, end.reason) == (
            "killed",
            None,
            signal.SIGKILL,
            "lease.expired",
        )
        assert not marked.alive()
        assert not zombies()

    async def test_no_grace_beyond_its_end(self, marked: Marked, streams: Streams) -> None:
        """The lease's end is the grace: a job that handles SIGTERM does not hear of it first."""
        spec = marked.job("sh", "-c", "trap 'echo heard' TERM; sleep 600 & wait; wait")
        end = await run(spec, streams, lease_s=SHORT, grace_s=LONG)
        assert (end.reason, streams.text()) == ("lease.expired", "")

    async def test_renewals_extend_it_and_their_end_ends_it(self, marked: Marked, streams: Streams) -> None:
        began = time.monotonic()
        running = await start(marked.job("sleep", "600"), streams, lease_s=SHORT)
        while time.monotonic() < began + 2 * SHORT:
            running.renew(SHORT)
            await asyncio.sleep(0.05)
            assert exists(running.init_pid)
        assert (await running.wait()).reason == "lease.expired"

    async def test_the_end_of_the_runtime_is_no_matter_of_renewals(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.job("sleep", "600"), streams, max_runtime_s=SHORT)
        waiting = asyncio.create_task(running.wait())
        while not waiting.done():
            running.renew(LONG)
            await asyncio.sleep(0.02)
        assert waiting.result().reason == "max_runtime"
        assert not marked.alive()

    async def test_a_renewal_can_shorten_it(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.job("sleep", "600"), streams)
        running.renew_until(time.monotonic() - 1)
        assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "lease.expired"

    @pytest.mark.parametrize("lease", [606.0, 1e12, float("inf"), float("nan")])
    async def test_a_lease_longer_than_any_artifact_is_refused_and_the_present_one_stands(
        self, marked: Marked, streams: Streams, lease: float
    ) -> None:
        running = await start(marked.job("sleep", "600"), streams, lease_s=SHORT)
        with pytest.raises(SupervisorError):
            running.renew(lease)
        assert (await running.wait()).reason == "lease.expired"

    async def test_renewing_a_job_that_is_over_does_nothing(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.job("true"), streams)
        end = await running.wait()
        running.renew(LONG)
        running.renew(float("nan"))
        assert await running.wait() == end

    async def test_renewals_nobody_takes_are_an_error_and_not_a_wait(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.job("sleep", "600"), streams)
        os.kill(running.guard_pid, signal.SIGSTOP)

        def renew_often() -> None:
            for _ in range(100_000):
                running.renew(LONG)

        with pytest.raises(SupervisorError, match="does not take renewals"):
            renew_often()
        assert (await asyncio.wait_for(running.interrupt("stuck"), PATIENCE_S)).reason == "stuck"


class TestInterrupt:
    async def test_the_whole_tree_is_dead_when_it_returns(self, marked: Marked, streams: Streams) -> None:
        running = await stubborn(marked, streams)
        end = await running.interrupt("attestation.drift")
        assert not marked.alive()
        assert (end.outcome, end.signal, end.reason) == ("killed", signal.SIGKILL, "attestation.drift")
        assert not exists(running.guard_pid)
        assert not exists(running.init_pid)
        assert not zombies()

    async def test_who_ignores_the_grace_is_killed_after_it(self, marked: Marked, streams: Streams) -> None:
        running = await stubborn(marked, streams, grace_s=0.3)
        end = await running.interrupt("operator.revoked")
        assert not marked.alive()
        assert (end.outcome, end.signal, end.reason) == ("killed", signal.SIGKILL, "operator.revoked")

    async def test_who_uses_the_grace_ends_with_its_own_status(self, marked: Marked, streams: Streams) -> None:
        spec = marked.job("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done")
        running = await start(spec, streams, grace_s=LONG)
        assert await asyncio.to_thread(os.read, streams.read, 3) == b"up\n"
        end = await running.interrupt("operator.revoked")
        assert (end.outcome, end.exit_status, end.signal, end.reason) == ("killed", 3, None, "operator.revoked")
        assert "bye" in streams.text()

    async def test_the_grace_reaches_processes_in_other_sessions(self, marked: Marked, streams: Streams) -> None:
        source = """
import os, signal, sys, time
def bye(*_):
    os.write(1, b"orphan heard\\n")  # print() may not be entered again from a handler
    os._exit(0)
signal.signal(signal.SIGTERM, lambda *_: None)
pid = os.fork()
if pid == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, bye)
    os.write(1, b"up\\n")
    time.sleep(600)
os.waitpid(pid, 0)
"""
        running = await start(marked.python(source), streams, grace_s=LONG)
        assert await asyncio.to_thread(os.read, streams.read, 3) == b"up\n"
        await running.interrupt("over")
        assert "orphan heard" in streams.text()

    async def test_a_plain_program_obeys_sigterm(self, marked: Marked, streams: Streams) -> None:
        """As PID 1 of its namespace ``sleep`` would never hear it; the test would end by the time limit."""
        end = await (await start(marked.job("sleep", "600"), streams, grace_s=LONG)).interrupt("over")
        assert (end.outcome, end.signal) == ("killed", signal.SIGTERM)

    async def test_a_grace_can_be_taken_back(self, marked: Marked, streams: Streams) -> None:
        running = await stubborn(marked, streams, grace_s=LONG)
        first = asyncio.create_task(running.interrupt("polite"))
        await asyncio.sleep(0.05)
        second = await running.interrupt("now", grace_s=0)
        assert await first == second
        assert second.reason == "polite"

    async def test_the_lease_goes_on_ending_during_a_grace(self, marked: Marked, streams: Streams) -> None:
        running = await stubborn(marked, streams, lease_s=3.0, grace_s=LONG)
        end = await asyncio.wait_for(running.interrupt("operator.revoked"), PATIENCE_S)
        assert end.reason == "operator.revoked"
        assert not marked.alive()

    async def test_several_may_wait(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.job("sleep", "600"), streams)
        waiters = [asyncio.create_task(running.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.gather(waiters[0], return_exceptions=True)
        assert exists(running.init_pid)
        end = await running.interrupt("over")
        assert await asyncio.gather(*waiters[1:]) == [end, end]

    async def test_a_job_that_is_over_stays_as_it_ended(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.job("sh", "-c", "exit 4"), streams)
        end = await running.wait()
        assert await running.interrupt("too late") == end
        assert end.reason == "exited"
