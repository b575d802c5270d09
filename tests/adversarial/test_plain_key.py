"""The Ed25519 line for other tools: a stock tool verifies it, and to our verifiers it is never enough."""

import base64
import hashlib
import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.anchors import anchors_file
from gateway.app import DATABASE
from gateway.config import load_config
from gateway.fsck import fsck
from gateway.plain_key import PUBLIC_FILE
from gateway.vault import ED25519, SERVER, sealed_file
from tests.support import corpus
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.notes import NoteSigner
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.checkpoint import verify_checkpoint
from ztrooted.errors import EnvironmentProblem, ProofError
from ztrooted.note import format_note, parse_note
from ztrooted.note_keys import SignatureType
from ztrooted.reasons import GateReason

pytestmark = pytest.mark.asyncio


def stock_tool_opens(note: bytes, vkey: str) -> bool:
    """The rules of golang.org/x/mod/sumdb/note, which knows type 0x01 alone, written down once more: nothing of ours."""
    name, key_hash, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded, validate=True)
    expected = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    if key[0] != 1 or expected.hex() != key_hash or len(key) != 33:
        return False
    split = note.rindex(b"\n\n")
    text, lines = note[: split + 1], note[split + 2 :].decode().splitlines()
    for line in lines:
        dash, signer, signature = line.split(" ")
        raw = base64.b64decode(signature, validate=True)
        if dash != "\u2014" or len(raw) < 5:
            return False
        if signer == name and raw[:4] == expected:
            try:
                Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], text)
            except InvalidSignature:
                return False
            return True
    return False


def write(file: Path, data: bytes, mode: int = 0o600) -> None:
    file.write_bytes(data)
    file.chmod(mode)


def configure(gate: GatewayInProcess) -> None:
    """For the next start."""
    file = gate.data / "gateway.toml"
    file.write_text("ed25519_signatures = true\n" + file.read_text())


async def sealed(gate: GatewayInProcess) -> bytes:
    await gate.gateway.database.write(lambda tx: tx.append(gate.some_record()))
    return (await gate.gateway.checkpointer.seal())[1]


def anchors(gate: GatewayInProcess) -> Anchors:
    return parse_anchors(anchors_file(load_config(gate.data)).encode(), "anchors.toml")


@pytest.fixture
async def plain(gate: GatewayInProcess) -> GatewayInProcess:
    """A gateway that was told to, after it had made checkpoints without."""
    before = await sealed(gate)
    assert not (gate.data / PUBLIC_FILE).exists()
    assert not sealed_file(gate.data, ED25519).exists()
    assert len(parse_note(before).signatures) == 2
    assert anchors(gate).additional_log_key is None
    await gate.stop()
    configure(gate)
    await gate.start()
    assert anchors(gate).verify_checkpoint(before).sealed  # which has no such line
    return gate


async def test_the_rules_of_the_stock_tool_are_those_of_the_specification() -> None:
    if not corpus.ROOT.exists():
        pytest.skip(f"corpus not found at {corpus.ROOT}; set ZTROOTED_CORPUS")
    (case,) = json.loads(corpus.read("lineage", "notes/c2sp_signed_note.json"))["cases"]
    note, (vkey,) = case["note"].encode(), case["vkeys"]
    assert stock_tool_opens(note, vkey)
    assert not stock_tool_opens(note.replace(b"example message", b"example massage"), vkey)


async def test_a_stock_tool_opens_a_checkpoint_and_no_changed_one(plain: GatewayInProcess) -> None:
    note, known = await sealed(plain), anchors(plain)
    assert known.additional_log_key is not None
    vkey = known.additional_log_key.vkey
    assert stock_tool_opens(note, vkey)
    assert not stock_tool_opens(note.replace(b"gate.test/lineage\n", b"gate.tesu/lineage\n"), vkey)
    verified = known.verify_checkpoint(note)
    assert verified.sealed
    assert verified.cosigners == ()
    # Who was not told of the key sees what he saw before.
    assert verify_checkpoint(note, origin=known.origin, log_key=known.log_key, seal=known.seal_policy).sealed
    await plain.restart()
    assert stock_tool_opens(await sealed(plain), vkey)  # the same key
    await plain.stop()
    assert list(fsck(load_config(plain.data))[1]) == []


async def test_a_forged_line_of_it_is_found_in_the_database(plain: GatewayInProcess) -> None:
    note, known = parse_note(await sealed(plain)), anchors(plain).additional_log_key
    assert known is not None
    await plain.stop()
    other = NoteSigner(Ed25519PrivateKey.generate(), known).sign(note.text)
    lines = [other if one.key_id == known.key_id else one for one in note.signatures]
    with closing(sqlite3.connect(plain.data / DATABASE)) as database, database:
        (ddl,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'checkpoints_no_update'").fetchone()
        database.execute("DROP TRIGGER checkpoints_no_update")
        query = "UPDATE checkpoints SET note = ? WHERE size = (SELECT MAX(size) FROM checkpoints WHERE note = ?)"
        changed = database.execute(query, (format_note(note.text, lines), format_note(note.text, note.signatures)))
        assert changed.rowcount == 1
        database.execute(ddl)
    found = list(fsck(load_config(plain.data))[1])
    assert [(one.where.split()[0], str(one.reason)) for one in found] == [("checkpoint", "note.signature")]


async def test_its_line_alone_is_refused(plain: GatewayInProcess) -> None:
    """Without the line that only the TPM makes, it is no checkpoint, sealed or not; without the seal it is not sealed."""
    note, known = parse_note(await sealed(plain)), anchors(plain)
    additional = known.additional_log_key
    assert additional is not None
    line = next(one for one in note.signatures if one.key_id == additional.key_id)
    seal = next(one for one in note.signatures if one.key_id not in {additional.key_id, known.log_key.key_id})
    for lines in ([line], [line, seal], [seal, line]):
        alone = format_note(note.text, lines)
        for demanded in (True, False):
            with pytest.raises(ProofError) as refused:
                known.verify_checkpoint(alone, sealed=demanded)
            assert refused.value.reason is GateReason.CHECKPOINT_KEY
    ours = next(one for one in note.signatures if one.key_id == known.log_key.key_id)
    with pytest.raises(ProofError) as refused:
        known.verify_checkpoint(format_note(note.text, [ours, line]))
    assert refused.value.reason is GateReason.CHECKPOINT_SEAL
    wrong = format_note(note.text, [ours, seal, NoteSigner(Ed25519PrivateKey.generate(), additional).sign(note.text)])
    with pytest.raises(ProofError) as refused:
        known.verify_checkpoint(wrong)
    assert refused.value.reason is GateReason.NOTE_SIGNATURE


async def test_it_is_no_witness(plain: GatewayInProcess) -> None:
    """Not even where somebody names the same key pair as one."""
    text, known = parse_note(await sealed(plain)), anchors(plain)
    made = plain.gateway.signer.plain
    assert made is not None
    witness = NoteSigner.of("w.test/1", SignatureType.ED25519_COSIGNATURE, made.private)
    for lines in ([*text.signatures, witness.sign(text.text)], [witness.sign(text.text), *text.signatures]):
        with pytest.raises(ProofError) as refused:
            verify_checkpoint(
                format_note(text.text, lines),
                origin=known.origin,
                log_key=known.log_key,
                additional=known.additional_log_key,
                witnesses=[witness.key],
                quorum=1,
            )
        assert refused.value.reason is GateReason.CHECKPOINT_QUORUM


async def test_anchors_take_it_for_nothing_else(plain: GatewayInProcess) -> None:
    text = anchors_file(load_config(plain.data))
    known = anchors(plain)
    additional = known.additional_log_key
    assert additional is not None
    other = NoteSigner.of("else.test/lineage", SignatureType.ED25519).key.vkey
    cosigner = NoteSigner.of(known.origin, SignatureType.ED25519_COSIGNATURE).key.vkey
    for changed in (
        text.replace(known.log_key.vkey, additional.vkey),
        text.replace(f'additional_log_key = "{additional.vkey}"', f'additional_log_key = "{other}"'),
        text.replace(f'additional_log_key = "{additional.vkey}"', f'additional_log_key = "{cosigner}"'),
        text.replace(f'additional_log_key = "{additional.vkey}"', f'additional_log_key = "{known.log_key.vkey}"'),
        text.replace(f'additional_log_key = "{additional.vkey}"', 'additional_log_key = "x"'),
    ):
        assert changed != text
        with pytest.raises(EnvironmentProblem) as refused:
            parse_anchors(changed.encode(), "anchors.toml")
        assert refused.value.reason is GateReason.CONFIG_INVALID


async def test_the_key_is_sealed_and_one_that_is_damaged_or_another_is_not_used(plain: GatewayInProcess) -> None:
    file, public = sealed_file(plain.data, ED25519), plain.data / PUBLIC_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    vault = plain.gateway.signer.vault
    assert vault is not None
    good, told = file.read_bytes(), public.read_text()
    other = NoteSigner.of("gate.test/lineage", SignatureType.ED25519).key.vkey
    vault.write(ED25519, vault.read(SERVER))
    another_kind = file.read_bytes()
    vault.write(ED25519, b"hello")
    damaged = file.read_bytes()
    await plain.stop()
    for data, mode, vkey, said in (
        (good, 0o640, told, "others than its owner"),
        (another_kind, 0o600, told, "another kind"),
        (damaged, 0o600, told, "damaged"),
        (good, 0o600, other, "is not the one"),
        (good, 0o600, "x", "public half"),
    ):
        write(file, data, mode)
        public.write_text(vkey)
        with pytest.raises(EnvironmentProblem, match=said) as refused:
            await plain.start()
        assert refused.value.reason is GateReason.ENVIRONMENT_KEY_FILE
    write(file, good)
    public.write_text(told)
    await plain.start()
