"""A monitor keeps every checkpoint that it saw, and raises the alarm with both notes when the log is another one."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.anchors import anchors_file
from gateway.config import load_config
from tests.adversarial.test_log_memory import Snapshot, grow, roll_back, snapshot, taken
from tests.adversarial.test_mirror import signed
from tests.support.commands import run
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess, MovedClock
from ztrooted import merkle
from ztrooted.bundle import pack
from ztrooted.checkpoint import Checkpoint, parse_checkpoint
from ztrooted.errors import EnvironmentProblem, ProofError
from ztrooted.kept_files import locked
from ztrooted.mirror import LOCK, Mirror
from ztrooted.monitor import Monitor
from ztrooted.note import parse_note
from ztrooted.reasons import GateReason

__all__ = ["snapshot"]
pytestmark = pytest.mark.asyncio

SPLIT = GateReason.CHECKPOINT_SPLIT_VIEW


class Watch:
    """A monitor of a gateway in this process."""

    def __init__(self, gate: GatewayInProcess, folder: Path) -> None:
        self.gate, self.folder, self.clock = gate, folder, MovedClock()
        counter = gate.gateway.signer.identity.counter()
        self.monitor = Monitor(folder, gate.anchors(), counter, self.clock)

    async def prove(self, old: int, new: int) -> list[bytes]:
        path = f"/v1/log/consistency?from={old}&to={new}"
        answer = await self.gate.call("GET", path, token=await self.gate.token("auditor"))
        return [bytes.fromhex(one) for one in answer.json["hashes"]]

    async def look(self, note: bytes | None = None) -> int:
        latest = self.gate.gateway.checkpointer.latest()
        assert latest is not None
        return (await self.monitor.look(latest[1] if note is None else note, self.prove)).size

    async def alarm(self, note: bytes | None = None) -> GateReason:
        with pytest.raises(ProofError) as refused:
            await self.look(note)
        if refused.value.reason is not GateReason.CHECKPOINT_STALE:
            assert "evidence" in refused.value.remedy
            assert len(list(self.folder.glob("evidence/*/kept"))) == len(list(self.folder.glob("evidence/*/shown"))) > 0
        return GateReason(refused.value.reason)


@pytest.fixture
def watch(gate: GatewayInProcess, tmp_path: Path) -> Watch:
    return Watch(gate, tmp_path / "watch")


async def test_an_honest_log_is_no_alarm(gate: GatewayInProcess, watch: Watch) -> None:
    for count in (1, 300, 2):
        await grow(gate, count)
        size = await watch.look()
        assert await watch.look() == size
        assert (watch.folder / "checkpoints" / str(size)).read_bytes() == (watch.folder / "checkpoint").read_bytes()
        await gate.restart()
    await watch.look()


async def test_a_restored_snapshot_is_an_alarm(gate: GatewayInProcess, watch: Watch, snapshot: Snapshot) -> None:
    await taken(gate, snapshot)
    await grow(gate, 20)
    await watch.look()
    await roll_back(gate, snapshot)
    assert await watch.alarm() is SPLIT
    await grow(gate, 40)
    assert await watch.alarm() is SPLIT, "larger again, and another one"


async def test_what_is_signed_and_does_not_fit_is_an_alarm(gate: GatewayInProcess, watch: Watch) -> None:
    await grow(gate, 5)
    size, note = await gate.gateway.checkpointer.seal()
    await watch.look()
    origin = gate.gateway.config.origin
    assert await watch.alarm(await signed(gate, Checkpoint(origin, size, bytes(32)))) is SPLIT
    assert await watch.alarm(await signed(gate, Checkpoint(origin, size - 1, bytes(32)))) is SPLIT
    other = Checkpoint("other.test/lineage", size, bytes(32))
    assert await watch.alarm(await signed(gate, other)) is GateReason.CHECKPOINT_ORIGIN
    forged = note.replace(b"\n%d\n" % size, b"\n%d\n" % (size + 1))
    assert await watch.alarm(forged) is GateReason.NOTE_SIGNATURE
    await grow(gate, 3)
    head = gate.checkpoint()
    assert await watch.alarm(await signed(gate, Checkpoint(origin, head.size, bytes(32)))) is SPLIT
    assert (watch.folder / "checkpoint").read_bytes() == note, "nothing of that is kept as the log's newest"
    assert await watch.look() == head.size


async def test_a_counter_that_goes_back_is_an_alarm(gate: GatewayInProcess, watch: Watch) -> None:
    await grow(gate)
    _, old = await gate.gateway.checkpointer.seal(anchor=True)
    await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()))
    await gate.gateway.checkpointer.seal(anchor=True)
    await watch.look()
    state = watch.folder / "monitor.json"
    kept = json.loads(state.read_text())
    assert kept["counter"] == gate.gateway.signer.counter()
    state.write_text(json.dumps({**kept, "counter": kept["counter"] + 1}))
    assert await watch.alarm() is GateReason.LINEAGE_ROLLED_BACK
    state.write_text(json.dumps({**kept, "counted": kept["counted"] - 1}))
    assert await watch.alarm() is GateReason.LINEAGE_ROLLED_BACK
    assert await watch.alarm(old) is SPLIT


async def test_a_log_that_stands_still_is_an_alarm(gate: GatewayInProcess, watch: Watch) -> None:
    await grow(gate)
    await watch.look()
    watch.clock.passed_s = 7100
    await watch.look()
    watch.clock.passed_s = 7300
    assert await watch.alarm() is GateReason.CHECKPOINT_STALE
    with pytest.raises(ProofError):
        watch.monitor.check_age()
    await grow(gate)
    await watch.look()


async def test_a_checkpoint_from_elsewhere(gate: GatewayInProcess, watch: Watch) -> None:
    old = gate.gateway.checkpointer.latest()
    await grow(gate, 30)
    await watch.look()
    assert old is not None
    assert (await watch.monitor.compare(old[1], watch.prove)).size == old[0]
    latest = gate.gateway.checkpointer.latest()
    assert latest is not None
    await watch.monitor.compare(latest[1], watch.prove)
    origin = gate.gateway.config.origin
    for other in (
        Checkpoint(origin, old[0], bytes(32)),
        Checkpoint(origin, latest[0], bytes(32)),
        Checkpoint(origin, latest[0] + 5, bytes(32)),
    ):
        with pytest.raises(ProofError) as refused:
            await watch.monitor.compare(await signed(gate, other), watch.prove)
        assert refused.value.reason is SPLIT
    await watch.monitor.compare(await signed(gate, Checkpoint(origin, 0, merkle.EMPTY_ROOT)), watch.prove)


async def test_one_process_at_a_time(gate: GatewayInProcess, watch: Watch, tmp_path: Path) -> None:
    async def never(_path: str) -> bytes:
        raise AssertionError

    mirror = Mirror(tmp_path / "mirror", gate.anchors())
    for folder, work in ((watch.folder, watch.look), (tmp_path / "mirror", lambda: mirror.update(never))):
        with locked(folder / LOCK, wait=False), pytest.raises(EnvironmentProblem, match="another process"):
            await work()
    await watch.look()


async def test_a_checkpoint_that_came_another_way(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path
) -> None:
    """A bundle's or its own; one of another log, or none at all, is no alarm about this one."""
    grant = await executor.authorize(job("a"))
    (tmp_path / "bundle.json").write_bytes(await gate.gateway.bundles.export(grant.authorization))
    (tmp_path / "bundle.gz").write_bytes(pack((tmp_path / "bundle.json").read_bytes()))
    (tmp_path / "token").write_text(await gate.token("auditor", "anna"))
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "anchors.toml").write_text(anchors_file(load_config(gate.data)))
    _, note = await gate.gateway.checkpointer.seal()
    wrong = {
        "bundle.malformed": b'{"format": "ztrooted-bundle/1"}',
        "note.malformed": b"hello\n",
        "checkpoint.origin": note.replace(b"gate.test", b"else.test"),
        "checkpoint.key": b"".join(line for line in note.splitlines(True) if b"\xe2\x80\x94" not in line)
        + b"\xe2\x80\x94 gate.test/lineage AAAAAAAAAAAA\n",
    }

    async def monitor(file: str, folder: Path = tmp_path / "log") -> subprocess.CompletedProcess[str]:
        command = ["audit", "monitor", "--dir", str(folder), "--gateway", gate.url, "--ca", str(gate.ca)]
        command += ["--token-file", str(tmp_path / "token"), "--anchors", str(tmp_path / "anchors.toml")]
        return await asyncio.to_thread(run, *command, "--checkpoint", str(tmp_path / file))

    for name in ("bundle.json", "bundle.gz"):
        done = await monitor(name)
        assert done.returncode == 0, done.stderr
        assert "is of this log" in done.stdout
    for reason, data in wrong.items():
        (tmp_path / "wrong").write_bytes(data)
        refused = await monitor("wrong")
        assert refused.returncode == 1, refused
        assert f"({reason})" in refused.stderr
        assert str(tmp_path / "wrong") in refused.stderr
        assert "What to do: " in refused.stderr
    assert not (tmp_path / "log" / "evidence").exists()
    missing = await monitor("nothing")
    assert (missing.returncode, "config.missing" in missing.stderr) == (3, True), missing
    (tmp_path / "file").write_bytes(b"")
    unwritable = await monitor("bundle.json", tmp_path / "file")
    assert (unwritable.returncode, "environment.output" in unwritable.stderr) == (3, True), unwritable


async def test_on_the_command_line(gate: GatewayInProcess, snapshot: Snapshot, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(await gate.token("auditor", "anna"))
    token.chmod(0o600)
    (tmp_path / "anchors.toml").write_text(anchors_file(load_config(gate.data)))
    await taken(gate, snapshot)

    async def monitor(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ztrooted", "audit", "monitor", "--dir", str(tmp_path / "log"), "--once"]
        command += ["--gateway", gate.url, "--ca", str(gate.ca), "--token-file", str(token)]
        command += ["--anchors", str(tmp_path / "anchors.toml"), *more]
        return await asyncio.to_thread(
            subprocess.run, command, check=False, capture_output=True, text=True, env=dict(os.environ)
        )

    await grow(gate, 20)
    seen = await monitor("--json")
    assert seen.returncode == 0, seen.stderr
    latest = gate.gateway.checkpointer.latest()
    assert latest is not None
    assert json.loads(seen.stdout)["size"] == latest[0]
    (tmp_path / "note").write_bytes(latest[1])
    same = await monitor("--checkpoint", str(tmp_path / "note"))
    assert same.returncode == 0, same.stderr
    (tmp_path / "none.gz").write_bytes(gzip.compress(b"{}"))
    assert (await monitor("--checkpoint", str(tmp_path / "none.gz"))).returncode == 1
    await roll_back(gate, snapshot)
    alarm = await monitor()
    assert alarm.returncode == 1, alarm.stdout
    assert "checkpoint.split_view" in alarm.stderr
    (shown,) = (tmp_path / "log").glob("evidence/*/shown")
    assert parse_checkpoint(parse_note(shown.read_bytes()).text) == gate.gateway.checkpointer.head()
    assert (shown.parent / "kept").read_bytes() == latest[1]
