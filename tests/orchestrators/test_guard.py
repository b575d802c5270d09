"""A job is held from outside of its agent too: by tickets that verify, by the lease, by the kernel."""

import asyncio
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.agent_in_process import MachineInProcess
from ztrooted import limits
from ztrooted.control_messages import ExecRenewed
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard import process as guarded
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.process import Streams
from ztrooted.outcome import NotStarted
from ztrooted.ticket import Ticket, parse_ticket, verify_ticket

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(shared_machine: MachineInProcess) -> MachineInProcess:
    """One for all: each test leaves it trusted, and counts from where it began."""
    return shared_machine


async def ticket_of(machine: MachineInProcess, work: Any) -> Ticket:
    async with await machine.orchestrator() as orchestrator:
        return (await orchestrator.authorize(work, machine.id)).ticket


async def test_a_job_runs_with_the_streams_it_is_given(machine: MachineInProcess, tmp_path: Path) -> None:
    work = machine.work("cat", "/bin/sh", "-c", "cat; echo $0 >&2; exit 3", "end")
    (tmp_path / "in").write_text("hello\n")
    ticket = await ticket_of(machine, work)
    with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = await machine.agent.start(ticket, Streams(given.fileno(), out.fileno(), err.fileno()))
        outcome = await process.wait()
    assert (outcome.outcome, outcome.exit_status) == ("exited", 3)
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("hello\n", "end\n")
    with pytest.raises(NotStarted) as refused:
        await machine.agent.start(ticket)
    assert refused.value.reason == "artifact.used"
    assert "new authorization" in str(refused.value), "the remedy is where the error is shown"


REFUSED = {
    "signature": "jws.signature",
    "other job": "jws.job",
    "other executor": "jws.executor",
    "environment": "job.mismatch",
    "issuer": "lineage.key",
    "nothing": "request.malformed",
    "too much": "request.malformed",
}


async def test_a_ticket_that_does_not_verify_starts_nothing(machine: MachineInProcess) -> None:
    """Nobody is asked: the socket that is named here does not even exist."""
    work, beats = machine.beats("forged")
    good = await ticket_of(machine, work)
    other = await ticket_of(machine, machine.work("other", "/bin/true"))
    head, payload, signature = good.artifact.split(".")
    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    forged = good.issuers[0].model_copy(update={"signature": good.issuers[0].signature[:-1] + b"x"})
    changes: dict[str, dict[str, Any]] = {
        "signature": {"artifact": f"{head}.{payload}.{flipped}"},
        "other job": {"artifact": other.artifact},
        "environment": {"env": {"PATH": "/tmp"}},
        "issuer": {"issuers": [forged]},
    }
    for what, reason in REFUSED.items():
        executor = "ex-" + "0" * 32 if what == "other executor" else machine.id
        agent = LocalAgent(machine.anchors, executor, Path("/nonexistent"))
        arrived = {"nothing": None, "too much": b" " * (limits.BODY + 1)}
        sent = good.model_copy(update=changes.get(what, {})).encode()
        with pytest.raises(GateError) as refused:
            await agent.start(parse_ticket(arrived.get(what, sent)))
        assert (what, str(refused.value.reason)) == (what, reason)
    assert not beats.started


async def test_a_clock_that_is_off_here_is_a_no(machine: MachineInProcess) -> None:
    """An hour before its time or after it, whoever's clock is wrong."""
    ticket = await ticket_of(machine, machine.work("clock", "/bin/true"))
    now = int(time.time())
    for at, reason in ((now - 3600, "jws.not_yet_valid"), (now + 3600, "jws.expired")):
        with pytest.raises(GateError) as refused:
            verify_ticket(ticket, machine.anchors, now=at, executor=machine.id)
        assert str(refused.value.reason) == reason
        assert NotStarted.of(refused.value).remedy, "what to do about it is told where the work would have run"


async def test_an_agent_that_is_absent_or_says_nothing_is_a_no_in_time(
    machine: MachineInProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ztrooted.guard.agent.START_S", 0.2)
    ticket = await ticket_of(machine, machine.work("silent", "/bin/true"))
    silent = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(silent))
        listening.listen()
        for path in (silent, Path("/nonexistent")):
            with pytest.raises(EnvironmentProblem) as problem:
                await LocalAgent(machine.anchors, machine.id, path).start(ticket)
            assert problem.value.reason == "execution.agent_lost"


async def test_a_revocation_kills_the_grandchildren_too(machine: MachineInProcess) -> None:
    work, beats = machine.beats("revoked")
    process = await machine.agent.start(await ticket_of(machine, work))
    await beats.beating()
    await machine.revoke(process.authorization)
    outcome = await process.wait()
    assert (outcome.outcome, outcome.reason) == ("killed", "operator.revoked")
    assert await beats.still()


async def test_a_kill_needs_no_agent(machine: MachineInProcess) -> None:
    """The agent is in this process, and as long as its loop is held up only the kernel can have ended the job."""
    work, beats = machine.beats("killed")
    process = await machine.agent.start(await ticket_of(machine, work))
    await beats.beating()
    process.kill("operator.revoked")
    time.sleep(0.05)  # noqa: ASYNC251
    before = beats.last_ns()
    time.sleep(0.05)  # noqa: ASYNC251
    assert beats.last_ns() == before
    assert (await process.wait()).reason == "operator.revoked"


async def test_the_local_deadline_ends_it_when_no_renewal_is_believed(
    machine: MachineInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent believes that the lease is renewed, and goes on; here it is not."""
    work, beats = machine.beats("deadline")
    ticket = await ticket_of(machine, work)
    real = guarded.verify_renewed

    def forged(*arguments: Any, **named: Any) -> Any:
        return real(*arguments, **(named | {"previous": "another artifact"}))

    monkeypatch.setattr(guarded, "verify_renewed", forged)
    process = await machine.agent.start(ticket)
    await beats.beating()
    process._lease_until = guarded._now() + 0.2  # what is left of it
    await machine.prove()
    outcome = await process.wait()
    assert (outcome.outcome, outcome.reason) == ("killed", "lease.expired")
    assert await beats.still()


async def test_renewals_that_verify_move_the_deadline_and_leaving_ends_it(machine: MachineInProcess) -> None:
    work, beats = machine.beats("renewed")
    async with await machine.agent.start(await ticket_of(machine, work)) as process:
        await beats.beating()
        for n in range(1, 4):
            await machine.prove()
            async with asyncio.timeout(20):
                while process._claims.ren.n < n + 1:  # noqa: ASYNC110 -- the first comes with the activation
                    await asyncio.sleep(0.01)
        before = process._lease_until
        introduction = machine.gate.gateway.signer.introductions()[-1]
        process._renew(ExecRenewed(artifact=process._token, issuer=introduction, left_ms=600_000))
        assert process._lease_until == before, "the same artifact again is no renewal"
    assert await beats.still()


async def test_a_signal_is_passed_on(machine: MachineInProcess) -> None:
    process = await machine.agent.start(await ticket_of(machine, machine.work("signal", "/bin/sleep", "600")))
    process.signal(signal.SIGTERM)
    outcome = await process.wait()
    assert (outcome.outcome, outcome.signal) == ("exited", signal.SIGTERM)
