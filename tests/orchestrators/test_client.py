"""An orchestrator's client: decided once, verified here, followed, proved; and a no wherever anything is missing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority
from tests.support.agent_in_process import MachineInProcess
from ztrooted.client import Denied, Refused, Unauthenticated, Unavailable
from ztrooted.client import orchestrator as module
from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.client.orchestrator import LeaseLostError, Orchestrator
from ztrooted.client.orchestrators import OrchestratorCalls
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.keys import spki
from ztrooted.log_memory import LogMemory
from ztrooted.outcome import JobFailed, Killed
from ztrooted.request_rate import RequestRate
from ztrooted.work import describe

NOBODY = "ex-" + "0" * 32

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(shared_machine: MachineInProcess) -> MachineInProcess:
    """One for all: each test leaves it trusted, and counts from where it began."""
    return shared_machine


class Between:
    """Between a client and the gateway. ``lose``: while it says so, answers get lost; ``mute``: all is swallowed."""

    def __init__(self, port: int, *, lose: Callable[[], bool] = lambda: False, mute: bool = False) -> None:
        self.lose, self.mute, self.port = lose, mute, port
        self.seen = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: set[Any] = set()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen += 1
        self.tasks.add(asyncio.current_task())
        self.writers.append(writer)
        with suppress(ConnectionError):
            if self.mute:
                await reader.read()
                return
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writers.append(to_writer)
            forth = asyncio.create_task(self._copy(reader, to_writer, lossy=False))
            try:
                await self._copy(to_reader, writer, lossy=True)
            finally:
                forth.cancel()
                await asyncio.gather(forth, return_exceptions=True)
                writer.close()
                to_writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        while data := await reader.read(1 << 16):
            if lossy and self.lose():
                return
            writer.write(data)

    def cut(self) -> None:
        """Break every connection there is."""
        for writer in self.writers:
            writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.pass_on, "127.0.0.1", 0)
        try:
            yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            writers = list(self.writers)
            self.cut()
            await asyncio.gather(*self.tasks, *(one.wait_closed() for one in writers), return_exceptions=True)
            await asyncio.sleep(0.05)  # the other ends are in this loop too, and have to hear of it before it ends


TRUE = describe(["/bin/true"], workflow="w", run="1", step="s")


async def test_a_job_is_authorized_run_and_proved(machine: MachineInProcess) -> None:
    async with await machine.orchestrator() as orchestrator:
        outcome = await orchestrator.run(machine.work("whole", "/bin/true"), machine.id, machine.agent)
        failed = await orchestrator.run(machine.work("fails", "/bin/false"), machine.id, machine.agent, prove=False)
    assert outcome.succeeded
    assert outcome.proved, outcome.report and outcome.report.failed
    assert failed.proved is False
    with pytest.raises(JobFailed, match="exit status 1"):
        failed.demand()


async def test_a_no_is_typed_by_what_it_is(machine: MachineInProcess, tmp_path: Any) -> None:
    gate = machine.gate
    named = {"ca": gate.ca, "anchors": gate.anchors(), "state": tmp_path}
    async with Orchestrator(gate.url, token=await gate.token("orchestrator"), **named) as orchestrator:
        with pytest.raises(Denied) as denied:
            await orchestrator.authorize(TRUE, NOBODY)
        assert denied.value.reason == "dispatch.executor_unknown"
        assert denied.value.authorization
    async with Orchestrator(gate.url, token="zt-nobody", **named) as orchestrator:
        with pytest.raises(Unauthenticated) as unknown:
            await orchestrator.authorize(TRUE, NOBODY)
        assert unknown.value.reason == "auth.credential_invalid"
        assert unknown.value.remedy
    async with Orchestrator(gate.url, token=await gate.token("auditor"), **named) as orchestrator:
        with pytest.raises(Refused, match=r"auth\.role"):
            await orchestrator.authorize(TRUE, NOBODY)
    over = await gate.token("orchestrator", "over", life_ms=1)
    async with Orchestrator(gate.url, token=over, **named) as orchestrator:
        with pytest.raises(Unauthenticated, match=r"auth\.credential_invalid"):
            await orchestrator.authorize(TRUE, NOBODY)
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(Authority.create("stranger", datetime.now(UTC)).pem())
    async with Orchestrator(gate.url, token=over, **(named | {"ca": stranger})) as orchestrator:
        with pytest.raises(EnvironmentProblem) as unknown_certificate:
            await orchestrator.authorize(TRUE, NOBODY)
    assert unknown_certificate.value.reason == "environment.tls"
    assert "ca.pem" in unknown_certificate.value.remedy


async def test_a_lost_answer_is_asked_for_again_and_decided_once(machine: MachineInProcess) -> None:
    lost: list[bool] = []
    before = len(machine.gate.records("dispatch.requested"))
    issued = len(machine.gate.records("authorization.issued"))

    def lose() -> bool:
        """The first two answers that come once it is decided."""
        decided = len(machine.gate.records("authorization.issued")) > issued and len(lost) < 2
        lost.extend([True] * decided)
        return decided

    between = Between(machine.gate.port, lose=lose)
    async with between.serving() as url, await machine.orchestrator(url) as orchestrator:
        dispatch = await orchestrator.authorize(TRUE, machine.id)
    assert between.seen >= 3
    assert len(machine.gate.records("dispatch.requested")) == before + 1
    granted = machine.gate.records("authorization.issued")[issued:]
    assert [one["authorization"] for one in granted] == [dispatch.authorization]


async def test_no_answer_in_time_is_a_no(machine: MachineInProcess, tmp_path: Any) -> None:
    gate = machine.gate
    before = len(gate.records("dispatch.requested"))
    named: Any = {
        "ca": gate.ca,
        "anchors": gate.anchors(),
        "state": tmp_path,
        "token": await gate.token("orchestrator"),
    }
    async with Between(gate.port, mute=True).serving() as hung:
        for url in (hung, "https://127.0.0.1:1"):
            async with Orchestrator(url, **named) as orchestrator:
                with pytest.raises(EnvironmentProblem) as problem:
                    await orchestrator.authorize(TRUE, NOBODY, within_s=0.3)
            assert problem.value.reason == "environment.gateway_unreachable"
    assert len(gate.records("dispatch.requested")) == before


@asynccontextmanager
async def limited(machine: MachineInProcess, wait_s: int) -> AsyncIterator[list[float]]:
    """A gateway that says Retry-After until somebody waits; the seconds that were waited."""
    waits: list[float] = []
    with pytest.MonkeyPatch.context() as changed:

        async def wait(seconds: float) -> None:
            waits.append(seconds)
            changed.undo()

        rate = RequestRate(1 / wait_s, 1, lambda: 0.0)
        assert rate.take("orchestrator:flows")
        changed.setattr(machine.gate.gateway.rates, "_people", rate)
        changed.setattr(module, "_wait", wait)
        yield waits


async def test_a_gateway_that_limits_is_asked_again_when_it_says_and_decides_once(
    machine: MachineInProcess,
) -> None:
    before = len(machine.gate.records("dispatch.requested"))
    async with await machine.orchestrator() as orchestrator:
        async with limited(machine, 7) as waits:
            dispatch = await orchestrator.authorize(TRUE, machine.id)
        assert len(machine.gate.records("dispatch.requested")) == before + 1
        async with limited(machine, 9) as more:
            assert (await anext(orchestrator.watch(dispatch))).type == "authorization.issued"
    (asked,), (watched,) = waits, more
    assert 7 < asked <= 7 + module.PAUSE_S[0]
    assert 9 < watched <= 9 + module.PAUSE_S[0]


async def test_a_gateway_that_limits_for_longer_than_there_is_time_has_said_no(
    machine: MachineInProcess,
) -> None:
    before = len(machine.gate.records("dispatch.requested"))
    async with await machine.orchestrator() as orchestrator, limited(machine, 3600) as waits:
        with pytest.raises(Unavailable) as refused:
            await orchestrator.authorize(TRUE, machine.id)
    assert (refused.value.reason, refused.value.retry_after_s, waits) == ("request.rate", 3600, [])
    assert len(machine.gate.records("dispatch.requested")) == before


async def test_a_yes_of_another_gateway_is_none(
    machine: MachineInProcess, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate and its token are good, and its log key is not the anchored one."""
    anchors = machine.anchors
    other = replace(anchors.log_key, material=spki(ec.generate_private_key(ec.SECP256R1()).public_key()))
    named: Any = {"ca": machine.gate.ca, "state": tmp_path, "token": await machine.gate.token("orchestrator")}
    async with Orchestrator(machine.gate.url, anchors=replace(anchors, log_key=other), **named) as orchestrator:
        with pytest.raises(ProofError) as refused:
            await orchestrator.authorize(TRUE, machine.id)
    assert refused.value.reason == "lineage.key"


async def test_a_feed_that_breaks_is_resumed_and_a_revocation_ends_the_job(machine: MachineInProcess) -> None:
    work, beats = machine.beats("followed")
    between = Between(machine.gate.port)
    async with between.serving() as url, await machine.orchestrator(url) as orchestrator:
        dispatch = await orchestrator.authorize(work, machine.id)
        seen: list[str] = []

        async def watch() -> None:
            async for event in orchestrator.watch(dispatch):
                seen.append(event.type)
                if event.type == "execution.started":
                    between.cut()

        watching = asyncio.create_task(watch())
        process = await machine.agent.start(dispatch.ticket)
        await beats.beating()
        async with asyncio.timeout(20):
            while "execution.started" not in seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await machine.revoke(dispatch.authorization)
        outcome = await orchestrator.follow(dispatch, process)
        await asyncio.wait_for(watching, 10)
    assert outcome.reason == "operator.revoked"
    with pytest.raises(Killed, match=r"operator\.revoked"):
        outcome.demand()
    assert len(seen) == len(set(seen)) or seen.count("attestation.passed") > 1
    assert seen[-1] == "execution.closed"
    assert "authorization.revoked" in seen
    assert await beats.still()


async def test_a_lease_of_which_nothing_is_heard_is_lost_by_the_clock_here(
    machine: MachineInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, beats = machine.beats("unheard")
    monkeypatch.setattr(module, "MARGIN_S", -89.0)  # of a lease of 90 s: one second is left
    between = Between(machine.gate.port)
    async with between.serving() as url, await machine.orchestrator(url) as orchestrator:
        dispatch = await orchestrator.authorize(work, machine.id)
        process = await machine.agent.start(dispatch.ticket)
        await beats.beating()
        between.mute = True
        between.cut()
        began = time.monotonic()
        with pytest.raises(LeaseLostError):
            async for _ in orchestrator.watch(dispatch):
                pass
        assert time.monotonic() - began > 0.5
        outcome = await orchestrator.follow(dispatch, process)
    assert (outcome.outcome, outcome.reason) == ("killed", "lease.expired")
    assert await beats.still()


async def test_who_asks_without_a_loop_is_answered_too(machine: MachineInProcess) -> None:
    token = await machine.gate.token("orchestrator")
    work, agent = machine.work("blocking", "/bin/true"), machine.agent
    named: Any = {"ca": machine.gate.ca, "anchors": machine.anchors, "token": token, "state": machine.folder / "s"}

    def ask() -> tuple[bool, list[str]]:
        with BlockingOrchestrator(machine.gate.url, **named) as orchestrator:
            outcome = orchestrator.run(work, machine.id, agent)
            with pytest.raises(GateError):
                orchestrator.authorize(work, NOBODY)
            dispatch = orchestrator.authorize(work, machine.id)
            first = next(iter(orchestrator.watch(dispatch)))
            return outcome.proved, [first.type]

    assert await asyncio.to_thread(ask) == (True, ["authorization.issued"])


async def test_the_log_is_remembered_between_programs(machine: MachineInProcess) -> None:
    """The next program refuses a gateway whose log is another one at the same address."""
    async with await machine.orchestrator() as orchestrator:
        await orchestrator.authorize(TRUE, machine.id)
    (file,) = (machine.folder / "state").glob("seen-*.json")
    text = file.read_text()
    file.write_text(text.replace(machine.gate.gateway.config.origin, "other.test/lineage"))
    try:
        async with await machine.orchestrator() as orchestrator:
            with pytest.raises(ProofError) as refused:
                await orchestrator.authorize(TRUE, machine.id)
    finally:
        file.write_text(text)
    assert refused.value.reason == "checkpoint.origin"


async def test_a_log_known_from_another_address_is_remembered_at_this_one(machine: MachineInProcess) -> None:
    """Although it has not grown since: nothing but the address is new."""
    gate = machine.gate
    named = {"ca": gate.ca, "token": await gate.token("orchestrator", "flows"), "state": machine.folder / "state"}
    async with await machine.orchestrator() as orchestrator:
        issued = await orchestrator.authorize(TRUE, machine.id)
    async with OrchestratorCalls(gate.url, **named) as client:
        known = await client.prove_log()
    async with Between(gate.port).serving() as url, OrchestratorCalls(url, **named) as client:
        await client.authorization(issued.authorization)
        kept = LogMemory(url, client.memory._file)
    assert kept.seen(known.origin) == known
    assert kept.placed(known.origin)
