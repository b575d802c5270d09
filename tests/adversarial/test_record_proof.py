"""``ztrooted audit proof`` and ``check-proof``: one record is proved to who has anchors, and nothing else is."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from gateway.anchors import anchors_file
from gateway.config import load_config
from tests.adversarial.test_log_memory import grow
from tests.support.commands import run
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.bundle import pack, parse_bundle
from ztrooted.errors import ProofError
from ztrooted.note import format_note, parse_note
from ztrooted.record_proof import proof_from_log, verify_record_proof
from ztrooted.tlog_proof import format_tlog_proof, parse_tlog_proof

pytestmark = pytest.mark.asyncio
Ask: TypeAlias = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]


@pytest.fixture
async def folder(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path) -> Path:
    """An auditor's: token, anchors and a bundle."""
    grant = await executor.authorize(job("a"))
    (tmp_path / "bundle.json").write_bytes(await gate.gateway.bundles.export(grant.authorization))
    (tmp_path / "token").write_text(await gate.token("auditor", "anna"))
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "anchors.toml").write_text(anchors_file(load_config(gate.data)))
    return tmp_path


@pytest.fixture
def ask(gate: GatewayInProcess, folder: Path) -> Ask:
    """``ztrooted audit`` in that folder; {gateway} stands for the three options."""

    async def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
        access = ("--gateway", gate.url, "--ca", str(gate.ca), "--token-file", str(folder / "token"))
        expanded = [part for one in arguments for part in (access if one == "{gateway}" else (one,))]
        done = await asyncio.to_thread(run, "audit", *expanded)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return ask


async def test_a_record_of_a_bundle_or_a_gateway_is_proved(gate: GatewayInProcess, folder: Path, ask: Ask) -> None:
    proof, record, anchors = folder / "proof", folder / "record", ("--anchors", str(folder / "anchors.toml"))
    bundle = parse_bundle((folder / "bundle.json").read_bytes())
    (folder / "bundle.gz").write_bytes(pack((folder / "bundle.json").read_bytes()))
    await grow(gate, 300)
    last = bundle.records[-1].index
    for index, source in (
        (last, ("--bundle", str(folder / "bundle.json"))),
        (last, ("--bundle", str(folder / "bundle.gz"))),
        (last, ("{gateway}",)),
        (0, ("{gateway}",)),
        (299, ("{gateway}",)),
    ):
        made = await ask("proof", str(index), *source, "-o", str(proof), "--record-output", str(record))
        assert made.returncode == 0, made.stderr
        checked = await ask("check-proof", str(proof), "--record", str(record), *anchors, "--json")
        assert checked.returncode == 0, checked.stderr
        said = json.loads(checked.stdout)
        assert (said["proven"], said["index"], said["origin"]) == (True, index, "gate.test/lineage")
        stored = gate.gateway.database.reading.execute("SELECT bytes, type FROM records WHERE seq = ?", (index,))
        assert (record.read_bytes(), said["type"]) == stored.fetchone()
    printed = await ask("proof", "299", "{gateway}")
    assert printed.stdout.encode() == proof.read_bytes()
    scripted = json.loads((await ask("proof", "299", "{gateway}", "--json")).stdout)
    assert (scripted["proof"], scripted["record"]) == (proof.read_text(), record.read_text())
    told = await ask("check-proof", str(proof), "--record", str(record), *anchors)
    assert told.stdout.startswith("Record 299 of gate.test/lineage: gateway.stopped, ")


async def test_what_is_asked_wrong_is_said(folder: Path, ask: Ask) -> None:
    bundle = ("--bundle", str(folder / "bundle.json"))
    (folder / "no.json").write_text("{}")
    for arguments, code, reason in (
        (("proof", "9999", *bundle), 2, "lineage.range"),
        (("proof", "9999", "{gateway}"), 2, "lineage.range"),
        (("proof", "0"), 2, "config.invalid"),
        (("proof", "0", "--bundle", str(folder / "nothing")), 3, "config.missing"),
        (("proof", "0", "--bundle", str(folder / "no.json")), 1, "bundle.malformed"),
        (("proof", "0", *bundle, "-o", str(folder / "no" / "where")), 3, "environment.output"),
        (("proof", "0", *bundle, "--record-output", str(folder / "no" / "where")), 3, "environment.output"),
    ):
        done = await ask(*arguments)
        assert done.returncode == code, (arguments, done)
        assert f"({reason})" in done.stderr
        assert "What to do: " in done.stderr
        assert not done.stdout
    assert (await ask("proof", "-1", *bundle)).returncode == 2


async def test_what_proves_nothing_is_refused(folder: Path, ask: Ask) -> None:
    index = str(parse_bundle((folder / "bundle.json").read_bytes()).records[-1].index)
    proof, record, anchors = folder / "proof", folder / "record", folder / "anchors.toml"
    options = ("--bundle", str(folder / "bundle.json"), "-o", str(proof), "--record-output", str(record))
    assert (await ask("proof", index, *options)).returncode == 0
    good = proof.read_bytes(), record.read_bytes(), anchors.read_bytes()
    parsed = parse_tlog_proof(good[0])
    note = parse_note(parsed.checkpoint)
    head, _, rest = good[0].partition(b"\n\n")
    unsealed = head + b"\n\n" + format_note(note.text, note.signatures[:1])
    lines = head.split(b"\n")
    fewer = b"\n".join(lines[:-1]) + b"\n\n" + rest
    moved = head.replace(b"index %d" % parsed.index, b"index %d" % (parsed.index - 1)) + b"\n\n" + rest
    other = good[2].replace(b"gate.test", b"else.test")
    for name, files, reason in (
        ("another record", (good[0], good[1] + b" ", good[2]), "lineage.proof_invalid"),
        ("no record", (good[0], b"", good[2]), "lineage.proof_invalid"),
        ("no proof", (b"hello\n", *good[1:]), "lineage.proof_invalid"),
        ("another index", (moved, *good[1:]), "lineage.proof_invalid"),
        ("a hash too few", (fewer, *good[1:]), "lineage.proof_invalid"),
        ("no seal", (unsealed, *good[1:]), "checkpoint.seal"),
        ("another log's", (good[0], good[1], other), "checkpoint.origin"),
        ("too long", (good[0] + b"x" * 600_000, *good[1:]), "lineage.proof_invalid"),
    ):
        for path, data in zip((proof, record, anchors), files, strict=True):
            path.write_bytes(data)
        done = await ask("check-proof", str(proof), "--record", str(record), "--anchors", str(anchors))
        assert done.returncode == 1, (name, done)
        assert f"({reason})" in done.stderr, (name, done.stderr)
        assert not done.stdout
    for missing in (proof, record, anchors):
        missing.unlink()
        done = await ask("check-proof", str(proof), "--record", str(record), "--anchors", str(anchors))
        assert done.returncode == 3, done


async def test_a_proof_below_a_checkpoint_that_nobody_signed_is_refused(gate: GatewayInProcess, folder: Path) -> None:
    """Whoever answers for the gateway may say anything; without its keys it convinces nobody who has anchors."""
    await grow(gate, 3)

    async def fetch(path: str) -> bytes:
        return (await gate.call("GET", f"/log/{path}", token=(folder / "token").read_text())).data

    found = await proof_from_log(fetch, 2)
    assert verify_record_proof(format_tlog_proof(found.proof), found.record, gate.anchors()).index == 2
    note = parse_note(found.proof.checkpoint)
    forged = format_note(note.text, [line for line in note.signatures if line.key_id != gate.anchors().log_key.key_id])
    text = format_tlog_proof(found.proof).replace(found.proof.checkpoint, forged)
    with pytest.raises(ProofError, match=r"checkpoint\.key"):
        verify_record_proof(text, found.record, gate.anchors())

    async def lying(path: str) -> bytes:
        data = await fetch(path)
        return data[:-1] + bytes([data[-1] ^ 1]) if path.startswith("tile/0/") else data

    with pytest.raises(ProofError, match=r"lineage\.proof_invalid"):
        await proof_from_log(lying, 2)
