"""Parts of a verifier on their own, judged by Python: what each case of ``data/parts.json`` comes to.

docs/bundle-format.md describes the parts and their inputs. Bytes are hexadecimal digits.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.vectors.node import VERIFIER, run
from tests.vectors.operations import apply
from tpm.attestation_key import AttestationKey, accept_attestation_key, accept_signing_key
from tpm.certify import verify_certify
from tpm.counter import parse_nv_public, verify_counter
from tpm.ek_template import check_ek_template
from tpm.errors import EvidenceError, RejectedError
from tpm.eventlog import parse_event_log
from tpm.eventlog_verify import verify_event_log
from tpm.ima import parse_ima_list
from tpm.ima_replay import ImaState, replay
from tpm.pcr import PcrSelection
from tpm.public import EK, parse_public
from tpm.quote import Clock, check_clock, parse_quote, verify_quote
from tpm.reasons import EvidenceReason
from tpm.sealing import decode_pcrs, policy_authorize
from ztrooted import (
    artifact,
    audit,
    audit_parents,
    audit_rounds,
    audit_story,
    canonical,
    jose,
    limits,
    merkle,
    strict_json,
)
from ztrooted.anchors import parse_anchors
from ztrooted.artifact import ArtifactClaims
from ztrooted.bundle import parse_bundle
from ztrooted.checkpoint import SealPolicy, VerifiedCheckpoint, accept_witnesses, parse_checkpoint, verify_checkpoint
from ztrooted.errors import GateError, ProofError
from ztrooted.issuer import verify_introduction
from ztrooted.jose import IssuerKey
from ztrooted.keys import load_p256
from ztrooted.note import parse_note, verify_note
from ztrooted.note_keys import parse_vkey
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record
from ztrooted.verify import Proof

DATA = Path(__file__).parent / "data"
Input = dict[str, Any]
CHECKS: dict[str, Callable[[Proof], None]] = {
    "log_key": audit.check_log_key,
    "story": audit_story.check_story,
    "executor": audit.check_executor,
    "policies": audit.check_policies,
    "quotes": audit_rounds.check_quotes,
    "appraisals": audit_rounds.check_appraisals,
    "parents": audit_parents.check_parents,
    "decisions": audit.check_decisions,
    "artifacts": audit.check_artifacts,
    "continuity": audit_story.check_continuity,
    "outcome": audit_story.check_outcome,
}


def written_parts() -> dict[str, Any]:
    """``data/parts.json``."""
    value: dict[str, Any] = json.loads((DATA / "parts.json").read_text())
    return value


def expand(case: dict[str, Any], blobs: dict[str, str]) -> dict[str, Any]:
    """A case whose input is complete: changed blobs written out, and a story as the bundle it is."""
    given = dict(case["input"])
    for name, value in given.items():
        if isinstance(value, dict) and "blob" in value:
            text = blobs[value["blob"]]
            for at, removed, inserted in value["splices"]:
                text = text[: 2 * at] + inserted + text[2 * (at + removed) :]
            given[name] = text
        elif isinstance(value, dict) and "pieces" in value:
            given[name] = "".join(text * times for text, times in value["pieces"])
    if case["part"] == "story":
        given["bundle"] = apply((DATA / given["bundle"]).read_bytes(), given.pop("operations")).hex()
        given["anchors"] = (DATA / given["anchors"]).read_text()
    return {"part": case["part"], "input": given}


def second(cases: list[dict[str, Any]]) -> list[str | None]:
    """The reasons that the second verifier gives for expanded cases."""
    answers = run("parts.mjs", str(VERIFIER), [json.dumps(case) + "\n" for case in cases])
    return [answer["reason"] for answer in answers]


def first(case: dict[str, Any]) -> str | None:
    """The reason that Python gives for an expanded case, or None where it refuses nothing."""
    try:
        PARTS[case["part"]](case["input"])
    except (GateError, EvidenceError) as error:
        return str(error.reason)
    return None


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


def _ak(digits: str) -> AttestationKey:
    return accept_attestation_key(parse_public(_hex(digits)))


def _checkpoint(given: Input, seal: SealPolicy | None = None) -> VerifiedCheckpoint:
    quorum = given.get("quorum", 0)
    return verify_checkpoint(
        given["note"].encode(),
        origin=given["origin"],
        log_key=parse_vkey(given["log_key"]),
        additional=parse_vkey(given["additional"]) if "additional" in given else None,
        witnesses=accept_witnesses([parse_vkey(one) for one in given.get("witnesses", [])], quorum),
        quorum=quorum,
        seal=seal,
    )


def _seal(given: Input) -> None:
    pcrs = decode_pcrs(given["pcrs"])
    former = {int(until): decode_pcrs(state) for until, state in given.get("former", {}).items()}
    _checkpoint(given, SealPolicy(_ak(given["ak"]), PcrSelection.of(pcrs), pcrs, former))


def _inclusion(given: Input) -> None:
    proof = [_hex(one) for one in given["proof"]]
    merkle.verify_inclusion(_hex(given["leaf"]), given["index"], given["size"], proof, _hex(given["root"]))


def _consistency(given: Input) -> None:
    roots = _hex(given["old_root"]), _hex(given["new_root"])
    merkle.verify_consistency(given["old_size"], given["new_size"], *roots, [_hex(one) for one in given["proof"]])


def _endorsement_key(given: Input) -> None:
    public = parse_public(_hex(given["public"]), reasons=EK)
    check_ek_template(public)
    public.key()


def _sealing_policy(given: Input) -> None:
    if policy_authorize(load_p256(_hex(given["approver"])), given["origin"].encode()).hex() != given["policy"]:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, "authPolicy is not the expected one")


def _pcrs(values: Any) -> dict[str, dict[int, bytes]]:
    return {bank: {int(index): _hex(value) for index, value in listed.items()} for bank, listed in values.items()}


def _quote(given: Input) -> None:
    ak = _ak(given["ak"])
    quote = parse_quote(_hex(given["attest"]), _hex(given["signature"]))
    selection = PcrSelection.of(given["selection"])
    verify_quote(quote, ak, nonce=_hex(given["nonce"]), selection=selection, pcr_values=_pcrs(given["pcrs"]))


def _clock(given: Input) -> None:
    check_clock(*(Clock.from_dict({k: int(v) for k, v in given[one].items()}) for one in ("previous", "current")))


def _certify(given: Input) -> None:
    certified = parse_public(_hex(given["certified"]))
    signed = _hex(given["attest"]), _hex(given["signature"]), _ak(given["ak"])
    verify_certify(*signed, qualifying_data=_hex(given["qualifying_data"]), certified=certified)


def _counter(given: Input) -> None:
    counter = parse_nv_public(_hex(given["counter"]))
    signed = _hex(given["attest"]), _hex(given["signature"]), _ak(given["ak"])
    verify_counter(*signed, qualifying_data=_hex(given["qualifying_data"]), counter=counter)


def _p256(digits: str) -> ec.EllipticCurvePublicKey:
    return load_p256(_hex(digits))


def _introduction(given: Input) -> None:
    key = _p256(given["log_key"])
    verify_introduction(given["statement"].encode(), _hex(given["signature"]), key, given["origin"])


def _artifact(given: Input) -> None:
    keys = {}
    for one in given["issuers"]:
        key = _p256(one["key"])
        keys[jose.thumbprint(key)] = IssuerKey(key, one["not_before"], one["expires"])
    artifact.verify(given["token"], keys=keys, issuer=given["issuer"], audience=given["audience"], now=given["now"])


def _renewal(given: Input) -> None:
    previous, following = (
        ArtifactClaims.model_validate(json.loads(jose.parse(given[one], typ=artifact.TYP).payload))
        for one in ("previous", "next")
    )
    artifact.verify_renewal(previous, following, previous_token=given["previous"])


def _event_log(given: Input) -> None:
    log = parse_event_log(_hex(given["log"]))
    verify_event_log(log, bank=given["bank"], pcrs={int(index): _hex(one) for index, one in given["pcrs"].items()})


def _measurements(given: Input) -> None:
    entries = parse_ima_list(_hex(given["list"]), format="ascii").entries
    state = ImaState.from_dict(given["state"])
    replay(state, entries, bank=given["bank"], pcr10=_hex(given["pcr10"]), offset=given["offset"])


def _story(given: Input) -> None:
    data = _hex(given["bundle"])
    proof = Proof(data, parse_anchors(given["anchors"].encode(), "anchors"))
    proof._bundle = parse_bundle(data)
    checkpoint = parse_checkpoint(parse_note(proof.bundle.checkpoint).text)
    proof._checkpoint = VerifiedCheckpoint(checkpoint, (), None)
    for name, check in CHECKS.items():
        if name in given["checks"]:
            try:
                check(proof)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
                raise GateError(GateReason.LINEAGE_RECORD_MALFORMED, str(error)) from error


def _deflate(given: Input) -> None:
    inflate, data, maximum = zlib.decompressobj(-zlib.MAX_WBITS), _hex(given["data"]), given["maximum"]
    try:
        found = inflate.decompress(data, maximum + 1)
    except zlib.error as error:
        raise ProofError(GateReason.BUNDLE_MALFORMED, str(error)) from error
    if len(found) > maximum:
        raise ProofError(GateReason.BUNDLE_TOO_LARGE, f"over {maximum} bytes")
    if not inflate.eof or inflate.unused_data:
        raise ProofError(GateReason.BUNDLE_MALFORMED, "it does not end as it should")


PARTS: dict[str, Callable[[Input], Any]] = {
    "strict_json": lambda given: strict_json.parse(_hex(given["data"]), canonical.refuse, maximum=limits.BODY),
    "deflate": _deflate,
    "json": lambda given: canonical.decode(_hex(given["data"])),
    "record": lambda given: parse_record(given["text"].encode()),
    "bundle": lambda given: parse_bundle(_hex(given["data"])),
    "anchors": lambda given: parse_anchors(given["text"].encode(), "anchors"),
    "verifier_key": lambda given: parse_vkey(given["text"]),
    "note": lambda given: verify_note(parse_note(given["text"].encode()), [parse_vkey(one) for one in given["keys"]]),
    "checkpoint": _checkpoint,
    "seal": _seal,
    "inclusion": _inclusion,
    "consistency": _consistency,
    "attestation_key": lambda given: _ak(given["public"]),
    "log_key": lambda given: accept_signing_key(parse_public(_hex(given["public"])), _hex(given["policy"])),
    "endorsement_key": _endorsement_key,
    "sealing_policy": _sealing_policy,
    "quote": _quote,
    "clock": _clock,
    "certify": _certify,
    "counter": _counter,
    "introduction": _introduction,
    "artifact": _artifact,
    "renewal": _renewal,
    "event_log": _event_log,
    "measurements": _measurements,
    "story": _story,
}
