"""The same promises, asked of every adapter, and looked at from outside: a file that the work writes, or does not."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import Adapter, Apart, Message
from tests.orchestrators.adapters import ADAPTERS, Governed
from tests.support.agent_in_process import Beats, MachineInProcess
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.ticket import Ticket, parse_ticket

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180, func_only=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(ADAPTERS))
async def adapter(request: pytest.FixtureRequest, shared_machine: MachineInProcess) -> AsyncIterator[Adapter]:
    """Each adapter in turn, with a machine that is trusted."""
    if reason := ADAPTERS[request.param].absent():
        pytest.skip(reason)
    made = ADAPTERS[request.param](shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


def ticket_of(message: Message) -> Ticket:
    return parse_ticket(message.ticket)


async def refused(work: Any, *reasons: str) -> str:
    """Wait for something that does not come to a good end; the orchestrator shows one of these reasons."""
    with pytest.raises(Exception, match="|".join(re.escape(reason) for reason in reasons)) as found:
        await work
    return str(found.value)


async def running(adapter: Adapter, base: Path) -> tuple[Beats, "asyncio.Task[Any]"]:
    """Something that beats."""
    beats = Beats(base)
    work = asyncio.create_task(adapter.run(await adapter.hand_out("beats", base)))
    await beats.beating()
    return beats, work


async def test_what_is_allowed_runs_and_tells_its_result(adapter: Adapter, tmp_path: Path) -> None:
    assert await adapter.whole("write", tmp_path / "file") == "done"
    assert (tmp_path / "file").read_text() == "done"


async def test_what_is_denied_is_not_handed_out_and_without_a_ticket_nothing_runs(
    adapter: Adapter, tmp_path: Path
) -> None:
    await adapter.machine.drift()
    try:
        await refused(adapter.hand_out("write", tmp_path / "file"), "ima.not_allowed")
        around = Message("write", tmp_path / "file", "0" * 32, None)
        told = await refused(adapter.run(around), "request.malformed")
        assert "nothing permits it" in told
    finally:
        await adapter.machine.trust()
    assert not (tmp_path / "file").exists()


async def test_a_gateway_that_is_down_or_hangs_is_a_no(adapter: Adapter, tmp_path: Path) -> None:
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        for url in ("https://127.0.0.1:1", f"https://127.0.0.1:{hung.getsockname()[1]}"):
            asked = adapter.hand_out("write", tmp_path / "file", url=url)
            await refused(asked, "environment.gateway_unreachable")
    assert not (tmp_path / "file").exists()


async def test_nobody_and_somebody_unknown_are_not_anybody(adapter: Adapter, tmp_path: Path) -> None:
    await refused(adapter.hand_out("write", tmp_path / "file", executor="elsewhere"), "dispatch.executor_unknown")
    with pytest.raises(Exception, match="empty"):
        ExecutorSet({})


async def test_a_forged_artifact_and_one_of_another_job_run_nothing(adapter: Adapter, tmp_path: Path) -> None:
    message = await adapter.hand_out("write", tmp_path / "file")
    other = await adapter.hand_out("write", tmp_path / "other")
    good = ticket_of(message)
    head, payload, signature = good.artifact.split(".")
    flipped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    forged = good.model_copy(update={"artifact": f"{head}.{payload}.{flipped}"})
    swapped = good.model_copy(update={"artifact": ticket_of(other).artifact})
    await refused(adapter.run(adapter.other(message, forged.encode())), "jws.signature")
    await refused(adapter.run(adapter.other(message, swapped.encode())), "jws.job")
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("other_file", ["other", "file"])
async def test_a_ticket_of_another_job_runs_neither(adapter: Adapter, tmp_path: Path, other_file: str) -> None:
    """Each is good by itself; where the two calls are the same, only whose they are tells them apart."""
    if adapter.compared == "" or (adapter.compared, other_file) == ("call", "file"):
        pytest.skip("nobody carries a ticket here, or it has no other run than what comes with it")
    message = await adapter.hand_out("write", tmp_path / "file")
    other = await adapter.hand_out("write", tmp_path / other_file)
    await refused(adapter.run(adapter.other(message, other.ticket)), "job.mismatch")
    assert not any((tmp_path / name).exists() for name in ("file", "other"))
    assert await adapter.run(other) == "done", "it is good where it belongs"


async def test_what_runs_has_no_token_and_is_told_of_no_gateway(adapter: Adapter, tmp_path: Path) -> None:
    if not isinstance(adapter, Governed) and (not isinstance(adapter, Apart) or adapter.environment == ""):
        pytest.skip("it runs scripts, whose environment is in a test of their own")
    await adapter.whole("variables", tmp_path / "file")
    assert set((tmp_path / "file").read_text().split()) <= {"ZTROOTED_AIRFLOW_TASK", "ZTROOTED_GOVERNED"}


async def test_a_revocation_stops_it_and_the_same_ticket_starts_nothing_again(adapter: Adapter, tmp_path: Path) -> None:
    message = await adapter.hand_out("beats", tmp_path / "first")
    beats, work = Beats(tmp_path / "first"), asyncio.create_task(adapter.run(message))
    await beats.beating()
    issued = adapter.machine.gate.records("authorization.issued")[-1]["authorization"]
    await adapter.machine.revoke(issued)
    await refused(work, "operator.revoked")
    assert await beats.still()
    last = beats.last_ns()
    await refused(adapter.run(message), "artifact.used")
    assert beats.last_ns() == last
    assert await adapter.whole("write", tmp_path / "again") == "done", "another dispatch is another question"


async def test_a_drift_stops_it(adapter: Adapter, tmp_path: Path) -> None:
    beats, work = await running(adapter, tmp_path / "drifts")
    try:
        await adapter.machine.drift()
        await refused(work, "ima.not_allowed", "attestation.drift")
        assert await beats.still()
    finally:
        await adapter.machine.trust()
