"""AR4SI: the vector that follows from a verdict. Our faults and the machine's never change places."""

import pytest

from tpm.reasons import EvidenceReason
from ztrooted.appraisal import required_checks
from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.ar4si import (
    AFFIRMING,
    CLAIMS,
    CONTRAINDICATED,
    CRYPTO_FAILED,
    MALFUNCTION,
    MEANINGS,
    NONE,
    OURS,
    WARNING,
    TrustVector,
    failed_value,
    meaning,
    tier_of,
    vector_of,
)
from ztrooted.reasons import GateReason, Reason, all_reasons
from ztrooted.verdict import Check, Status, Verdict

STRICT = AppraisalClass.model_validate(
    {"pcrs": [0, 4, 5, 7, 9, 10], "pinned": [0], "event_log": {"images": "baseline"}, "ima": {}}
)
BOOT = AppraisalClass.model_validate({"pcrs": [0, 4, 5, 7, 9], "pinned": [0], "event_log": {}})
OBSERVED = AppraisalClass.model_validate(
    {"observe": True, "pcrs": [0, 5, 10], "event_log": {"secure_boot": False}, "ima": {"allow_list": "none"}}
)
PINNED = AppraisalClass.model_validate({"pcrs": [0], "pinned": [0]})


def verdict(rules: AppraisalClass, failed: str = "", reason: Reason | None = None) -> Verdict:
    """All checks pass, or one fails and those behind it were not run."""
    checks, status = [], Status.PASS
    for name in required_checks(rules):
        if name == failed:
            checks.append(Check(name, Status.FAIL, reason, "why"))
            status = Status.NOT_CHECKED
        else:
            checks.append(Check(name, status))
    return Verdict(tuple(checks), 0)


def test_every_signed_byte_has_a_tier_and_nothing_else_has() -> None:
    tiers = [tier_of(value) for value in range(-128, 128)]
    assert {NONE, AFFIRMING, WARNING, CONTRAINDICATED} == set(tiers)
    assert [tier_of(value) for value in (-129 + 1, -97, -96, -33, -32, -2, -1, 0, 1, 2, 31, 32, 95, 96, 127)] == [
        *(CONTRAINDICATED, CONTRAINDICATED, WARNING, WARNING, AFFIRMING, AFFIRMING, NONE, NONE, NONE),
        *(AFFIRMING, AFFIRMING, WARNING, WARNING, CONTRAINDICATED, CONTRAINDICATED),
    ]
    for wrong in (-129, 128, True, 2.0, "2"):
        with pytest.raises(ValueError, match="no value of a claim"):
            tier_of(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_value_has_a_meaning(claim: str) -> None:
    assert all(meaning(claim, value) for value in range(-128, 128))
    assert all(-128 <= value <= 127 for value in MEANINGS[claim])


@pytest.mark.parametrize(
    ("rules", "virtual", "expected"),
    [
        (STRICT, False, TrustVector(2, 2, 2, 0, 2)),
        (STRICT, True, TrustVector(2, 2, 2, 0, 32)),
        (BOOT, False, TrustVector(2, 2, 3, 0, 2)),
        (OBSERVED, False, TrustVector(2, 3, 0, 0, 2)),
        (PINNED, False, TrustVector(2, 2, 3, 0, 2)),
    ],
)
def test_a_good_verdict_affirms_what_was_compared(rules: AppraisalClass, virtual: bool, expected: TrustVector) -> None:
    assert vector_of(verdict(rules), rules, virtual=virtual) == expected


@pytest.mark.parametrize(
    ("failed", "reason", "expected"),
    [
        ("quote", EvidenceReason.QUOTE_SIG_INVALID, TrustVector(instance_identity=99)),
        ("quote", EvidenceReason.QUOTE_NONCE_MISMATCH, TrustVector(instance_identity=99)),
        ("quote", GateReason.ATTESTATION_OVERDUE, TrustVector()),
        ("quote", EvidenceReason.QUOTE_SELECTION_MISMATCH, TrustVector(instance_identity=96)),
        ("clock", EvidenceReason.QUOTE_RESET_DETECTED, TrustVector(instance_identity=96)),
        ("event_log", EvidenceReason.LOG_REPLAY_MISMATCH, TrustVector(2, 99, 99, 0, 2)),
        ("event_log", EvidenceReason.LOG_SECURE_BOOT_OFF, TrustVector(2, 96, 96, 0, 2)),
        ("boot", GateReason.BOOT_IMAGE, TrustVector(2, 96, 96, 0, 2)),
        ("boot", GateReason.BOOT_NO_REFERENCE, TrustVector(2, -1, -1, 0, 2)),
        ("baseline", GateReason.ATTESTATION_DRIFT, TrustVector(2, 96, 96, 0, 2)),
        ("baseline", GateReason.ATTESTATION_NO_BASELINE, TrustVector(2, -1, -1, 0, 2)),
        ("baseline", GateReason.BASELINE_EXPIRED, TrustVector(2, -1, -1, 0, 2)),
        ("ima", EvidenceReason.IMA_REPLAY_MISMATCH, TrustVector(2, 2, 99, 0, 2)),
        ("files", EvidenceReason.IMA_NOT_ALLOWED, TrustVector(2, 2, 96, 0, 2)),
    ],
)
def test_a_failed_check_says_so_in_its_claim(failed: str, reason: Reason, expected: TrustVector) -> None:
    assert vector_of(verdict(STRICT, failed, reason), STRICT, virtual=False) == expected


def test_no_evidence_of_a_machine_counts_as_our_fault_and_none_of_ours_as_its() -> None:
    for reason in all_reasons():
        value = failed_value(reason, 96)
        if isinstance(reason, EvidenceReason):
            assert value in {CRYPTO_FAILED, 96}, reason
        else:
            assert value != CRYPTO_FAILED, reason
        assert (value == MALFUNCTION) is (reason in OURS), reason
    assert failed_value(None, 96) == 96


def test_what_was_not_checked_is_no_claim() -> None:
    checks = tuple(Check(name, Status.NOT_CHECKED) for name in required_checks(STRICT))
    assert vector_of(Verdict(checks, 0), STRICT, virtual=False) == TrustVector()


def test_a_software_tpm_never_affirms_hardware() -> None:
    for rules in (STRICT, BOOT, OBSERVED, PINNED):
        assert tier_of(vector_of(verdict(rules), rules, virtual=True).hardware) == WARNING


def test_the_names_are_the_standards() -> None:
    assert tuple(TrustVector().encode()) == CLAIMS
    assert tuple(TrustVector().as_context()) == tuple(name.replace("-", "_") for name in CLAIMS)
