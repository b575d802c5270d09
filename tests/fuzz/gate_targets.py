"""The parsers of the ``ztrooted`` room: JSON, notes, proofs, tokens, records, policies and messages."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from tests.fuzz.corpus_seeds import files
from tests.fuzz.mutation import canonical_json, mutate_bytes, mutate_json, mutate_value
from tests.fuzz.target import Target
from tests.support.attestation import SELECTION, VALUES, SoftwareAk
from tests.support.endorsement import ec_key, ek_certificate, ek_public, vendor
from tests.support.seals import AK, CHECKPOINT, LOG, ORIGIN, POLICY, RECORDS, WITNESSES, note, seal
from tests.support.tokens import AUDIENCE, HEADER, ISSUER, KEYS, NOW, claims_dict, token
from ztrooted import artifact, canonical, jose, limits, merkle, models, strict_json
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.checkpoint import format_checkpoint, parse_checkpoint, verify_checkpoint
from ztrooted.errors import GateError, ProofError
from ztrooted.note import format_note, parse_note, verify_note
from ztrooted.note_keys import parse_vkey
from ztrooted.reasons import GateReason
from ztrooted.records import Link, Record, parse_record
from ztrooted.reference import Baseline, parse_baseline
from ztrooted.tlog_proof import TlogProof, format_tlog_proof, parse_tlog_proof, verify_tlog_proof

JSON_TOKENS = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"1E1", b"-0", b"0.0"),
    *(b'"\\ud800"', b'\\udc00"', b"\\u0000", b"\xef\xbb\xbf", b'"a":1,"a":1', b"9007199254740993", b"\\u00e9", b"\xed\xa0\x80"),
)
_mutate_json = mutate_bytes(JSON_TOKENS)
_mutate_text = mutate_bytes(("\u2014 ".encode(), b"\n\n", b"=", b"+", b"extra ", b"index ", b"\xe2\x80\x94", b"\r\n", b"\xc2\xa0"))
_mutate_toml = mutate_bytes((b"'''", b'"""', b"[[", b"]]", b"[class.x]", b"=", b"inf", b"nan", b"1979-05-27T07:32:00Z", b"a.b.c", b"{}"))
SCALAR = mutate_json()
CANONICAL = mutate_json(canonical_json)
VALUE: dict[str, Any] = {
    "a": [1, -1, 0, True, None, "\u00e9\u4e16\U0001f600", "\n\t\\\"", [], {}],
    "b": {"c": {"d": [[[]]]}, "e": 9007199254740991},
}


def refuse(detail: str) -> GateError:
    """What the strict reader is given to refuse with."""
    return ProofError(GateReason.CANONICAL_MALFORMED, detail)


def run_strict_json(data: bytes) -> None:
    """What is accepted means the same to the lenient reader, and has no second meaning: no member is there twice."""
    value = strict_json.parse(data, refuse)
    assert value == json.loads(data)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    json.loads(data, object_pairs_hook=once)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def run_canonical(data: bytes) -> None:
    """What is accepted is written back byte by byte, and equals what another writer makes of it."""
    value = canonical.decode(data)
    assert canonical.encode(value) == data
    assert canonical_json(value) == data


def json_seeds() -> Sequence[bytes]:
    made = [canonical_json(VALUE), json.dumps(VALUE, indent=1).encode(), b"[]", b'"x"', b"0", canonical_json(claims_dict())]
    return [*made, *files("lineage/jcs", ".json")]


@cache
def json_bombs() -> Mapping[str, bytes]:
    """Nesting, many members, long numbers, long strings, escapes."""
    return {
        "arrays": b"[" * (1 << 20),
        "closed_arrays": b"[" * 500_000 + b"]" * 500_000,
        "objects": b'{"a":' * 200_000,
        "nested_32": (b"[" * 32 + b"]" * 32 + b",") * 16_000,
        "digits": b"1" * (1 << 20),
        "numbers": b"[" + b"1," * 520_000 + b"1]",
        "fraction": b"0." + b"1" * ((1 << 20) - 2),
        "exponent": b"1e" + b"9" * 1_000_000,
        "empties": b"[" + b"[]," * 349_000 + b"[]]",
        "members": b"{" + b",".join(b'"%d":0' % number for number in range(90_000)) + b"}",
        "objects_flat": b"[" + b'{"a":{}},' * 116_000 + b"0]",
        "strings": b"[" + b'"",' * 349_000 + b'""]',
        "escapes": b'"' + b"\\u0000" * 174_000 + b'"',
        "surrogates": b'"' + b"\\ud83d\\ude00" * 87_000 + b'"',
        "quotes": b'"' * (1 << 20),
        "backslashes": b'"' + b"\\" * ((1 << 20) - 2) + b'"',
        "spaces": b" " * (1 << 20),
        "key": b'{"' + b"k" * 1_000_000 + b'":0}',
    }


# --- notes, checkpoints, proofs ----------------------------------------------------------------------------------
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


# --- tokens ------------------------------------------------------------------------------------------------------
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
        return token(header, _mutate_json(random, canonical_json(payload), ())).encode()
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


# --- records, baselines, policies, anchors -----------------------------------------------------------------------
def run_record(data: bytes) -> None:
    """What is accepted is written back byte by byte."""
    assert parse_record(data).encode() == data


def records() -> Sequence[bytes]:
    link = Link(6, bytes(32))
    return [
        Record("dispatch.requested", 1_800_000_000_000, {"job": {"argv": ["x"]}, "n": 1}, "au-0123456789").encode(),
        Record("attestation.passed", 1_800_000_000_000, {}, "au-0123456789", link).encode(),
        Record("gateway.started", 0, {"identity": {"ak": "00"}}).encode(),
    ]


def run_baseline(data: bytes) -> None:
    """What is accepted is written back byte by byte, and its allow-list can be used."""
    from ztrooted.appraisal import ima_rules  # noqa: PLC0415 -- loads much that no other target needs

    baseline = parse_baseline(data)
    assert baseline.encode() == data
    try:
        ima_rules(baseline)
    except ValueError as error:
        raise AssertionError(f"accepted, and no rules can be made of it: {error}") from error


def baselines() -> Sequence[bytes]:
    files_ = {"/bin/a": frozenset({"sha256:" + "ab" * 32}), "/bin/caf\u00e9 %": frozenset({"sha256:" + "cd" * 32})}
    broken = {os.fsdecode(b"/bin/\xff"): frozenset({"sha512:" + "ab" * 64, "sha256:" + "01" * 32})}
    return [
        Baseline("sha256", {0: bytes(32), 23: bytes(32)}, files_, "ex-1", 1_800_000_000_000).encode(),
        Baseline("sha384", {7: bytes(48)}, {}, "ex-1", 0).encode(),
        Baseline("sha256", {}, broken, "", 1).encode(),
    ]


@cache
def baseline_bombs() -> Mapping[str, bytes]:
    """As many files as fit, and what any JSON may be."""
    many = {f"/b/{number}": frozenset({"sha256:" + "ab" * 32}) for number in range(11_000)}
    return {"files": Baseline("sha256", {}, many, "", 1).encode(), **json_bombs()}


APPRAISAL = b"""format = "ztrooted-appraisal/1"
[class.default]
bank = "sha256"
pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14]
pinned = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]
interval_s = 10.0
idle_interval_s = 60.0
response_deadline_s = 5.0
lease_s = 30.0
[class.default.event_log]
secure_boot = true
[class.default.ima]
allow_list = "baseline"
"""
SMALL_APPRAISAL = b'format = "ztrooted-appraisal/1"\n[class.default]\npcrs = [0, 7]\npinned = [7]\n'


def run_appraisal_policy(data: bytes) -> None:
    """What is accepted can be used: it has a selection, and rules for its event log."""
    policy = AppraisalPolicy(data, "the policy")
    for name in policy.classes:
        rules = policy.for_class(name)
        assert not rules.selection.is_empty
        assert rules.verdict_life_ms > 0
        if rules.event_log is not None:
            assert rules.event_log_rules


@cache
def anchors_text() -> bytes:
    ak = SoftwareAk.ecc()
    values = "\n".join(f'{index} = "{VALUES["sha256"][index].hex()}"' for index in (0, 1, 10))
    return (
        f'format = "ztrooted-anchors/1"\ntrust_domain = "log.test"\nlog_key = "{LOG.key.vkey}"\n'
        f'gateway_ak = "{ak.public.marshal().hex()}"\nek_vendors = ["id:494E5443"]\n'
        f"ek_roots = '''\n{vendor().root.pem.decode()}'''\n[gateway_pcrs.sha256]\n{values}\n"
    ).encode()


def run_anchors(data: bytes) -> None:
    """What is accepted can be used."""
    anchors = parse_anchors(data, "the anchors")
    assert isinstance(anchors, Anchors)
    assert not anchors.gateway_selection.is_empty
    assert anchors.origin == anchors.log_key.name
    assert anchors.ek_policy.vendors is None or anchors.ek_policy.vendors


@cache
def toml_bombs() -> Mapping[str, bytes]:
    """Nesting, dotted names, long numbers, many tables."""
    return {
        "arrays": b"a = " + b"[" * 1_000_000,
        "tables": b"a = " + b"{a=" * 300_000,
        "dotted": b"a." * 500_000 + b"a = 1",
        "header": b"[" + b"a." * 500_000 + b"a]",
        "many_dotted": b"".join(b"a" + b".a" * 200 + b".b%d = 1\n" % number for number in range(2500)),
        "digits": b"a = " + b"1" * 1_000_000,
        "many_digits": b"".join(b"a%d = %s\n" % (number, b"1" * 4000) for number in range(250)),
        "many_tables": b"".join(b"[class.a%d]\npcrs=[0]\n" % number for number in range(40_000)),
        "array_tables": b"[[a]]\n" * 170_000,
        "string": b"a = '''" + b"'" * 1_000_000,
        "comments": b"#\n" * 500_000,
        "underscores": b"a = 1" + b"_1" * 500_000,
        "dates": b"a = [" + b"1979-05-27," * 95_000 + b"]",
        "spaces": b"a" + b" " * 1_000_000,
        "quotes": b'a = """' + b'\\"' * 500_000,
        "hex": b'format = "ztrooted-anchors/1"\ngateway_ak = "' + b"00" * 500_000 + b'x"\n',
    }


# --- messages ----------------------------------------------------------------------------------------------------
def _message_models() -> tuple[Any, ...]:
    return (
        *(models.EXECUTOR_MESSAGE, models.GATEWAY_MESSAGE, models.EXEC_EVENT, models.DispatchRequest, models.Job),
        *(models.EnrollmentRequest, models.EnrollmentChallenge, models.ActivationRequest, models.Enrolled, models.Grant),
        *(models.ExecRequest, models.Problem, models.CaptureRequest),
    )


def run_message(data: bytes) -> None:
    """The first byte says which kind is expected; every part that a handler derives is derived."""
    kinds = _message_models()
    parsed = models.parse_json(kinds[(data[0] if data else 0) % len(kinds)], data[1:], maximum=limits.EVIDENCE_BODY)
    if isinstance(parsed, models.EvidenceMessage | models.ActivationRequest):
        evidence = parsed.quote.evidence(b"log")
        assert len(evidence.digest()) == 64
    if isinstance(parsed, models.DispatchRequest):
        assert len(parsed.job.digest()) == 64


@cache
def messages() -> tuple[bytes, ...]:
    attest, signature = SoftwareAk.ecc().quote()

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    quote = {
        "attest": text(attest),
        "signature": text(signature),
        "pcrs": {bank: {str(index): value.hex() for index, value in values.items()} for bank, values in VALUES.items()},
        "event_log": text(b"log"),
        "event_log_digest": "ab" * 32,
        "ima_offset": 0,
        "ima": text(b"10 "),
    }
    job = {
        "workflow": "train",
        "run": "r/1",
        "step": "fit",
        "attempt": 1,
        "argv": ["/bin/true", "\u00e9"],
        "env": "00" * 32,
        "cwd": "/",
        "files": {"/a": "01" * 32},
    }
    executor, identifier, digest = "ex-" + "0" * 32, "0123456789ab", "ab" * 32
    enrollment = {
        "ek_public": text(ek_public(ec_key(100).public_key())),
        "ek_certificate": text(ek_certificate(vendor().issuer)),
        "ek_chain": [text(vendor().issuer.der)],
        "ak_public": text(AK.public.marshal()),
        "session_key": text(b"key"),
    }
    challenge = {
        "type": "challenge",
        "challenge": identifier,
        "purpose": "runtime",
        "nonce": digest,
        "bindings": ["00"],
        "selection": SELECTION.as_dict(),
        "ima_offset": 1,
        "event_log_digest": digest,
        "deadline_ms": 5000,
    }
    ended = {"authorization": identifier, "outcome": "killed", "exit_status": None, "signal": 9, "reason": "x"}
    made: list[tuple[int, Any]] = [
        (0, {"type": "evidence", "challenge": identifier, "quote": quote}),
        (0, {"type": "activate", "artifact": token()}),
        (0, {"type": "started", "authorization": identifier, "enforcement": "pidns"}),
        (0, {"type": "ended", **ended, "kill_ms": 1}),
        (1, challenge),
        (1, {"type": "lease", "authorization": identifier, "challenge": identifier, "artifact": token(), "life_ms": 1}),
        (1, {"type": "refused", "authorization": None, "reason": "x", "detail": ""}),
        (1, {"type": "issuer", "issuer": {"statement": text(b"{}"), "signature": text(b"s")}}),
        (2, {"event": "ended", **ended, "detail": ""}),
        (3, {"executor": executor, "job": job, "max_runtime_s": 60}),
        (4, job),
        (5, enrollment),
        (7, {"mac": digest, "quote": quote}),
        (10, {"artifact": token(), "job": job, "env": {"A": "b"}}),
        (12, {"executor": executor}),
    ]
    return tuple(bytes((kind,)) + json.dumps(value).encode() for kind, value in made)


def mutate_message(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Change members of a message."""
    return data[:1] + SCALAR(random, data[1:], pool)


@cache
def message_bombs() -> Mapping[str, bytes]:
    """The bombs of JSON that are objects, for two kinds of message, and members with as much as fits."""
    chosen = {name: data for name, data in json_bombs().items() if data[:1] == b"{" or name in {"digits", "empties"}}
    whole = {f"{kind}_{name}": bytes((kind,)) + data for kind in (0, 3) for name, data in chosen.items()}
    large = base64.b64encode(bytes(700_000)).decode()
    base = json.loads(messages()[0][1:])
    base["quote"]["ima"] = large
    whole["evidence"] = b"\0" + json.dumps(base).encode()
    wrong = json.loads(messages()[9][1:])
    wrong["job"]["argv"] = [0] * 200_000
    whole["argv"] = b"\3" + json.dumps(wrong).encode()
    wrong["job"]["argv"] = ["x"]
    wrong["job"]["files"] = {str(number): 0 for number in range(60_000)}
    whole["files"] = b"\3" + json.dumps(wrong).encode()
    return {name: data[: 1 << 20] for name, data in whole.items()}


TARGETS = (
    Target("strict_json", run_strict_json, json_seeds, (_mutate_json, SCALAR), json_bombs),
    Target("canonical", run_canonical, json_seeds, (_mutate_json, CANONICAL), json_bombs),
    Target("signed_note", run_note, notes, (_mutate_text,), text_bombs),
    Target("checkpoint_text", run_checkpoint_text, lambda: [CHECKPOINT.text], (_mutate_text,), text_bombs),
    Target("checkpoint", run_checkpoint, notes, (_mutate_text, mutate_seal), text_bombs),
    Target("verifier_key", run_vkey, lambda: [LOG.key.vkey.encode(), *(one.key.vkey.encode() for one in WITNESSES)], (_mutate_text,)),
    Target("tlog_proof", run_tlog_proof, tlog_proofs, (_mutate_text,), text_bombs),
    Target("artifact", run_artifact, tokens, (mutate_bytes((b".", b"e30", b"=", b"eyJ")), mutate_signed_token), token_bombs),
    Target("record", run_record, records, (CANONICAL, _mutate_json), json_bombs),
    Target("baseline", run_baseline, baselines, (CANONICAL, _mutate_json), baseline_bombs),
    Target("appraisal_policy", run_appraisal_policy, lambda: [APPRAISAL, SMALL_APPRAISAL], (_mutate_toml,), toml_bombs),
    Target("anchors", run_anchors, lambda: [anchors_text()], (_mutate_toml,), toml_bombs),
    Target("message", run_message, messages, (mutate_message, _mutate_json), message_bombs),
)
