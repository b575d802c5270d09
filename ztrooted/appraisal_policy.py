"""The appraisal policy: what evidence an executor class owes, how often, and what must be true of it.

TOML, strict: an unknown key, a wrong type or a rule its evidence can't support refuses the whole file::

    format = "ztrooted-appraisal/1"

    [class.default]
    bank = "sha256"
    pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14]
    pinned = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]
    interval_s = 10
"""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tpm.eventlog import EventLogRules
from tpm.ima_rules import AllowList, ImaRules
from tpm.pcr import PcrSelection
from ztrooted import limits, strict_toml
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason

FORMAT = "ztrooted-appraisal/1"
EXIT_BOOT_SERVICES_PCR = 5
SECURE_BOOT_PCR = 7
IMA_PCR = 10
MAX_LISTED = 1000  # findings; the library makes half a kilobyte of each, and only knows all of them or none
MAX_FINDINGS = 20  # of one document; whoever mistyped more than that fixes the first ones first

PcrIndex = Annotated[int, Field(ge=0, le=23)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ignored_types=(cached_property,))


class EventLogPolicy(_Strict):
    """What the firmware's event log must show."""

    secure_boot: bool = True


class ImaPolicy(_Strict):
    """What the kernel's measurement list must show."""

    allow_list: Literal["baseline"] = "baseline"


class AppraisalClass(_Strict):
    """The rules for one class of executors. Times are in seconds."""

    bank: Literal["sha256", "sha384", "sha512"] = "sha256"
    pcrs: list[PcrIndex]
    pinned: list[PcrIndex]
    interval_s: float = Field(10, gt=0, le=3600)
    idle_interval_s: float = Field(60, gt=0, le=86400)
    response_deadline_s: float = Field(5, gt=0, le=limits.CHALLENGE_LIFE_S)
    lease_s: float = Field(30, gt=0, le=limits.ARTIFACT_LIFE_S)
    event_log: EventLogPolicy | None = None
    ima: ImaPolicy | None = None

    @model_validator(mode="after")
    def _supported_by_evidence(self) -> "AppraisalClass":
        if sorted(set(self.pcrs)) != self.pcrs or sorted(set(self.pinned)) != self.pinned:
            raise ValueError("'pcrs' and 'pinned' are ascending lists without repetition")
        if not set(self.pinned) <= set(self.pcrs):
            raise ValueError("'pinned' names PCRs that are not quoted; add them to 'pcrs'")
        if IMA_PCR in self.pinned:
            raise ValueError("PCR 10 changes with every file IMA measures; use [class.….ima] instead of pinning it")
        if (self.ima is not None) != (IMA_PCR in self.pcrs):
            raise ValueError("IMA rules and PCR 10 in 'pcrs' go together: have both, or neither")
        if self.event_log is not None and EXIT_BOOT_SERVICES_PCR not in self.pcrs:
            raise ValueError("an event log is judged up to ExitBootServices, which PCR 5 proves; add 5 to 'pcrs'")
        if self.event_log is not None and self.event_log.secure_boot and SECURE_BOOT_PCR not in self.pcrs:
            raise ValueError("Secure Boot is proved by PCR 7; add 7 to 'pcrs'")
        if not self.pinned and self.ima is None:
            raise ValueError("nothing is required of the evidence, and an empty policy would trust every machine")
        if self.lease_s < self.interval_s + self.response_deadline_s + 1:
            raise ValueError(
                "'lease_s' must be at least 'interval_s' + 'response_deadline_s' + 1 (leases end at whole seconds);"
                " with less, jobs on healthy machines would die"
            )
        return self

    @cached_property
    def selection(self) -> PcrSelection:
        """The exact PCR selection a quote must cover."""
        return PcrSelection.of({self.bank: self.pcrs})

    @property
    def verdict_life_ms(self) -> int:
        """How long a verdict may be believed: until the next proof of an idle executor is due. Leases are shorter."""
        return round((self.idle_interval_s + self.response_deadline_s) * 1000)

    @cached_property
    def event_log_rules(self) -> EventLogRules:
        """The event log policy as rules of the verifier."""
        assert self.event_log is not None  # noqa: S101 -- asked for only when the policy has the section
        return EventLogRules(secure_boot=self.event_log.secure_boot, max_bytes=limits.EVENT_LOG)

    def ima_rules(self, allow: AllowList) -> ImaRules:
        """The IMA policy as rules of the verifier, over an allow-list that was parsed once."""
        return ImaRules(allow)


class _Document(_Strict):
    format: Literal["ztrooted-appraisal/1"]
    classes: dict[str, AppraisalClass] = Field(alias="class", min_length=1)


class AppraisalPolicy:
    """A loaded policy: its classes, its exact bytes and their digest."""

    def __init__(self, data: bytes, name: str) -> None:
        def refuse(detail: str) -> PolicyError:
            return PolicyError(GateReason.POLICY_INVALID, f"{name} is {detail}")

        try:
            document = _Document.model_validate(strict_toml.parse(data, refuse))
        except ValidationError as error:
            raise PolicyError(GateReason.POLICY_INVALID, f"{name}: {explain_validation(error)}") from error
        self.classes = document.classes
        self.data = data
        self.digest = sha256(data)

    def for_class(self, name: str) -> AppraisalClass:
        """The rules of one class. PolicyError when there are none: no rules means no trust."""
        if name not in self.classes:
            raise PolicyError(GateReason.ATTESTATION_POLICY, f"the appraisal policy has no class {name!r}")
        return self.classes[name]


def explain_validation(error: ValidationError) -> str:
    """One line a person can act on: where, what is wrong, for each of the first findings."""
    if error.error_count() > MAX_LISTED:
        return f"{error.error_count()} values are wrong"
    findings = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FINDINGS]:
        where = ".".join(str(part) for part in item["loc"]) or "the document"
        what = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        findings.append(f"{where}: {what}")
    if error.error_count() > MAX_FINDINGS:
        findings.append(f"and {error.error_count() - MAX_FINDINGS} more")
    return "; ".join(findings)
