"""Bundles: read, and audited step by step whatever the step before said, so that no step hides behind another.

With ``ZTROOTED_DEMO_DATA`` naming a folder that ``ztrooted demo --data`` filled, its bundles are seeds, under its anchors.
Without it a short story made here has to do, in which signatures are missing.
"""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from tests.fuzz.json_targets import json_bombs
from tests.fuzz.mutation import canonical_json, mutate_bytes, mutate_json, mutate_value
from tests.fuzz.policy_targets import APPRAISAL, anchors_text
from tests.fuzz.target import Target
from tests.support.attestation import VALUES, SoftwareAk
from tests.support.endorsement import ec_key, ek_certificate, ek_public, spki, vendor
from tests.support.eventlog_builder import Log
from tests.support.ima_machine import Machine
from tests.support.tokens import claims_dict, token
from ztrooted import merkle, verify
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.bundle import Bundle, ProvenRecord, parse_bundle
from ztrooted.checkpoint import Checkpoint, VerifiedCheckpoint
from ztrooted.delegation import Delegation
from ztrooted.entities import STARTER as ENTITIES
from ztrooted.errors import GateError
from ztrooted.evidence import sha256
from ztrooted.policy import STARTER, Request
from ztrooted.records import Link, Record
from ztrooted.reference import Baseline

DEMO = os.environ.get("ZTROOTED_DEMO_DATA")


@cache
def anchors() -> Anchors:
    return parse_anchors(Path(DEMO, "anchors.toml").read_bytes() if DEMO else anchors_text(), "the anchors")


def run_bundle(data: bytes) -> None:
    """What is accepted is written back byte by byte, and verifying it gives a report."""
    bundle = parse_bundle(data)
    assert bundle.encode() == data
    verify.verify_bundle(data, anchors())


def run_audit(data: bytes) -> None:
    """Every check of the plan on the same bundle: each gives a result and raises nothing."""
    bundle = parse_bundle(data)
    head = VerifiedCheckpoint(Checkpoint(anchors().origin, 1 << 40, bytes(32)), (), None)
    refused: list[verify.CheckResult] = []

    def run(number: int, name: str, check: Callable[[verify.Proof], None], proof: verify.Proof) -> verify.CheckResult:
        result = _run(number, name, check, proof)
        if result.status is not verify.Status.PASS:
            refused.append(result)
        # What the first checks would have set, had they passed.
        proof._bundle = bundle
        proof._checkpoint = proof._checkpoint or head
        return verify.CheckResult(number, name, verify.Status.PASS)

    with mock.patch.object(verify, "_run", run):
        report = verify.verify_bundle(data, anchors())
    json.dumps(report.encode())
    if refused:
        reason = refused[0].reason
        assert reason is not None
        # All of them make the outcome, so that progress behind any step is noticed.
        raise GateError(reason, "; ".join(f"{one.number} {one.reason} {one.detail}" for one in refused))


_run = verify._run


@cache
def bundles() -> tuple[bytes, ...]:
    if DEMO:
        return tuple(path.read_bytes() for path in sorted(Path(DEMO).glob("bundle-*.json")))
    return (story(),)


def mutate_records(random: Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Change the bodies of some records, as a gateway that lies could have written them, and keep all else."""
    try:
        value = json.loads(data)
        records = value["records"]
        for _ in range(1 + int(random.expovariate(1.0))):
            chosen = random.choice(records)
            record = json.loads(chosen["record"])
            record["body"] = mutate_value(random, record["body"])
            if random.random() < 0.1:
                mutate_value(random, record)
            chosen["record"] = canonical_json(record).decode("utf-8", "surrogatepass")
    except (ValueError, TypeError, LookupError):
        return data
    return canonical_json(value)


def mutate_blob(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """Change one blob, file it under its new digest, and name that everywhere."""
    try:
        value = json.loads(data)
        digest = random.choice(sorted(value["blobs"]))
        blob = _blob(random, base64.b64decode(value["blobs"][digest]), pool)
    except (ValueError, TypeError, LookupError, AttributeError):
        return data
    changed = json.loads(canonical_json(value).decode("utf-8", "surrogatepass").replace(digest, sha256(blob)))
    changed["blobs"][sha256(blob)] = base64.b64encode(blob).decode()
    return canonical_json(changed)


_blob = mutate_bytes()


@cache
def bundle_bombs() -> Mapping[str, bytes]:
    """As many records and blobs as fit, and what any JSON may be."""
    base = json.loads(bundles()[0])
    empty = Record("attestation.failed", 0, {}, base["authorization"]).encode().decode()
    context = Record("policy.activated", 0, {"appraisal": "0", "dispatch": "0", "entities": "0"}).encode().decode()
    asked = Record("dispatch.requested", 0, {}, base["authorization"]).encode().decode()
    many = [{"index": number, "record": empty, "proof": []} for number in range(1, 5200)]
    others = [{"index": number, "record": context, "proof": []} for number in range(6000, 10_500)]
    nonce: dict[str, Any] = {
        "nonce": "00" * 32,
        "manifest": None,
        "enrollment": 1,
        "bindings": [],
        "purpose": "runtime",
    }
    judged = {"now": 0, "verdict": {"trusted": True}, **nonce, "appraisal_policy": "0", "baseline": None}
    round_ = Record("attestation.passed", 0, judged, base["authorization"]).encode().decode()
    rounds = [{"index": number, "record": round_, "proof": []} for number in range(1, 1900)]
    shapes = {
        "failed": [{"index": 0, "record": asked, "proof": []}, *many],
        "rounds": rounds,
        "rounds_policies": [*rounds[:900], *others[:2500]],
        "contexts": others,
        "proofs": [{"index": 0, "record": empty, "proof": ["00" * 32] * 15_000}],
    }
    made = {
        name: canonical_json({**base, "records": records, "blobs": {}, "ima": []}) for name, records in shapes.items()
    }
    blobs = {sha256(b"%d" % number): base64.b64encode(b"%d" % number).decode() for number in range(10_000)}
    made["blobs"] = canonical_json({**base, "records": [], "blobs": blobs})
    made |= json_bombs()
    return {name: data for name, data in made.items() if len(data) <= 1 << 20}


# --- a story made here -------------------------------------------------------------------------------------------
def story() -> bytes:
    """An authorization from intent to end, with evidence, policies and artifact, but without the gateway's signatures."""
    ak, (ek, log) = SoftwareAk.ecc(), (ek_public(ec_key(100).public_key()), Log())
    attest, signature = ak.quote()
    baseline = Baseline("sha256", dict(VALUES["sha256"]), {"/bin/a": frozenset({"sha256:" + "ab" * 32})}, "ex-1", 0)
    session = spki(ec_key(7).public_key())
    parts = [attest, signature, log.data(), Machine().measure("/bin/a").ascii(), APPRAISAL, STARTER.encode(), session]
    parts += [
        ek,
        ek_certificate(vendor().issuer),
        vendor().issuer.der,
        ak.public.marshal(),
        baseline.encode(),
        token().encode(),
        ENTITIES.encode(),
    ]
    blobs = {sha256(part): part for part in parts}
    named = [sha256(part) for part in parts]
    job = {
        "workflow": "train",
        "run": "r",
        "step": "fit",
        "attempt": 1,
        "argv": ["x"],
        "env": "00" * 32,
        "cwd": "/",
        "files": {},
    }
    manifest = {
        "attest": named[0],
        "signature": named[1],
        "pcrs": {"sha256": {str(index): value.hex() for index, value in VALUES["sha256"].items()}},
        "event_log": named[2],
        "ima": {"offset": 0, "entries": named[3]},
    }
    round_ = {
        "enrollment": 3,
        "class": "default",
        "purpose": "dispatch",
        "nonce": "00" * 32,
        "bindings": ["ab" * 32],
        "manifest": manifest,
        "evidence": "ab" * 32,
        "appraisal_policy": named[4],
        "baseline": named[11],
        "previous": {"clock": None, "ima": {"entries": 0, "pcrs": {}, "pending": 0}},
        "now": 1_800_000_000_000,
        "verdict": {"trusted": True},
    }
    context = {"trusted": True, "job": "ab" * 32, "workflow": "train", "run": "r", "step": "fit", "attempt": 1}
    request = Request("dispatch", "orchestrator", (), "ex-1", (), {"virtual": False}, context).encode()
    enrolled: dict[str, Any] = {
        "ek_public": named[7],
        "ek_chain": named[8:10],
        "ak_public": named[10],
        "ak": ak.public.name.hex(),
    }
    enrolled |= {"session_key": named[6], "executor": "ex-1", "virtual": False, "round": round_}
    enrolled |= {"manufacturer": "id:494E5443"}
    decided = {"round": round_, "dispatch_policy": named[5], "entities": named[13], "request": request}
    decided |= {"decision": {"permitted": True}}
    asked = {"executor": "ex-1", "orchestrator": "orchestrator", "job": job, "job_digest": "ab" * 32}
    asked |= {"max_runtime_s": 60, "parent": None, "delegation": Delegation().model_dump()}
    identity = {
        "log_key_public": ak.public.marshal().hex(),
        "certify_attest": attest.hex(),
        "certify_signature": signature.hex(),
    }
    again = {**round_, "purpose": "runtime", "live": ["au-0123456789"], "nonce": "01" * 32}
    bodies: list[tuple[str, dict[str, Any], bool]] = [
        ("gateway.started", {"identity": identity}, False),
        ("policy.activated", {"appraisal": named[4], "dispatch": named[5], "entities": named[13]}, False),
        ("key.introduced", {"statement": "{}", "signature": "00"}, False),
        ("executor.enrolled", enrolled, False),
        ("baseline.approved", {"operator": "alice", "baseline": named[11], "class": "default", "expires": None}, False),
        ("dispatch.requested", asked, True),
        ("policy.evaluated", decided, True),
        ("authorization.issued", {"claims": claims_dict(), "kid": "k"}, True),
        ("attestation.passed", {**again, "purpose": "start"}, True),
        ("authorization.activated", {}, True),
        ("execution.started", {}, True),
        ("attestation.passed", again, True),
        ("authorization.renewed", {"claims": claims_dict(ren={"n": 1, "prev": "00" * 32}), "kid": "k"}, True),
        ("attestation.failed", again, True),
        ("authorization.revoked", {"reason": "quote.nonce_mismatch"}, True),
        ("execution.interrupted", {}, True),
        ("execution.closed", {"outcome": "killed", "exit_status": None}, True),
    ]
    records, previous = [], None
    for index, (kind, body, own) in enumerate(bodies):
        record = Record(
            kind, 1_800_000_000_000 + index, body, "au-0123456789" if own else None, previous if own else None
        )
        records.append(ProvenRecord(index, record.encode(), (bytes(32),)))
        if own:
            previous = Link(index, merkle.leaf_hash(records[-1].data))
    origin = anchors().origin
    return Bundle("au-0123456789", origin, b"note", tuple(records), (named[12],), (named[3],), blobs).encode()


TARGETS = (
    Target("bundle", run_bundle, bundles, (mutate_json(canonical_json), mutate_bytes(), mutate_blob), bundle_bombs),
    Target("audit", run_audit, bundles, (mutate_records, mutate_records, mutate_blob), bundle_bombs),
)
