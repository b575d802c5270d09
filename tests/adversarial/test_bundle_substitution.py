"""Pieces of genuine bundles in the wrong place: of another gateway, of an older checkpoint, of a torn file."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.storage import lineage
from tests.adversarial.test_bundle import Judge, export, refused_by, run_job
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import SoftwareTpms
from ztrooted import canonical, merkle
from ztrooted.anchors import Anchors
from ztrooted.bundle import pack
from ztrooted.verify import verify_bundle

EVERY = bool(os.environ.get("ZTROOTED_EVERY"))  # scripts/tamper: every place instead of some
Value = dict[str, Any]


@pytest.fixture
async def stranger(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> AsyncIterator[GatewayInProcess]:
    """A second gateway, of the same trust domain and with the same roots: only its keys are others."""
    (tmp_path / "stranger").mkdir()
    made = GatewayInProcess(tmp_path / "stranger", software_tpms(fresh=True), ek_ca, {})
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def of_stranger(stranger: GatewayInProcess, tpms: SoftwareTpms, folder: Path) -> bytes:
    """The same job on the machine of another gateway."""
    executor = ScriptedExecutor(stranger, tpms(certificates=True, fresh=True), folder)
    try:
        await executor.enroll()
        async with executor.connect() as channel:
            await executor.approve()
            await channel.renew()
            return await export(stranger, await run_job(executor, channel))
    finally:
        executor.device.close()


async def test_L20_no_piece_of_another_gateways_bundle_fits(
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    channel: Channel,
    stranger: GatewayInProcess,
    software_tpms: SoftwareTpms,
    tmp_path: Path,
) -> None:
    """Each member, each record and each part of one, and each blob; and each bundle under the other one's anchors."""
    own = await export(gate, await run_job(executor, channel))
    other = await of_stranger(stranger, software_tpms, tmp_path / "machine-of-stranger")
    assert verify_bundle(other, stranger.anchors()).verified
    refused_by(verify_bundle(other, gate.anchors()), "checkpoint")
    refused_by(verify_bundle(own, stranger.anchors()), "checkpoint")
    judge = Judge(own, gate.anchors())
    mine, theirs = json.loads(own), json.loads(other)
    for name in mine:
        if mine[name] != theirs[name]:
            judge.try_value({**mine, name: theirs[name]})
            judge.try_value({**theirs, name: mine[name]})
            judge.try_value({**mine, name: theirs[name], "blobs": mine["blobs"] | theirs["blobs"]})
    _records(judge, mine, theirs)
    for digest, text in theirs["blobs"].items():
        if digest not in mine["blobs"]:
            judge.try_value({**mine, "blobs": {**mine["blobs"], digest: text}})
    assert judge.tried > 300
    assert judge.accepted == 0


def _records(judge: Judge, mine: Value, theirs: Value) -> None:
    both = mine["blobs"] | theirs["blobs"]
    for at, own in enumerate(mine["records"]):
        others = theirs["records"] if EVERY else theirs["records"][max(0, at - 1) : at + 2]
        for other in others:
            for names in (("record",), ("record", "proof"), ("index", "record", "proof"), ("proof",)):
                mixed = own | {name: other[name] for name in names}
                if mixed == own:
                    continue
                records = [*mine["records"][:at], mixed, *mine["records"][at + 1 :]]
                judge.try_value({**mine, "records": records})
                judge.try_value({**mine, "records": records, "blobs": both})


async def test_L20_an_older_checkpoint_is_refused(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Of the same lineage, genuine and sealed: before the job, in the middle of it, and with all proofs made for it."""
    connection = gate.gateway.database.reading
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    await gate.gateway.checkpointer.seal()
    await channel.renew()
    await channel.ended(grant)
    data, anchors = await export(gate, grant), gate.anchors()
    assert verify_bundle(data, anchors).verified
    value = json.loads(data)
    notes = connection.execute("SELECT size, note FROM checkpoints ORDER BY size").fetchall()
    assert len(notes) >= 3
    for size, note in notes[:-1]:
        refused_by(verify_bundle(canonical.encode({**value, "checkpoint": bytes(note).decode()}), anchors), "inclusion")
        _only_what_it_covers(value, int(size), bytes(note).decode(), lineage.Reader(connection).read, anchors)


def _only_what_it_covers(
    value: Value, size: int, note: str, read: Callable[[int, int], bytes], anchors: Anchors
) -> None:
    """Records before the checkpoint with proofs that lead to it: what is left of the story has no end."""
    records = [
        {**one, "proof": [part.hex() for part in merkle.inclusion_proof(size, one["index"], read)]}
        for one in value["records"]
        if one["index"] < size
    ]
    named = "".join(one["record"] for one in records)
    blobs = {digest: text for digest, text in value["blobs"].items() if digest in named}
    issued = named.count('"type":"authorization.issued"') + named.count('"type":"authorization.renewed"')
    kept = value["artifacts"][:issued]
    blobs |= {digest: value["blobs"][digest] for digest in [*kept, *value["ima"]]}
    short = {**value, "checkpoint": note, "records": records, "artifacts": kept, "blobs": blobs}
    refused_by(verify_bundle(canonical.encode(short), anchors), "story", "log_key")


async def test_L20_a_torn_file_is_refused(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    """Cut off anywhere, with a piece missing or there twice, packed or not."""
    data, anchors = await export(gate, await run_job(executor, channel, renewals=0)), gate.anchors()
    for file in (data, pack(data)):
        for at in range(0, len(file), 1 if EVERY else max(1, len(file) // 400)):
            for torn in (file[:at], file[at:] if at else b"", file[:at] + file[at + 7 :], file[: at + 7] + file[at:]):
                assert torn != file
                assert not verify_bundle(torn, anchors).verified, at
