"""``ztrooted gateway fsck``: whatever somebody changes in the file by hand is found, and named."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.app import DATABASE
from gateway.config import load_config
from gateway.fsck import Finding, fsck
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.storage import by_hand
from ztrooted.errors import EnvironmentProblem

pytestmark = pytest.mark.asyncio

# What is done to a sound database, and how the finding about it begins: where, and the reason.
CHANGES: dict[str, tuple[str, str, str]] = {
    "a record's bytes": (
        "UPDATE records SET bytes = CAST(bytes || ' ' AS BLOB) WHERE seq = 0",
        "record 0",
        "lineage.chain_broken",
    ),
    "a record's bytes and leaf": (
        "UPDATE records SET bytes = (SELECT bytes FROM records WHERE seq = 1),"
        " leaf = (SELECT leaf FROM records WHERE seq = 1) WHERE seq = 2",
        "checkpoint",
        "lineage.chain_broken",
    ),
    "a record's type": (
        "UPDATE records SET type = 'gateway.stopped' WHERE seq = 0",
        "record 0",
        "lineage.chain_broken",
    ),
    "a record's time": ("UPDATE records SET at = at + 1 WHERE seq = 1", "record 1", "lineage.chain_broken"),
    "a record's authorization": (
        "UPDATE records SET authorization = 'x' WHERE type = 'execution.started'",
        "record",
        "lineage.chain_broken",
    ),
    "a record is missing": ("DELETE FROM records WHERE seq = 1", "record 2", "lineage.chain_broken"),
    "the last records are missing": (
        "DELETE FROM records WHERE seq > (SELECT MAX(seq) - 3 FROM records)",
        "checkpoint",
        "lineage.truncated",
    ),
    "a tile too many": (
        "INSERT INTO tiles(level, idx, hashes, root) VALUES (0, 0, x'00', x'00')",
        "tiles",
        "lineage.chain_broken",
    ),
    "a checkpoint's root": ("UPDATE checkpoints SET root = randomblob(32)", "checkpoint", "note.signature"),
    "a checkpoint's note": (
        "UPDATE checkpoints SET note = CAST(replace(CAST(note AS TEXT), 'gate.test', 'gate.tesu') AS BLOB)",
        "checkpoint",
        "note.signature",
    ),
    "an anchor's root": ("UPDATE anchors SET root = randomblob(32)", "anchor", "counter.invalid"),
    "an anchor's counter": ("UPDATE anchors SET counter = counter + 7", "anchor", "lineage.rolled_back"),
    "an anchor's attestation": ("UPDATE anchors SET attest = substr(attest, 2)", "anchor", "counter.invalid"),
    "an anchor's signature": ("UPDATE anchors SET signature = randomblob(72)", "anchor", "counter.invalid"),
    "a blob's bytes": ("UPDATE blobs SET bytes = CAST(bytes || x'00' AS BLOB)", "blob", "bundle.mismatch"),
    "evidence is missing": ("DELETE FROM blobs", "record", "bundle.incomplete"),
    "a state": ("UPDATE authorizations SET state = 'closed'", "authorization", "lineage.chain_broken"),
    "a denial": ("UPDATE authorizations SET state = 'denied'", "authorization", "lineage.chain_broken"),
    "a lease": (
        "UPDATE authorizations SET lease_expires = lease_expires + 1000",
        "authorization",
        "lineage.chain_broken",
    ),
    "whose it is": ("UPDATE authorizations SET orchestrator = 'x'", "authorization", "lineage.chain_broken"),
    "what it is": ("UPDATE authorizations SET job = replace(job, '/bin/', '/tmp/')", "authorization", "job.mismatch"),
    "the last record of an authorization": (
        "UPDATE authorizations SET last_seq = last_seq - 1",
        "authorization",
        "lineage.chain_broken",
    ),
    "an authorization is missing": ("DELETE FROM authorizations", "authorization", "lineage.chain_broken"),
    "an artifact is missing": ("DELETE FROM artifacts", "artifact", "bundle.incomplete"),
    "an artifact too many": (
        "INSERT INTO artifacts SELECT authorization, 99, digest FROM artifacts LIMIT 1",
        "artifact",
        "lineage.chain_broken",
    ),
    "somebody in quarantine": (
        "INSERT INTO quarantines VALUES ('executor', 'ex-1', 'nobody', 'nothing', 1)",
        "states",
        "lineage.chain_broken",
    ),
}


def findings(data: Path) -> list[Finding]:
    return list(fsck(load_config(data))[1])


@pytest.fixture
async def data(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path
) -> tuple[Path, Path]:
    """A gateway's data folder with the story of a job in it, stopped; and a copy of its database."""
    from tests.adversarial.test_policies import running  # noqa: PLC0415

    await running(channel, await executor.authorize(job("a")))
    await gate.stop()
    kept = tmp_path / "kept.db"
    shutil.copy(gate.data / DATABASE, kept)
    return gate.data, kept


async def test_a_sound_database_has_no_findings_and_each_change_by_hand_is_one(data: tuple[Path, Path]) -> None:
    folder, kept = data
    assert findings(folder) == []
    for name, (statement, where, reason) in CHANGES.items():
        shutil.copy(kept, folder / DATABASE)
        by_hand(folder / DATABASE, statement)
        found = findings(folder)
        assert [one for one in found if one.where.startswith(where) and one.reason == reason], (name, found)
    shutil.copy(kept, folder / DATABASE)
    page = bytearray((folder / DATABASE).read_bytes())
    page[4096 * 3 : 4096 * 3 + 200] = bytes(200)
    (folder / DATABASE).write_bytes(page)
    with suppress(EnvironmentProblem):  # so damaged that it can't even be counted
        assert [one for one in findings(folder) if one.where == "file"]


async def test_on_the_command_line(data: tuple[Path, Path]) -> None:
    folder, _ = data
    command = [sys.executable, "-m", "ztrooted", "gateway", "fsck", str(folder)]
    sound = subprocess.run([*command, "--json"], check=False, capture_output=True)  # noqa: ASYNC221
    assert sound.returncode == 0, sound.stderr
    assert json.loads(sound.stdout) == {"records": json.loads(sound.stdout)["records"], "sound": True, "findings": []}
    by_hand(folder / DATABASE, CHANGES["a blob's bytes"][0])
    broken = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: ASYNC221
    assert broken.returncode == 1
    assert "its bytes have another digest (bundle.mismatch)" in broken.stdout
    nowhere = subprocess.run([*command[:-1], "/nowhere"], check=False, capture_output=True)  # noqa: ASYNC221
    assert nowhere.returncode == 3
