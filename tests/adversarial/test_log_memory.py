"""An older state of the gateway, restored with its TPM, is noticed by whoever talked to it before."""

import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace as changed
from pathlib import Path

import pytest

from gateway.app import DATABASE
from gateway.config import load_config
from gateway.recover import recover
from tests.support.executor import ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint
from ztrooted.client import GatewayClient
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.executor.agent import Agent, AgentConfig
from ztrooted.log_memory import HEADER, ConsistencyView, LogMemory, format_head, parse_head
from ztrooted.reasons import GateReason

pytestmark = pytest.mark.asyncio

SPLIT = GateReason.CHECKPOINT_SPLIT_VIEW


async def grow(gate: GatewayInProcess, count: int = 1) -> None:
    records = [gate.some_record() for _ in range(count)]
    await gate.gateway.database.write(lambda tx: [tx.append(one) for one in records])
    await gate.gateway.checkpointer.seal()


class Snapshot:
    """A copy of a stopped gateway's database and of its TPM's whole state."""

    def __init__(self, gate: GatewayInProcess, folder: Path) -> None:
        self._gate, self._folder = gate, folder

    def take(self) -> None:
        (self._folder / "tpm").mkdir()
        for path in self._gate.tpm.state.iterdir():
            if path.is_file():
                shutil.copy(path, self._folder / "tpm" / path.name)
        shutil.copy(self._gate.data / DATABASE, self._folder / DATABASE)

    def restore(self) -> None:
        self._gate.tpm.kill()
        for path in (self._folder / "tpm").iterdir():
            shutil.copy(path, self._gate.tpm.state / path.name)
        for name in (f"{DATABASE}-wal", f"{DATABASE}-shm"):
            (self._gate.data / name).unlink(missing_ok=True)
        shutil.copy(self._folder / DATABASE, self._gate.data / DATABASE)
        self._gate.tpm.start()


@pytest.fixture
def snapshot(gate: GatewayInProcess, tmp_path: Path) -> Snapshot:
    (tmp_path / "snapshot").mkdir()
    return Snapshot(gate, tmp_path / "snapshot")


async def roll_back(gate: GatewayInProcess, snapshot: Snapshot) -> None:
    """Back to the snapshot; the gateway serves, and does not notice."""
    await gate.stop()
    snapshot.restore()
    await gate.start()
    assert gate.gateway.not_ready() == []


async def taken(gate: GatewayInProcess, snapshot: Snapshot) -> None:
    await gate.stop()
    snapshot.take()
    await gate.start()


def client(gate: GatewayInProcess, token: str, state: Path) -> GatewayClient:
    return GatewayClient(gate.url, ca=gate.ca, token=token, state=state)


async def refusal(gate: GatewayInProcess, token: str, state: Path) -> ProofError:
    with pytest.raises(ProofError) as refused:
        async with client(gate, token, state) as asking:
            await asking.executors()
    return refused.value


async def test_every_answer_to_somebody_we_know_names_the_checkpoint(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator", "ci")
    await grow(gate)
    for path, status in (("/v1/authorizations", 200), ("/v1/authorizations/nothing-such", 404)):
        answer = await gate.call("GET", path, token=token)
        assert answer.status == status
        assert parse_head(answer.headers[HEADER]) == gate.gateway.checkpointer.head() == gate.checkpoint()
    for path in ("/livez", "/v1/authorizations", f"/v1/gateway/attestation?nonce={'ab' * 16}"):
        assert HEADER not in (await gate.call("GET", path)).headers, "who does not say who he is hears nothing"


async def test_consistency_is_for_everybody_we_know(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    old = gate.gateway.checkpointer.head()
    assert old is not None
    await grow(gate, 300)
    new = gate.gateway.checkpointer.head()
    assert new is not None
    path = f"/v1/log/consistency?from={old.size}"
    for role in ("orchestrator", "auditor", "operator"):
        token = await gate.token(role)
        await gate.gateway.checkpointer.seal()
        answer = await gate.call("GET", path, token=token)
        view = ConsistencyView.model_validate(answer.json)
        size = view.to_size
        proof = [bytes.fromhex(one) for one in view.hashes]
        merkle.verify_consistency(old.size, size, old.root, gate.checkpoint().root, proof)
        assert size == gate.checkpoint().size
        assert view.checkpoint.split("\n")[1] == str(size)
    assert (await gate.call("GET", path)).status == 401
    await executor.enroll()
    with executor.enrolled.client_certificate() as certificate:
        assert (await gate.call("GET", path, certificate=certificate)).status == 200
        assert (await gate.call("GET", "/log/checkpoint", certificate=certificate)).status == 403


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "request.malformed"),
        ("?from=0", "request.malformed"),
        ("?from=-1", "request.malformed"),
        ("?from=2&to=1", "request.malformed"),
        ("?from=1&to=x", "request.malformed"),
        ("?from=1&other=1", "request.malformed"),
        ("?from=9999999999999999", "request.malformed"),
        ("?from=1&to=99999", "lineage.range"),
    ],
)
async def test_ranges_that_are_none(gate: GatewayInProcess, query: str, code: str) -> None:
    token = await gate.token("auditor")
    assert (await gate.call("GET", f"/v1/log/consistency{query}", token=token)).code == code


async def test_O6_a_client_that_was_there_notices_a_restored_snapshot(
    gate: GatewayInProcess, snapshot: Snapshot, tmp_path: Path
) -> None:
    token = await gate.token("operator", "olivia")
    await taken(gate, snapshot)
    await grow(gate, 20)
    async with client(gate, token, tmp_path / "state") as asking:
        await asking.executors()
        seen = asking.memory.highest()
    assert seen is not None
    await roll_back(gate, snapshot)
    smaller = await refusal(gate, token, tmp_path / "state")
    assert smaller.reason is SPLIT
    assert f"{seen.size} records with root {seen.root.hex()}" in smaller.detail
    assert str(gate.gateway.checkpointer.head().size) in smaller.detail  # type: ignore[union-attr]
    assert "forget-log" in smaller.remedy
    await grow(gate, 40)  # it is larger again, and another one
    forked = await refusal(gate, token, tmp_path / "state")
    assert forked.reason is SPLIT
    assert "proof" in forked.detail


async def test_honest_growth_a_restart_and_a_recovery_that_loses_nothing_are_no_alarm(
    gate: GatewayInProcess, tmp_path: Path
) -> None:
    token = await gate.token("operator", "olivia")
    state = tmp_path / "state"
    for count in (1, 300, 7):
        async with client(gate, token, state) as asking:
            await asking.executors()
            await asyncio.gather(*(asking.executors() for _ in range(5)), *(grow(gate, count) for _ in range(3)))
        await gate.restart()
    await gate.gateway.signer.count()  # somebody incremented the counter
    await gate.stop()
    await recover(load_config(gate.data), operator="olivia", reason="an increment by hand")
    await gate.start()
    async with client(gate, token, state) as asking:
        await asking.prove_log()  # at an address that it does not know yet
        await asking.executors()
        assert asking.memory.seen(gate.gateway.config.origin) == gate.gateway.checkpointer.head()


async def test_a_recovery_that_gives_up_history_is_accepted_by_a_person_only(
    gate: GatewayInProcess, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(await gate.token("operator", "olivia"))
    token_file.chmod(0o600)
    await gate.stop()
    shutil.copy(gate.data / DATABASE, tmp_path / "old.db")
    await gate.start()
    await grow(gate, 30)

    def ztrooted(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ztrooted", *arguments, "--ca", str(gate.ca)]
        environment = {"PATH": "/usr/bin:/bin", "ZTROOTED_STATE": str(tmp_path / "state")}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    async def ask() -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(ztrooted, "executors", "--gateway", gate.url, "--token-file", str(token_file))

    assert (await ask()).returncode == 0
    await gate.stop()
    shutil.copy(tmp_path / "old.db", gate.data / DATABASE)
    await recover(load_config(gate.data), operator="olivia", reason="the disk burnt")
    await gate.start()
    for _ in range(2):
        alarm = await ask()
        assert alarm.returncode == 1, alarm.stderr
        assert "checkpoint.split_view" in alarm.stderr
        assert "gateway.recovered" in alarm.stderr
    forgotten = await asyncio.to_thread(ztrooted, "forget-log")
    assert forgotten.returncode == 0, forgotten.stderr
    assert list((tmp_path / "state").glob("*.forgotten-*")), "it is evidence"
    assert (await ask()).returncode == 0
    assert (await asyncio.to_thread(ztrooted, "forget-log")).returncode == 0
    assert (await asyncio.to_thread(ztrooted, "forget-log")).returncode == 2


def agent(gate: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path) -> Agent:
    machine = (executor.folder / EVENT_LOG, executor.folder / IMA_ASCII)
    config = AgentConfig(
        gate.url, gate.ca, executor.tpm.address, tmp_path / "socket", *machine, state=tmp_path / "state"
    )
    return Agent(config, executor.device)


async def test_an_executor_ends_when_the_gateway_is_an_older_one(
    gate: GatewayInProcess,
    snapshot: Snapshot,
    executor: ScriptedExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its next connection, and without one at its next question; a new process remembers, too."""
    monkeypatch.setattr("ztrooted.executor.agent.PROOF_S", 0.05)
    await taken(gate, snapshot)
    running = agent(gate, executor, tmp_path)
    serving = asyncio.create_task(running.run(asyncio.Event()))
    async with asyncio.timeout(20):
        while running._channel is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(3):
            await grow(gate, 20)
            await asyncio.sleep(0.2)
        assert not serving.done()
        seen = running._memory.highest() if running._memory else None
        while seen != gate.gateway.checkpointer.head():
            await asyncio.sleep(0.05)
            seen = running._memory.highest() if running._memory else None
    stopped = []
    stop = running._jobs.stop

    async def noted(reason: GateReason) -> None:
        stopped.append(reason)
        await stop(reason)

    monkeypatch.setattr(running._jobs, "stop", noted)
    real = gate.gateway.checkpointer.head
    smaller = Checkpoint(gate.gateway.config.origin, 1, bytes(32))
    monkeypatch.setattr(gate.gateway.checkpointer, "head", lambda: smaller)
    with pytest.raises(GateError) as refused:
        async with asyncio.timeout(20):
            await serving
    assert refused.value.reason is SPLIT
    assert stopped == [GateReason.EXECUTION_AGENT_LOST]
    monkeypatch.setattr(gate.gateway.checkpointer, "head", real)
    await roll_back(gate, snapshot)
    monkeypatch.setattr("ztrooted.executor.agent.PROOF_S", 300.0)  # so that the connection itself has to ask
    with pytest.raises(GateError) as refused:
        async with asyncio.timeout(20):
            await agent(gate, executor, tmp_path).run(asyncio.Event())
    assert refused.value.reason is SPLIT


async def test_the_feed_tells_it(gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only listens notices as well."""
    monkeypatch.setattr("gateway.feed.IDLE_S", 0.05)
    async with client(gate, await gate.token("auditor", "anna"), tmp_path / "state") as asking:
        following = asyncio.create_task(anext(asking.events(10**6)))
        await grow(gate, 5)
        async with asyncio.timeout(20):
            while asking.memory.highest() != gate.gateway.checkpointer.head():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        smaller = Checkpoint(gate.gateway.config.origin, 1, bytes(32))
        monkeypatch.setattr(gate.gateway.feed, "_head", lambda: smaller)
        with pytest.raises(ProofError) as refused:
            async with asyncio.timeout(20):
                await following
    assert refused.value.reason is SPLIT


async def test_an_answer_that_names_none_is_no_answer(
    gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate.gateway.checkpointer, "head", lambda: None)
    with pytest.raises(EnvironmentProblem) as refused:
        async with client(gate, await gate.token("auditor"), tmp_path / "state") as asking:
            await asking.executors()
    assert refused.value.reason is GateReason.ENVIRONMENT_NOT_A_GATEWAY


# --- the rules, without a gateway -------------------------------------------------------------------------------------

LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(20)]


def head(size: int, other: bytes = b"") -> Checkpoint:
    return Checkpoint(
        "log.test/lineage",
        size,
        merkle.root([*LEAVES[: size - 1], merkle.leaf_hash(other)] if other else LEAVES[:size]),
    )


async def test_answers_overtake_each_other_and_a_log_does_not_shrink() -> None:
    memory = LogMemory("https://a")
    memory.hear(head(5), None)
    before = memory.highest()
    memory.hear(head(9), before)
    memory.hear(head(7), before)  # asked for before 9 was known
    with pytest.raises(ProofError, match="lost records"):
        memory.hear(head(7), memory.highest())
    with pytest.raises(ProofError, match="two trees"):
        memory.hear(head(9, b"x"), before)
    with pytest.raises(ProofError) as refused:
        memory.hear(changed(head(12), origin="other.test/lineage"), before)
    assert refused.value.reason is GateReason.CHECKPOINT_ORIGIN


async def test_what_is_kept_was_proved_and_parallel_processes_agree(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "seen.json"
    one, two = LogMemory("https://a", file), LogMemory("https://b", file)
    one.prove(head(9), [])
    two.prove(head(5), [])  # began when nothing was known; the higher one stays
    again = LogMemory("https://a", file)
    assert again.highest() == head(9)
    assert LogMemory("https://b", file).highest() == head(9)
    with pytest.raises(ProofError) as refused:
        LogMemory("https://c", file).hear(head(8), None)
    assert refused.value.reason is SPLIT, "another address of the same log"
    with pytest.raises(ProofError):
        again.prove(head(12), [bytes(32)])
    fork = LogMemory("https://d", tmp_path / "deep" / "none.json")
    fork._file = file  # a process that began before the file was there
    with pytest.raises(ProofError, match="two trees"):
        fork.prove(head(9, b"x"), [])
    assert LogMemory("https://a", file).highest() == head(9)
    for damaged in (b"", b"{}x", b'{"format":"ztrooted-seen/2"}'):
        file.write_bytes(damaged)
        with pytest.raises(EnvironmentProblem, match=r"seen\.json"):
            LogMemory("https://a", file)


async def test_a_checkpoint_in_one_line() -> None:
    assert parse_head(format_head(head(7))) == head(7)
    line = format_head(head(7))
    for bad in ("", line + " x", line.replace(" ", "\n"), line + "\n", line.replace("7", "07"), "é" + line, line[:-1]):
        with pytest.raises(ProofError):
            parse_head(bad)
