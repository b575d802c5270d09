"""The counter in the TPM: an older database is found out, a killed process is not, and going on anyway is on the record."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.app import DATABASE, Gateway
from gateway.config import load_config
from gateway.recover import recover
from gateway.rollback import intent
from gateway.signer import Signer
from gateway.storage import lineage
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.storage import by_hand
from tpm.attestation_key import accept_attestation_key
from tpm.public import parse_public
from ztrooted.checkpoint import verify_counter_line
from ztrooted.errors import EnvironmentProblem, GateError, UsageProblem
from ztrooted.reasons import GateReason

pytestmark = pytest.mark.asyncio

# Dies right after one of the steps of an anchor.
_DIES = """
import asyncio, os, sys
from pathlib import Path
from gateway.app import Gateway
from gateway.config import load_config
from gateway.rollback import Anchors
from gateway.signer import Signer
from gateway.storage import lineage
from gateway.storage.database import Database
from ztrooted.records import Record

async def main():
    gateway = Gateway(load_config(Path(sys.argv[1])))
    await gateway.start()
    await asyncio.sleep(0.1)  # until its own first checkpoint is made
    await gateway.database.write(lambda tx: tx.append(Record("gateway.stopped", gateway.clock.now_ms(), {})))
    owner, name = {
        "sign": (Signer, "sign"), "intent": (Database, "write"), "increment": (Signer, "count"),
        "certify": (Signer, "certify_counter"), "store": (Database, "write"),
    }[sys.argv[2]]
    step = getattr(owner, name)
    left = 2 if sys.argv[2] == "store" else 1

    async def then_die(*arguments, **options):
        global left
        done = await step(*arguments, **options)
        left -= 1
        if not left:
            os._exit(9)
        return done
    setattr(owner, name, then_die)
    await gateway.checkpointer.seal(anchor=True)

asyncio.run(main())
""".replace("        global left", "        nonlocal left")


def newest(gate: GatewayInProcess) -> int:
    """The counter of the newest anchor, of a running gateway or of one that is stopped."""
    with closing(sqlite3.connect(gate.data / DATABASE)) as connection:
        return int(connection.execute("SELECT MAX(counter) FROM anchors").fetchone()[0])


def refused(gate: GatewayInProcess) -> EnvironmentProblem:
    with pytest.raises(EnvironmentProblem) as refusal:
        Gateway(load_config(gate.data), clock=gate.clock)
    return refusal.value


@pytest.mark.parametrize("step", ["sign", "intent", "increment", "certify", "store"])
async def test_a_process_killed_at_any_step_starts_again(gate: GatewayInProcess, step: str) -> None:
    await gate.stop()
    before = newest(gate)
    command = [sys.executable, "-c", _DIES, str(gate.data), step]
    died = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    assert died.returncode == 9, died.stderr[-2000:]
    await gate.start()
    counted = {"sign": 0, "intent": 1, "increment": 1, "certify": 1, "store": 1}[step]
    assert newest(gate) == before + counted
    await one_more(gate)
    await gate.gateway.checkpointer.seal(anchor=True)
    assert newest(gate) == before + counted + 1
    assert await gate.gateway.signer.counted() == before + counted + 1
    rows = "SELECT i.size = a.size FROM intents i JOIN anchors a ON a.counter = i.counter"
    # Each value was intended once: an older copy that holds another intent for it can't pass for the newest.
    assert [same for (same,) in gate.gateway.database.reading.execute(rows)] == [1] * (before + counted)


async def test_a_copy_made_at_an_intent_is_not_the_newest_database(gate: GatewayInProcess, tmp_path: Path) -> None:
    """It holds a signed intent for the very value that the counter has afterwards."""
    await gate.stop()
    command = [sys.executable, "-c", _DIES, str(gate.data), "intent"]
    await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    for name in (DATABASE, f"{DATABASE}-wal"):
        shutil.copy(gate.data / name, tmp_path / name)
    await gate.start()
    for _ in range(20):
        await one_more(gate)
    await gate.stop()  # an anchor over them
    after = newest(gate)
    for name in (DATABASE, f"{DATABASE}-wal"):
        shutil.copy(tmp_path / name, gate.data / name)
    problem = refused(gate)
    assert problem.reason is GateReason.LINEAGE_ROLLED_BACK
    assert str(after) in problem.detail


async def test_O4_an_older_database_is_refused_with_both_numbers(gate: GatewayInProcess, tmp_path: Path) -> None:
    await gate.stop()
    old = newest(gate)
    shutil.copy(gate.data / DATABASE, tmp_path / "old.db")
    await gate.start()
    await gate.restart()
    await gate.stop()
    new = newest(gate)
    shutil.copy(gate.data / DATABASE, tmp_path / "new.db")
    assert new == old + 2

    shutil.copy(tmp_path / "old.db", gate.data / DATABASE)
    problem = refused(gate)
    assert problem.reason is GateReason.LINEAGE_ROLLED_BACK
    assert str(old) in problem.detail
    assert str(new) in problem.detail
    assert "recover" in problem.remedy

    done = await recover(load_config(gate.data), operator="olivia", reason="the disk burnt")
    assert (done["anchored"], done["counter"], done["now"]) == (str(old), str(new), str(new + 1))
    await gate.start()
    (said,) = gate.records("gateway.recovered")
    assert said["body"] == {
        "counter": str(new),
        "anchored": str(old),
        "counter_restored": False,
        "operator": "olivia",
        "reason": "the disk burnt",
    }
    await gate.stop()
    # The history that was given up does not come back either.
    shutil.copy(tmp_path / "new.db", gate.data / DATABASE)
    assert refused(gate).reason is GateReason.LINEAGE_ROLLED_BACK


async def test_there_is_nothing_to_recover_where_nothing_is_wrong(gate: GatewayInProcess) -> None:
    await gate.stop()
    with pytest.raises(UsageProblem, match="nothing to recover"):
        await recover(load_config(gate.data), operator="olivia", reason="just so")
    with pytest.raises(UsageProblem):
        await recover(load_config(gate.data), operator="olivia", reason="")
    with pytest.raises(UsageProblem):
        await recover(load_config(gate.data), operator="not a name", reason="just so")
    await gate.start()
    assert gate.records("gateway.recovered") == []


async def test_what_a_start_would_finish_is_not_for_recover(gate: GatewayInProcess) -> None:
    """A process killed between increment and store is no lost history, and the log shall not say that it was."""
    await gate.stop()
    command = [sys.executable, "-c", _DIES, str(gate.data), "increment"]
    await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True)
    with pytest.raises(UsageProblem, match="nothing to recover"):
        await recover(load_config(gate.data), operator="olivia", reason="just so")
    await gate.start()
    assert gate.records("gateway.recovered") == []


async def test_what_was_altered_in_a_long_lineage_ends_the_process_that_serves_it(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start believes the newest checkpoint; the rest is looked at while it serves."""
    monkeypatch.setattr(lineage, "WHOLE", 2)
    await gate.stop()
    by_hand(gate.data / DATABASE, "UPDATE records SET bytes = CAST(bytes || ' ' AS BLOB) WHERE seq = 1")
    await gate.start()
    async with asyncio.timeout(20):
        await gate.gateway.stopping.wait()
    assert gate.gateway.failed
    assert gate.gateway.not_ready()


async def test_a_counter_that_was_deleted_is_refused_until_somebody_answers_for_it(gate: GatewayInProcess) -> None:
    await gate.restart()
    before = newest(gate)
    device = gate.gateway.signer._device
    with device._lock:
        handle = device._esapi.tr_from_tpmpublic(gate.gateway.signer.identity.counter().index)
        device._esapi.nv_undefine_space(handle)
    await one_more(gate)
    with pytest.raises(GateError, match="is gone"):
        await gate.gateway.checkpointer.seal(anchor=True)
    await gate.stop()
    assert refused(gate).reason is GateReason.ENVIRONMENT_TPM
    done = await recover(load_config(gate.data), operator="olivia", reason="tpm2_nvundefine by mistake")
    assert done["counter_restored"] is True
    assert int(str(done["now"])) > before
    await gate.start()


async def test_somebody_elses_increment_is_noticed_while_it_runs(gate: GatewayInProcess) -> None:
    """Nothing is sealed from then on, so nothing is issued soon."""
    signer = gate.gateway.signer
    await signer.count()
    with pytest.raises(EnvironmentProblem) as refusal:
        await gate.gateway.checkpointer._anchor(gate.checkpoint())
    assert refusal.value.reason is GateReason.LINEAGE_ROLLED_BACK


@pytest.mark.parametrize("forged", ["signature", "root", "counter", ""])
async def test_an_intent_that_we_did_not_make_is_none(gate: GatewayInProcess, forged: str) -> None:
    """Whoever restores an older database and knows of the counter's value can't write the intent that would excuse it."""
    checkpoint = gate.checkpoint()
    await gate.stop()
    counter = newest(gate)
    signer = Signer(load_config(gate.data))
    signature = await signer.sign(intent(checkpoint, counter + (2 if forged == "counter" else 1)))
    await signer.count()
    signer.close()
    root = os.urandom(32) if forged == "root" else checkpoint.root
    if forged == "signature":
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    row = f"{counter + 1}, {checkpoint.size}, x'{root.hex()}', 1, x'{signature.hex()}'"
    by_hand(
        gate.data / DATABASE,
        "DELETE FROM intents",
        f"INSERT INTO intents(counter, size, root, at, signature) VALUES ({row})",  # noqa: S608 -- ours
    )
    if forged:
        assert refused(gate).reason is GateReason.LINEAGE_ROLLED_BACK
    else:
        await gate.start()
        assert newest(gate) == counter + 1


async def one_more(gate: GatewayInProcess) -> None:
    record = gate.some_record()
    await gate.gateway.database.write(lambda tx: tx.append(record))


async def test_an_anchors_note_says_what_the_counter_was(gate: GatewayInProcess) -> None:
    await one_more(gate)
    _, note = await gate.gateway.checkpointer.seal(anchor=True)
    identity = gate.gateway.signer.identity
    ak = accept_attestation_key(parse_public(identity.ak_public))
    assert verify_counter_line(note, ak=ak, counter=identity.counter()) == gate.gateway.signer.counter()
    await one_more(gate)
    _, plain = await gate.gateway.checkpointer.seal()
    assert verify_counter_line(plain, ak=ak, counter=identity.counter()) is None


async def test_anchors_come_at_their_interval(gate: GatewayInProcess) -> None:
    """The counter wears the TPM's memory; in between, checkpoints are sealed by quotes alone."""
    checkpointer, signer = gate.gateway.checkpointer, gate.gateway.signer
    start = signer.counter()
    for _ in range(5):
        await one_more(gate)
        await checkpointer.seal()
    assert signer.counter() == start
    gate.clock.passed_s += gate.gateway.config.anchor_interval_s
    await checkpointer.seal()  # nothing new: nothing to stand for
    assert signer.counter() == start
    await one_more(gate)
    await checkpointer.seal()
    assert signer.counter() == start + 1
