"""AR4SI: the trustworthiness vector that other RATS tools read (draft-ietf-rats-ar4si).

Eight claims, each a signed byte. What they say of an executor follows from the checks of its verdict, by a table; a
verifier's own faults (−1) and an attester's (99) never change places.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from tpm.reasons import EvidenceReason
from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.reasons import GateReason, Reason
from ztrooted.verdict import Check, Status, Verdict

# Trustworthiness tiers (draft-ietf-rats-ar4si §2.3.2).
NONE, AFFIRMING, WARNING, CONTRAINDICATED = 0, 2, 32, 96
TIER_NAMES: Mapping[int, str] = MappingProxyType(
    {NONE: "none", AFFIRMING: "affirming", WARNING: "warning", CONTRAINDICATED: "contraindicated"}
)

MALFUNCTION, NO_CLAIM, UNEXPECTED, CRYPTO_FAILED = -1, 0, 1, 99
_COMMON = {
    MALFUNCTION: "the verifier malfunctioned",
    NO_CLAIM: "no claim is made",
    UNEXPECTED: "the evidence has something unexpected",
    CRYPTO_FAILED: "cryptographic validation failed",
}
# What the values of each claim mean (§2.3.4 and following).
MEANINGS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "instance-identity": {
            2: "recognized, and not compromised",
            96: "recognized, and not to be trusted",
            97: "not recognized",
        },
        "configuration": {
            2: "a known and approved configuration",
            3: "no known vulnerabilities in the configuration",
            32: "known vulnerabilities in the configuration",
            36: "part of the configuration is not available to the verifier",
            96: "an unacceptable configuration",
        },
        "executables": {
            2: "only approved executables during and after boot",
            3: "only approved executables during boot",
            32: "approved executables with known vulnerabilities",
            33: "executables that are not recognized",
            96: "executables that are known to be bad",
        },
        "file-system": {
            2: "only recognized files",
            32: "files that are not recognized",
            96: "files that are known to be bad",
        },
        "hardware": {
            2: "genuine hardware",
            32: "genuine hardware with known vulnerabilities",
            96: "hardware that is known to be bad",
            97: "hardware that is not recognized",
        },
        "runtime-opaque": {
            2: "memory is encrypted",
            32: "memory is isolated, not encrypted",
            96: "memory can be read by others",
        },
        "storage-opaque": {
            2: "secrets are sealed by hardware",
            32: "secrets are protected by software",
            96: "secrets are not protected",
        },
        "sourced-data": {2: "from attesters that are affirmed", 32: "from unknown sources", 96: "from bad sources"},
    }
)
CLAIMS = tuple(MEANINGS)


def tier_of(value: int) -> int:
    """The tier of a claim's value, for every signed byte; ValueError beyond.

    Values of both signs count by their distance from zero: −1, 0 and 1 say nothing; below 32 affirms, below 96 warns.
    """
    if type(value) is not int or not -128 <= value <= 127:
        raise ValueError(f"{value!r} is no value of a claim; those are -128 to 127")
    if -1 <= value <= 1:
        return NONE
    if -32 <= value < 32:
        return AFFIRMING
    return WARNING if -96 <= value < 96 else CONTRAINDICATED


def meaning(claim: str, value: int) -> str:
    """What a value of a claim says, in a few words."""
    return (
        _COMMON.get(value) or MEANINGS[claim].get(value) or f"{TIER_NAMES[tier_of(value)]}, by the verifier's own scale"
    )


@dataclass(frozen=True, slots=True)
class TrustVector:
    """The eight claims of one executor, 0 where nothing is claimed."""

    instance_identity: int = NO_CLAIM
    configuration: int = NO_CLAIM
    executables: int = NO_CLAIM
    file_system: int = NO_CLAIM
    hardware: int = NO_CLAIM
    runtime_opaque: int = NO_CLAIM
    storage_opaque: int = NO_CLAIM
    sourced_data: int = NO_CLAIM

    def as_context(self) -> dict[str, int]:
        """By name with underscores, for the dispatch policy."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def encode(self) -> dict[str, int]:
        """By the standard's names."""
        return {name.replace("_", "-"): value for name, value in self.as_context().items()}

    @property
    def tier(self) -> int:
        """The worst tier of any claim that is made; none where none is."""
        return max(map(tier_of, self.as_context().values()))


# What is our own fault, or nobody's: it says nothing about the machine.
OURS = frozenset(
    {
        GateReason.ATTESTATION_NO_BASELINE,
        GateReason.ATTESTATION_POLICY,
        GateReason.BASELINE_EXPIRED,
        GateReason.BASELINE_MALFORMED,
        GateReason.BASELINE_NOT_APPROVED,
        GateReason.BASELINE_UNKNOWN,
        GateReason.BOOT_NO_REFERENCE,
        GateReason.INTERNAL_ERROR,
        GateReason.POLICY_NO_CLASS,
        GateReason.SERVICE_NOT_READY,
        GateReason.SERVICE_STOPPING,
    }
)
# The machine said nothing.
_SILENT = frozenset({GateReason.ATTESTATION_OVERDUE, GateReason.CHANNEL_CLOSED, GateReason.CHANNEL_SUPERSEDED})
# What does not verify: signatures, nonces, and logs that do not add up to the quoted values.
_CRYPTO = frozenset(
    {
        EvidenceReason.QUOTE_SIG_INVALID,
        EvidenceReason.QUOTE_NONCE_MISMATCH,
        EvidenceReason.QUOTE_PCR_DIGEST_MISMATCH,
        EvidenceReason.QUOTE_MAGIC,
        EvidenceReason.LOG_REPLAY_MISMATCH,
        EvidenceReason.LOG_DIGEST_DATA_MISMATCH,
        EvidenceReason.IMA_REPLAY_MISMATCH,
        EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH,
        EvidenceReason.IMA_SIGNATURE_INVALID,
    }
)


def failed_value(reason: Reason | None, bad: int) -> int:
    """The value of a claim whose check failed for ``reason``; ``bad`` where the machine's state is what was refused."""
    if reason in OURS:
        return MALFUNCTION
    if reason in _SILENT:
        return NO_CLAIM
    if reason in _CRYPTO:
        return CRYPTO_FAILED
    return bad


def vector_of(verdict: Verdict, rules: AppraisalClass, *, virtual: bool) -> TrustVector:
    """The vector that follows from a verdict under the rules of its class.

    ``instance-identity`` from the quote and the clock, ``hardware`` from who made the TPM (a software TPM warns),
    ``configuration`` from event log, event rules and pinned PCRs, ``executables`` from those and the measured files. The
    other claims are about what a TPM can't see.
    """
    checks = {check.name: check for check in verdict.checks}
    identity = _worst([checks.get("class"), checks.get("quote"), checks.get("clock")], good=2, bad=96)
    if identity != 2:
        return TrustVector(instance_identity=identity)
    boot = [checks[name] for name in ("event_log", "boot", "baseline") if name in checks]
    compared = any(check.name != "event_log" for check in boot)
    configuration = _worst(boot, good=2 if compared else 3, bad=96) if boot else NO_CLAIM
    files = [checks[name] for name in ("ima", "files") if name in checks]
    executables = NO_CLAIM
    if files and not rules.observe:
        executables = _worst([*boot, *files], good=2, bad=96)
    elif compared:
        executables = _worst(boot, good=3, bad=96)
    return TrustVector(
        instance_identity=identity,
        configuration=configuration,
        executables=executables,
        hardware=32 if virtual else 2,
    )


def _worst(checks: "list[Check | None] | list[Check]", *, good: int, bad: int) -> int:
    """The value for several checks that a claim rests on: the first that failed decides, then any that did not run."""
    made = [check for check in checks if check is not None]
    for check in made:
        if check.status is Status.FAIL:
            return failed_value(check.reason, bad)
    if any(check.status is Status.NOT_CHECKED for check in made):
        return NO_CLAIM
    return good
