"""What proves something: notes, checkpoints, inclusion proofs, and tokens."""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from tests.fuzz.corpus_seeds import files
from tests.fuzz.json_targets import mutate_json_text, refuse
from tests.fuzz.mutation import canonical_json, mutate_bytes, mutate_value
from tests.fuzz.target import Target
from tests.support.seals import CHECKPOINT, LOG, ORIGIN, POLICY, RECORDS, WITNESSES, note, seal
from tests.support.tokens import AUDIENCE, HEADER, ISSUER, KEYS, NOW, claims_dict, token
from ztrooted import artifact, jose, merkle, strict_json
from ztrooted.checkpoint import format_checkpoint, parse_checkpoint, verify_checkpoint
from ztrooted.errors import GateError
from ztrooted.note import format_note, parse_note, verify_note
from ztrooted.note_keys import parse_vkey
from ztrooted.tlog_proof import TlogProof, format_tlog_proof, parse_tlog_proof, verify_tlog_proof

_mutate_text = mutate_bytes(
    ("\u2014 ".encode(), b"\n\n", b"=", b"+", b"extra ", b"index ", b"\xe2\x80\x94", b"\r\n", b"\xc2\xa0")
)


def run_note(data: bytes) -> None:
    """What is accepted is written back byte by byte; then its signatures are verified by every key we know."""
    parsed = parse_note(data)
    assert format_note(parsed.text, parsed.signatures) == data
    verify_note(parsed, [LOG.key, *(witness.key for witness in WITNESSES)])


@cache
def notes() -> tuple[bytes, ...]:
    """Signed, cosigned and sealed checkpoints."""
    cosigned = [witness.sign(CHECKPOINT.text) for witness in WITNESSES]
    return (note(), note(*cosigned), note(seal()), note(seal(), *cosigned))


def run_checkpoint_text(data: bytes) -> None:
    """What is accepted is written back byte by byte."""
    assert format_checkpoint(parse_checkpoint(data)) == data


def run_checkpoint(data: bytes) -> None:
    """A checkpoint under everything a verifier may ask; only the very text that was signed is ever accepted."""
    witnesses = [witness.key for witness in WITNESSES]
    verified = verify_checkpoint(data, origin=ORIGIN, log_key=LOG.key, witnesses=witnesses)
    assert verified.checkpoint == CHECKPOINT
    verify_checkpoint(data, origin=ORIGIN, log_key=LOG.key, seal=POLICY)


def mutate_seal(random: Random, _data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Change the payload of the seal inside a note that its log signed."""
    line = seal()
    value = line.key_id.to_bytes(4, "big") + _mutate_text(random, line.value, ())
    return notes()[0] + f"\u2014 {line.name} {base64.b64encode(value).decode()}\n".encode()


def run_vkey(data: bytes) -> None:
    """A verifier key; what is accepted is written back."""
    text = data.decode("latin-1")
    assert parse_vkey(text).vkey == text


def run_tlog_proof(data: bytes) -> None:
    """What is accepted is written back byte by byte, then verified against the checkpoint that is known."""
    parsed = parse_tlog_proof(data)
    assert format_tlog_proof(parsed) == data
    verified = verify_checkpoint(notes()[0], origin=ORIGIN, log_key=LOG.key)
    verify_tlog_proof(parsed, RECORDS[3], verified)
    assert parsed.index == 3


@cache
def tlog_proofs() -> tuple[bytes, ...]:
    nodes = {
        (node.level, node.index): node.hash
        for tree in [merkle.Tree()]
        for record in RECORDS
        for node in tree.append(merkle.leaf_hash(record))
    }
    hashes = tuple(merkle.inclusion_proof(len(RECORDS), 3, lambda level, at: nodes[level, at]))
    return tuple(format_tlog_proof(TlogProof(3, hashes, notes()[0], extra)) for extra in (None, b"", b"extra"))


@cache
def text_bombs() -> Mapping[str, bytes]:
    """Notes and proofs with as many lines as fit, and lines as long as fit."""
    whole = notes()[0]
    line = whole.rpartition(b"\n\n")[2]
    proof = tlog_proofs()[0]
    return {
        "lines": b"\n" * (1 << 20),
        "signatures": whole + line * ((1 << 20) // len(line) - 8),
        "under_maximum": (whole + line * 4000)[: 1 << 19],
        "long_text": b"x" * ((1 << 19) - len(whole)) + b"\n" + whole,
        "many_lines": b"x\n" * ((1 << 18) - len(whole)) + b"\n" + whole,
        "dashes": ("\u2014 " * 260_000).encode(),
        "proof": proof.replace(b"\n\n", b"\n" + (b"A" * 43 + b"=\n") * 10_000 + b"\n", 1),
        "index": proof.replace(b"index 3", b"index " + b"9" * 300_000),
    }


def verifier_keys() -> Sequence[bytes]:
    return [key.vkey.encode() for key in (LOG.key, *(witness.key for witness in WITNESSES))]


# --- tokens
_mutate_token = mutate_bytes((b".", b"e30", b"=", b"eyJ"))


def run_artifact(data: bytes) -> None:
    """A token as the executor it may be for verifies it. Written again, an accepted one is the same token."""
    text = data.decode("utf-8", "surrogateescape")
    parsed = jose.parse(text, typ=artifact.TYP)
    claims = artifact.verify(text, keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW)
    assert strict_json.parse(parsed.payload, refuse)["jti"] == claims.jti
    try:
        artifact.verify_renewal(claims, claims, previous_token=text)
    except GateError:
        return


def tokens() -> Sequence[bytes]:
    made = [token(), token(payload=claims_dict(par="0190c7b1-0000-7000-8000-000000000000"))]
    return [*(one.encode() for one in made), *files("attacks/jws", ".jws")]


def mutate_signed_token(random: Random, _data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Change header or claims and sign: what an issuer that is trusted could write."""
    header, payload = dict(HEADER), claims_dict()
    if random.random() < 0.2:
        header = mutate_value(random, header)
    else:
        payload = mutate_value(random, payload)
    if random.random() < 0.2:
        return token(header, mutate_json_text(random, canonical_json(payload), ())).encode()
    return token(header, payload).encode()


def token_bombs() -> Mapping[str, bytes]:
    """Tokens of the largest size, and beyond."""
    deep = base64.urlsafe_b64encode(b"[" * 9000).rstrip(b"=")
    return {
        "dots": b"." * (1 << 20),
        "long": b"A" * (1 << 20),
        "deep_header": deep + b".e30.AA",
        "deep_payload": token(payload=b'{"a":' * 1500).encode(),
        "members": token(payload=b"{" + b",".join(b'"%d":0' % number for number in range(1200)) + b"}").encode(),
    }


TARGETS = (
    Target("signed_note", run_note, notes, (_mutate_text,), text_bombs),
    Target("checkpoint_text", run_checkpoint_text, lambda: [CHECKPOINT.text], (_mutate_text,), text_bombs),
    Target("checkpoint", run_checkpoint, notes, (_mutate_text, mutate_seal), text_bombs),
    Target("verifier_key", run_vkey, verifier_keys, (_mutate_text,)),
    Target("tlog_proof", run_tlog_proof, tlog_proofs, (_mutate_text,), text_bombs),
    Target("artifact", run_artifact, tokens, (_mutate_token, mutate_signed_token), token_bombs),
)
