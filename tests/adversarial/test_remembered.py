"""What is remembered from one round to the next is used again only where nothing that it rests on has changed.

Each case changes exactly one of the things that a result depends on, after a round in which all was well. If that one were
left out of what the result is remembered by, the good verdict of the round before would be given again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from tests.support.attestation import SoftwareAk
from tests.support.eventlog_builder import Log
from tests.support.ima_machine import Machine
from tpm.algorithms import Alg
from tpm.attest import ClockInfo, QuoteInfo
from tpm.ima_replay import ImaState
from tpm.pcr import PcrSelection, pcr_digest
from ztrooted.appraisal import Appraisal, Before, Question, _Rests, appraise
from ztrooted.appraisal_policy import AppraisalClass, AppraisalPolicy
from ztrooted.dispatch_context import Delegation, Facts, Parent, policy_request
from ztrooted.entities import Entities
from ztrooted.evidence import Evidence, Purpose, qualifying_data
from ztrooted.progress import Progress
from ztrooted.reference import Baseline, Reference
from ztrooted.risk import DAY_S

NOW = 1_800_000_000_000
NONCE = bytes(range(32))
PCRS = list(range(11))


def rules(extra: str = "") -> AppraisalClass:
    text = f"""format = "ztrooted-appraisal/1"
[class.default]
pcrs = {PCRS}
pinned = [0, 7]
{extra}
[class.default.event_log]
secure_boot = true
[class.default.ima]
"""
    return AppraisalPolicy(text.encode(), "rules").for_class("default")


@dataclass(frozen=True)
class Shown:
    """A machine: what its TPM quotes, and what it sends."""

    pcrs: dict[int, bytes]
    evidence: Evidence
    question: Question

    def quoted(self, *, clock: int = 5000, nonce: bytes = NONCE, **evidence: Any) -> "Shown":
        """The same, quoted anew."""
        selection = PcrSelection.of({"sha256": PCRS})
        info = QuoteInfo(selection, pcr_digest(selection, {"sha256": self.pcrs}, Alg.SHA256))
        attest, signature = AK.quote(
            attested=info, extra_data=qualifying_data(Purpose.RUNTIME, nonce), clock=ClockInfo(clock, 1, 0, True)
        )
        parts = {"attest": attest, "signature": signature, "pcrs": {"sha256": self.pcrs}, **evidence}
        return replace(self, evidence=replace(self.evidence, **parts))

    def asked(self, **question: Any) -> "Shown":
        """The same under another question."""
        return replace(self, question=replace(self.question, **question))

    def measured(self, pcr: int) -> "Shown":
        """The same with another value in a PCR, truly quoted."""
        return replace(self, pcrs={**self.pcrs, pcr: bytes(32)}).quoted()

    def appraise(self, before: Before | None) -> Appraisal:
        return appraise(self.evidence, self.question, before)


AK = SoftwareAk.ecc()
RULES = rules()


def machine() -> Shown:
    """One in good order."""
    log = Log()
    values = dict(log.pcrs("sha256", range(10)))
    ima = Machine(boot_digest=hashlib.sha256(b"".join(values[pcr] for pcr in range(10))).digest())
    ima.measure("/usr/bin/one", "/usr/bin/two")
    values[10] = ima.pcr10["sha256"]
    allow = {path: frozenset(digests) for path, digests in ima.allow.items()}
    good = Baseline("sha256", {pcr: values[pcr] for pcr in range(10)}, allow, "ex", NOW - 1000)
    question = Question(
        key=AK.key,
        qualifying_data=qualifying_data(Purpose.RUNTIME, NONCE),
        policy=RULES,
        reference=Reference.load(good.encode(), NOW + 1000),
        previous=Progress(),
        now_ms=NOW,
        virtual=False,
    )
    return Shown(values, Evidence(b"", b"", {}, log.data(), 0, ima.ascii()), question).quoted()


def other_baseline(shown: Shown) -> Shown:
    assert shown.question.reference is not None
    known = shown.question.reference.baseline
    other = replace(known, pcrs={**known.pcrs, 7: bytes(32)})
    return shown.asked(reference=Reference.load(other.encode(), NOW + 1000))


Change = Callable[[Shown], Shown]
# By what it is that is remembered by: one change of it, and why that is refused.
RESTS: dict[str, tuple[Change, str]] = {
    "pcrs": (lambda shown: shown.measured(7), "log.replay_mismatch"),
    "previous": (
        lambda shown: shown.asked(previous=Progress(None, ImaState(1, {"sha256": bytes(32)}))),
        "ima.fork",
    ),
    "ima_offset": (lambda shown: shown.quoted(ima_offset=1), "ima.offset"),
    "ima": (lambda shown: shown.quoted(ima=shown.evidence.ima.replace(b"/two", b"/2wo")), "ima.template_hash_mismatch"),
    "event_log": (lambda shown: shown.quoted(event_log=shown.evidence.event_log[:-1]), "log.malformed"),
    "policy": (lambda shown: shown.asked(policy=rules("min_tier = 'A4'")), ""),
    "reference": (other_baseline, "attestation.drift"),
    "expired": (lambda shown: shown.asked(now_ms=NOW + 1001), "baseline.expired"),
    "virtual": (lambda shown: shown.asked(virtual=True), "attestation.tier"),
}
# What each round has of its own, and is never remembered.
QUOTES: dict[str, tuple[Change, str]] = {
    "signature": (lambda shown: shown.quoted(signature=AK.quote(shown.evidence.attest + b"x")[1]), "quote.sig_invalid"),
    "nonce": (lambda shown: shown.quoted(nonce=bytes(32)), "quote.nonce_mismatch"),
    "clock": (
        lambda shown: shown.asked(
            previous=replace(shown.appraise(None).progress or Progress(), ima=ImaState.initial())
        ),
        "quote.clock_rollback",
    ),
    "key": (lambda shown: shown.asked(key=SoftwareAk.ecc(fresh=True).key), "quote.sig_invalid"),
}


def test_there_is_a_case_for_everything_that_is_remembered_by() -> None:
    assert {one.name for one in fields(_Rests)} == RESTS.keys()


@pytest.mark.parametrize(("change", "reason"), (RESTS | QUOTES).values(), ids=RESTS | QUOTES)
def test_a_round_that_differs_in_one_thing_is_judged_anew(change: Change, reason: str) -> None:
    good = machine()
    if reason == "attestation.tier":
        good = good.asked(policy=rules("min_tier = 'A4'"))
    before = Before()
    first = good.appraise(before)
    assert first.verdict.trusted, first.verdict
    again = good.quoted(clock=6000).asked(now_ms=NOW + 1).appraise(before)
    assert again.verdict.trusted and again.verdict.expires_ms == first.verdict.expires_ms + 1  # noqa: PT018
    changed = change(good)
    afresh = changed.appraise(None)
    assert changed.appraise(before) == afresh
    assert (afresh.verdict.reason or "") == reason
    assert afresh.verdict.encode() != first.verdict.encode()


FACTS = Facts(
    orchestrator="flows",
    executor="ex",
    executor_class="default",
    virtual=False,
    manufacturer="id:1",
    proved=4,
    trusted=True,
    job={**dict.fromkeys(("workflow", "run", "step", "env"), "w"), "attempt": 1, "files": {}},
    job_digest="0" * 64,
    max_runtime_s=60,
    now_ms=NOW,
    labels={"zone": "eu"},
    vector={"hardware": 2},
    baseline_at=NOW - 1000,
)
OTHER_FACTS: dict[str, Any] = {
    "orchestrator": "other",
    "executor": "other",
    "executor_class": "other",
    "virtual": True,
    "manufacturer": "id:2",
    "proved": 2,
    "trusted": False,
    "job": {**FACTS.job, "attempt": 2},
    "job_digest": "1" * 64,
    "max_runtime_s": 61,
    "now_ms": NOW + 60_000,
    "labels": {},
    "vector": {"hardware": 32},
    "baseline_at": NOW - 1000 * (DAY_S * 31),
    "delegation": Delegation(1, 1),
    "parent": Parent("a", "flows", "ex", "w", "s", 0, 0, 4),
}


@pytest.mark.parametrize("name", [one.name for one in fields(Facts)])
def test_a_question_about_other_facts_is_made_anew(name: str) -> None:
    entities = Entities(b'format = "ztrooted-entities/1"\n[pool.eu]\nlabels = { zone = "eu" }\n', "entities")
    other = replace(FACTS, **{name: OTHER_FACTS[name]})
    assert policy_request("renew", other, entities) != policy_request("renew", FACTS, entities)
    assert not other.asks_like(FACTS)


def test_what_a_question_tells_of_the_time_is_all_that_counts() -> None:
    """To the second at which a baseline grows old, which may be within a minute."""
    entities = Entities(b'format = "ztrooted-entities/1"\n', "entities")
    old = NOW + 30_000 - 1000 * 30 * DAY_S  # more than thirty days within this minute
    facts = [replace(FACTS, baseline_at=old, now_ms=NOW + 500 * step) for step in range(150)]
    asked = [policy_request("renew", one, entities) for one in facts]
    alike = [one.asks_like(facts[0]) for one in facts]
    assert alike == [one == asked[0] for one in asked]
    assert 60 <= sum(alike) < 120
