"""A verified bundle in one signed sentence: an in-toto Statement v1 in a DSSE envelope.

It says who verified which bundle against which anchors, and what came out. Whoever believes that signer need not verify
the bundle again; whoever doesn't can, since the subject is the bundle's SHA-256. There is none for a bundle that did not
verify: what can't be believed is not to be passed on with a signature.
"""

from typing import Any

from ztrooted import canonical
from ztrooted.dsse import SigningKey, sign_envelope
from ztrooted.errors import ProofError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.verify import Report

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:ztrooted:bundle-verification:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def statement(report: Report, *, bundle: bytes, anchors: bytes, verifier: str, now_ms: int) -> dict[str, Any]:
    """The statement over ``bundle``, the canonical JSON; ``verifier`` is name and version. ProofError if not verified."""
    if not report.verified:
        failed = report.failed
        why = "it was not verified" if failed is None else f"check {failed.number} ({failed.name}) failed"
        raise ProofError(GateReason.BUNDLE_MISMATCH, f"nothing is attested of this bundle: {why}")
    return {
        "_type": STATEMENT,
        "subject": [{"name": f"bundle-{report.facts['authorization']}.json", "digest": {"sha256": sha256(bundle)}}],
        "predicateType": PREDICATE,
        "predicate": {
            "verifier": verifier,
            "verified_at": now_ms,
            "anchors": {"sha256": sha256(anchors)},
            "result": "verified",
            "checks": [{"number": one.number, "name": one.name, "status": one.status.value} for one in report.checks],
            "facts": report.facts,
        },
    }


def attest(
    report: Report, key: SigningKey, *, bundle: bytes, anchors: bytes, verifier: str, now_ms: int
) -> dict[str, Any]:
    """The statement in its envelope, signed."""
    made = statement(report, bundle=bundle, anchors=anchors, verifier=verifier, now_ms=now_ms)
    return sign_envelope(PAYLOAD_TYPE, canonical.encode(made), key)
