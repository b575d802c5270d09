"""``ztrooted gateway fsck``: whatever somebody changes in the file by hand is found, and named."""

import asyncio
import base64
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import local
from gateway.app import DATABASE
from gateway.config import load_config
from gateway.fsck import Finding, fsck
from gateway.recover import recover
from gateway.signer import Epoch
from gateway.storage import lineage
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.storage import by_hand
from ztrooted import artifact, jose, merkle
from ztrooted.errors import EnvironmentProblem
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

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
    "an anchor and all of it are missing": (
        "DELETE FROM checkpoints WHERE size = (SELECT size FROM anchors ORDER BY counter LIMIT 1);"
        "DELETE FROM intents WHERE counter = (SELECT MIN(counter) FROM anchors);"
        "DELETE FROM anchors WHERE counter = (SELECT MIN(counter) FROM anchors)",
        "anchor",
        "lineage.rolled_back",
    ),
    "the newest anchor is missing": (
        "DELETE FROM anchors WHERE counter = (SELECT MAX(counter) FROM anchors)",
        "checkpoint",
        "lineage.rolled_back",
    ),
    "the newest two anchors and their checkpoints are missing": (
        "DELETE FROM checkpoints WHERE size IN (SELECT size FROM anchors ORDER BY counter DESC LIMIT 2);"
        "DELETE FROM anchors WHERE counter IN (SELECT counter FROM anchors ORDER BY counter DESC LIMIT 2)",
        "intents",
        "lineage.rolled_back",
    ),
    "no intents": ("DELETE FROM intents", "anchor", "lineage.rolled_back"),
    "an intent's signature": ("UPDATE intents SET signature = randomblob(70)", "intent", "note.signature"),
    "an intent's root": ("UPDATE intents SET root = randomblob(32)", "intent", "lineage.chain_broken"),
    "an intent's size": ("UPDATE intents SET size = size + 1000", "intent", "lineage.truncated"),
    "an intent's value": (
        "UPDATE intents SET counter = counter + 7 WHERE n = (SELECT MAX(n) FROM intents)",
        "intents",
        "lineage.rolled_back",
    ),
    "a second intent for one value": (
        "INSERT INTO intents(counter, size, root, at, signature)"
        " SELECT (SELECT MAX(counter) FROM intents), size, root, at, signature FROM intents ORDER BY n LIMIT 1",
        "intent",
        "lineage.rolled_back",
    ),
    "another's token": ("UPDATE tokens SET hash = hex(randomblob(32))", "token of", "lineage.chain_broken"),
    "a token for more": ("UPDATE tokens SET role = 'operator'", "token of operator", "lineage.chain_broken"),
    "a token for longer": ("UPDATE tokens SET expires = expires + 1", "token of", "lineage.chain_broken"),
    "a token too many": (
        "INSERT INTO tokens VALUES ('00', 'auditor', 'x', 1, 2)",
        "token of auditor x",
        "lineage.chain_broken",
    ),
    "a token is missing": ("DELETE FROM tokens", "token of orchestrator", "lineage.chain_broken"),
    "labels": ('UPDATE labels SET labels = \'{"pool":"b"}\'', "labels of ex-", "lineage.chain_broken"),
    "labels too many": ("INSERT INTO labels VALUES ('ex-1', '{}')", "labels of ex-1", "lineage.chain_broken"),
    "labels are missing": ("DELETE FROM labels", "labels of ex-", "lineage.chain_broken"),
    "labels that are none": ("UPDATE labels SET labels = '{'", "labels of ex-", "lineage.chain_broken"),
    "who approved": ("UPDATE approvals SET operator = 'x'", "approval 1 of class", "lineage.chain_broken"),
    "until when it is approved": ("UPDATE approvals SET expires = 1", "approval 1 of class", "lineage.chain_broken"),
    "an approval too many": (
        "INSERT INTO approvals SELECT class, 2, digest, operator, at, expires FROM approvals",
        "approval 2 of class",
        "lineage.chain_broken",
    ),
    "an approval is missing": ("DELETE FROM approvals", "approval 1 of class", "lineage.chain_broken"),
    "an approved baseline is not listed": ("DELETE FROM baselines", "approval 1 of class", "lineage.chain_broken"),
    "what is shown of a baseline": ("UPDATE baselines SET files = files + 1", "baseline", "lineage.chain_broken"),
    "a baseline of other bytes": (
        "UPDATE baselines SET digest = (SELECT digest FROM blobs ORDER BY length(bytes) LIMIT 1)",
        "baseline",
        "canonical.malformed",
    ),
    "a baseline without bytes": ("UPDATE baselines SET digest = 'x'", "baseline x", "bundle.incomplete"),
    "an executor's attestation key": (
        "UPDATE executors SET ak_public = session_key",
        "executor ex-",
        "lineage.chain_broken",
    ),
    "an executor's session key": ("UPDATE executors SET session_key = x'00'", "executor ex-", "lineage.chain_broken"),
    "an executor that is hardware": ("UPDATE executors SET virtual = 0", "executor ex-", "lineage.chain_broken"),
    "an executor is missing": ("DELETE FROM executors", "executor ex-", "lineage.chain_broken"),
    "an executor that never enrolled": ("UPDATE executors SET id = 'ex-1'", "executor ex-1", "lineage.chain_broken"),
    **{
        f"an authorization's {column}": (
            f"UPDATE authorizations SET {column} = {value}",  # noqa: S608
            "authorization",
            "lineage.chain_broken",
        )
        for column, value in (
            ("requested_at", "1"),
            ("activated_at", "1"),
            ("artifact", "NULL"),
            ("tier", "4"),
            ("depth", "3"),
            ("place", "0"),
            ("max_runtime_s", "max_runtime_s + 1"),
            ("enrollment", "0"),
            ("delegation", "'{'"),
            ("reason", "'x'"),
        )
    },
    "somebody in quarantine": (
        "INSERT INTO quarantines VALUES ('executor', 'ex-1', 'nobody', 'nothing', 1)",
        "states",
        "lineage.chain_broken",
    ),
}


# The issuing keys of a gateway that was stopped, the one in use and the next: whoever had its memory has them.
EPOCHS: dict[Path, tuple[Epoch, Epoch]] = {}


def findings(data: Path) -> list[Finding]:
    return list(fsck(load_config(data))[1])


@pytest.fixture
async def data(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path
) -> tuple[Path, Path]:
    """A gateway's data folder with the story of a job in it, stopped; and a copy of its database."""
    from tests.adversarial.test_policies import running  # noqa: PLC0415

    await running(channel, await executor.authorize(job("a")))
    labels = json.dumps({"labels": {"pool": "a"}}).encode()
    path = f"/v1/executors/{executor.id}/labels"
    assert (await gate.call("PUT", path, token=await gate.token("operator"), body=labels)).status == 200
    for _ in range(2):
        await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()))
        await gate.gateway.checkpointer.seal(anchor=True)
    later = await gate.gateway.signer.new_epoch(gate.clock.now_ms() // 1000)
    said = {"statement": later.introduction.statement.decode(), "signature": later.introduction.signature.hex()}
    introduced = Record("key.introduced", gate.clock.now_ms(), said)
    await gate.gateway.database.write(lambda tx: tx.append(introduced))
    EPOCHS[gate.data] = gate.gateway.signer.epoch, later
    await gate.stop()
    kept = tmp_path / "kept.db"
    shutil.copy(gate.data / DATABASE, kept)
    return gate.data, kept


async def test_a_sound_database_has_no_findings_and_each_change_by_hand_is_one(data: tuple[Path, Path]) -> None:
    folder, kept = data
    assert findings(folder) == []
    for name, (statement, where, reason) in CHANGES.items():
        shutil.copy(kept, folder / DATABASE)
        by_hand(folder / DATABASE, *statement.split(";"))
        found = findings(folder)
        assert [one for one in found if one.where.startswith(where) and one.reason == reason], (name, found)
    shutil.copy(kept, folder / DATABASE)
    page = bytearray((folder / DATABASE).read_bytes())
    page[4096 * 3 : 4096 * 3 + 200] = bytes(200)
    (folder / DATABASE).write_bytes(page)
    with suppress(EnvironmentProblem):  # so damaged that it can't even be counted
        assert [one for one in findings(folder) if one.where == "file"]


async def test_an_artifact_says_what_its_record_says_by_the_key_that_was_introduced(
    gate: GatewayInProcess, data: tuple[Path, Path]
) -> None:
    """Also where whoever wrote it had the issuing key, filed it properly, and let everything name it."""
    folder, kept = data
    epoch, later = EPOCHS[gate.data]
    with closing(sqlite3.connect(kept)) as connection:
        query = "SELECT authorization, n, CAST(bytes AS TEXT) FROM artifacts JOIN blobs USING (digest) ORDER BY n DESC"
        name, number, token = connection.execute(query).fetchone()
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    place = claims["lin"]
    other = ec.generate_private_key(ec.SECP256R1())
    forged = {
        "jws.signature": jose.sign(claims, other, kid=epoch.kid, typ=artifact.TYP),
        "jws.kid": jose.sign(claims, other, kid=jose.thumbprint(other.public_key()), typ=artifact.TYP),
        "another key than its record": jose.sign(claims, later.private, kid=later.kid, typ=artifact.TYP),
        "jws.typ": jose.sign(claims, epoch.private, kid=epoch.kid, typ="JWT"),
        "jws.audience": jose.sign(claims | {"aud": "x"}, epoch.private, kid=epoch.kid, typ=artifact.TYP),
        "jws.malformed": "é",
        "jws.renewal": jose.sign(
            claims | {"ren": {"n": 1, "prev": "0" * 64}}, epoch.private, kid=epoch.kid, typ=artifact.TYP
        ),
        "says something else": jose.sign(
            claims | {"exp": claims["exp"] + 1}, epoch.private, kid=epoch.kid, typ=artifact.TYP
        ),
        "names another place": jose.sign(
            claims | {"lin": place | {"root": "0" * 64}}, epoch.private, kid=epoch.kid, typ=artifact.TYP
        ),
    }
    for said, text in forged.items():
        shutil.copy(kept, folder / DATABASE)
        digest = sha256(text.encode())
        by_hand(
            folder / DATABASE,
            f"INSERT INTO blobs VALUES ('{digest}', CAST('{text}' AS BLOB))",  # noqa: S608
            f"UPDATE artifacts SET digest = '{digest}' WHERE n = {number}",  # noqa: S608
            f"UPDATE authorizations SET artifact = '{digest}' WHERE id = '{name}'",  # noqa: S608
        )
        where = f"artifact {name}/{number}"
        found = findings(folder)
        assert [one for one in found if one.where == where and said in f"{one.reason} {one.detail}"], (said, found)


async def test_an_issuing_key_that_the_log_key_did_not_introduce(data: tuple[Path, Path]) -> None:
    """Nor is a start with other keys than the gateway's a start of this gateway."""
    folder, kept = data
    with closing(sqlite3.connect(kept)) as connection:
        rows = connection.execute(
            "SELECT seq, type, bytes FROM records WHERE type IN ('key.introduced', 'gateway.started') LIMIT 2"
        ).fetchall()
    for seq, kind, data_ in rows:
        record = parse_record(bytes(data_))
        if kind == "key.introduced":
            body = record.body | {"signature": record.body["signature"][:-2] + "00"}
        else:
            body = record.body | {"identity": record.body["identity"] | {"ak_public": "00"}}
        changed = replace(record, body=body).encode()
        shutil.copy(kept, folder / DATABASE)
        leaf = merkle.leaf_hash(changed)
        by_hand(
            folder / DATABASE,
            f"UPDATE records SET bytes = x'{changed.hex()}', leaf = x'{leaf.hex()}' WHERE seq = {seq}",  # noqa: S608
        )
        found = findings(folder)
        assert [one for one in found if (one.where, one.reason) == (f"record {seq}", "lineage.key")], (kind, found)


# --- what it leaves as it is -------------------------------------------------------------------------------------------
def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a gateway's data folder, but the index that all readers of a write-ahead log share."""
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file() and path.suffix != ".db-shm"}


async def test_nothing_is_written_neither_into_the_file_nor_beside_it(
    gate: GatewayInProcess, tmp_path: Path, data: tuple[Path, Path]
) -> None:
    folder, _ = data
    before = contents(folder)
    assert f"{DATABASE}-wal" not in before  # it was stopped
    assert findings(folder) == []
    assert contents(folder) == before
    assert not list(folder.glob("*-shm"))
    await gate.start()
    await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()))
    running = contents(folder)
    assert running[f"{DATABASE}-wal"]
    shutil.copytree(folder, tmp_path / "killed", ignore=shutil.ignore_patterns(local.FILE))
    await gate.stop()
    killed = contents(tmp_path / "killed")
    size, found = fsck(load_config(tmp_path / "killed"))
    assert list(found) == []
    assert contents(tmp_path / "killed") == killed
    with closing(sqlite3.connect(f"{(folder / DATABASE).as_uri()}?mode=ro", uri=True)) as connection:
        assert size < connection.execute("SELECT COUNT(*) FROM records").fetchone()[0]  # the log was read, too
    (tmp_path / "killed" / f"{DATABASE}-wal").unlink()
    assert fsck(load_config(tmp_path / "killed"))[0] < size


async def test_a_gateway_that_goes_on_meanwhile_is_looked_at_as_of_one_moment(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    from tests.adversarial.test_policies import running  # noqa: PLC0415

    await running(channel, await executor.authorize(job("a")))
    begun, grown = threading.Event(), threading.Event()

    def progress(done: int, _of: int) -> None:
        if not done:
            begun.set()
            assert grown.wait(20)

    def look() -> tuple[int, list[Finding]]:
        count, found = fsck(load_config(gate.data), progress)
        return count, list(found)

    looking = asyncio.create_task(asyncio.to_thread(look))
    try:
        await asyncio.to_thread(begun.wait, 20)
        await running(channel, await executor.authorize(job("b")))
        await gate.token("auditor", "late")
        await gate.gateway.checkpointer.seal(anchor=True)
    finally:
        grown.set()
    count, found = await looking
    assert found == []
    assert count < lineage.size(gate.gateway.database.reading)


async def test_a_stopped_gateway_that_is_started_meanwhile_is_said(data: tuple[Path, Path]) -> None:
    folder, _ = data

    def progress(done: int, of: int) -> None:
        if done == of:
            by_hand(folder / DATABASE, "INSERT INTO labels VALUES ('ex-1', '{}')")

    with pytest.raises(EnvironmentProblem) as refused:
        list(fsck(load_config(folder), progress)[1])
    assert refused.value.reason is GateReason.DATABASE_IN_USE


async def test_a_recovered_lineage_is_sound_and_without_its_record_it_would_not_be(
    gate: GatewayInProcess, data: tuple[Path, Path]
) -> None:
    folder, kept = data
    for _ in range(2):
        await gate.start()
        await gate.stop()
    shutil.copy(kept, folder / DATABASE)
    await recover(load_config(folder), operator="olivia", reason="a disk was lost")
    assert findings(folder) == []
    by_hand(folder / DATABASE, "UPDATE intents SET counter = counter - 1 WHERE n = (SELECT MAX(n) FROM intents)")
    assert any(one.where == "intent 4" for one in findings(folder))


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
