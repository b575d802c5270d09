"""Parts of an appraisal that are the same from one round to the next, each remembered by everything it depends on.

Whatever is left out of what a result is remembered by, is something an executor could change without being judged again.
"""

from functools import lru_cache

from tpm.eventlog import EventLogRules, Quirk, VerifiedEventLog, parse_event_log, verify_event_log
from tpm.ima import parse_ima_list
from tpm.ima_entry import ImaEntries
from tpm.ima_rules import AllowList, ImaRules
from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.boot_reference import BootReference, boot_reference
from ztrooted.errors import GateError
from ztrooted.event_rules import EventLogPolicy, judge_boot
from ztrooted.reasons import Reason

NO_ENTRIES = ImaEntries([], "sha1")


@lru_cache(maxsize=1)
def listed_entries(data: bytes) -> ImaEntries:
    """The entries of an ASCII measurement list, none for no bytes. The last list is remembered: audits read it twice."""
    return parse_ima_list(data, format="ascii").entries if data else NO_ENTRIES


@lru_cache(maxsize=1024)
def verified_event_log(
    data: bytes, bank: str, pcrs: tuple[tuple[int, bytes], ...], rules: EventLogRules, quirks: frozenset[Quirk]
) -> VerifiedEventLog:
    """``verify_event_log``, remembered: it is a pure function, and between two boots its arguments never change."""
    return verify_event_log(parse_event_log(data, quirks=quirks), bank=bank, pcrs=dict(pcrs), rules=rules)


class Same:
    """An object as a key: equal to itself alone, and kept alive by being one."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


def facts_of(log: VerifiedEventLog) -> BootReference:
    """``boot_reference``, remembered like the log it is taken from."""
    return _facts_of(Same(log))


@lru_cache(maxsize=1024)
def _facts_of(log: Same) -> BootReference:
    assert isinstance(log.it, VerifiedEventLog)  # noqa: S101 -- ``facts_of`` is the only caller
    return boot_reference(log.it)


def ima_rules(policy: AppraisalClass, allow: AllowList | None) -> ImaRules:
    """The IMA policy as rules of the verifier, remembered: between two policies and two baselines they are the same."""
    return _ima_rules(Same(policy), Same(allow))


@lru_cache(maxsize=64)
def _ima_rules(policy: Same, allow: Same) -> ImaRules:
    assert isinstance(policy.it, AppraisalClass)  # noqa: S101 -- ``ima_rules`` is the only caller
    assert allow.it is None or isinstance(allow.it, AllowList)  # noqa: S101
    return policy.it.ima_rules(allow.it)


def boot_refusal(policy: EventLogPolicy, seen: BootReference, good: BootReference | None) -> tuple[Reason, str] | None:
    """What ``judge_boot`` refuses, remembered likewise: between two boots and two policies it is always the same."""
    return _boot_refusal(Same(policy), Same(seen), Same(good))


@lru_cache(maxsize=4096)
def _boot_refusal(policy: Same, seen: Same, good: Same) -> tuple[Reason, str] | None:
    assert isinstance(policy.it, EventLogPolicy) and isinstance(seen.it, BootReference)  # noqa: S101, PT018
    assert good.it is None or isinstance(good.it, BootReference)  # noqa: S101
    try:
        judge_boot(policy.it, seen.it, good.it)
    except GateError as error:
        return error.reason, error.detail
    return None
