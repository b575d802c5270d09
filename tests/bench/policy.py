"""The rows of ``scripts/bench policy``: what a round, a decision and a baseline cost."""

import hashlib
import json
from collections.abc import Iterator

from tests.bench.measure import Row, compare, row
from tests.support.attestation import SoftwareAk
from tests.support.eventlog_builder import Log
from tests.support.ima_machine import Machine, file_digest
from tpm.algorithms import Alg
from tpm.attest import QuoteInfo
from tpm.eventlog import EventLogRules, parse_event_log, verify_event_log
from tpm.ima_rules import AllowList
from tpm.pcr import PcrSelection, pcr_digest
from tpm.quote import parse_quote, verify_quote
from ztrooted.appraisal import Question, appraise
from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.boot_reference import boot_reference
from ztrooted.dispatch_context import policy_request
from ztrooted.entities import Entities
from ztrooted.evidence import Evidence
from ztrooted.policies import Policies
from ztrooted.policy import DispatchPolicy, Request
from ztrooted.policy_cases import Case
from ztrooted.progress import Progress
from ztrooted.ready_made import files
from ztrooted.reference import Baseline, Reference

ENTRIES = 100_000
NEW_ENTRIES = 10
POLICIES, ENTITIES = 200, 1_000
ROUND_RATIO = 1 / 1.5  # a round may take 1.5 times what the quote alone takes
CEDAR_US, LOAD_S = 200.0, 0.5


def rows(*, entries: int = ENTRIES, rounds: int = 51) -> Iterator[Row]:
    """All rows; smaller numbers make a quick run that proves nothing about speed."""
    baseline = _baseline(entries)
    yield runtime_round(baseline, rounds)
    yield cedar(rounds)
    yield load(baseline.encode(), max(3, rounds // 10))


def _machine() -> tuple[dict[int, bytes], bytes, Machine]:
    log = Log()
    values = log.pcrs("sha256", range(10))
    aggregate = hashlib.sha256(b"".join(values[pcr] for pcr in range(10))).digest()
    machine = Machine(boot_digest=aggregate)
    machine.measure(*(f"/usr/bin/tool-{number}" for number in range(NEW_ENTRIES)))
    return values, log.data(), machine


def _baseline(entries: int) -> Baseline:
    """What a distribution's machine may have measured, and the boot of the one measured here."""
    values, data, machine = _machine()
    log = verify_event_log(parse_event_log(data), bank="sha256", pcrs=values, rules=EventLogRules(secure_boot=False))
    ima = {path: frozenset(digests) for path, digests in machine.allow.items()}
    ima |= {
        path: frozenset({f"sha256:{file_digest(path).hex()}"})
        for path in (f"/usr/lib/part-{number % 311}/file-{number}" for number in range(entries - len(ima)))
    }
    return Baseline("sha256", values, ima, "ex-" + "0" * 32, 0, boot_reference(log))


def runtime_round(baseline: Baseline, rounds: int) -> Row:
    """Appraise a quote and ten new files under a strict class, against verifying the quote alone."""
    values, log, machine = _machine()
    rules = AppraisalClass.model_validate(
        {
            "pcrs": [*range(11)],
            "pinned": [0, 2, 3, 4, 6, 7],
            "event_log": {"secure_boot": True, "images": "baseline", "events": [1, 5]},
            "ima": {},
        }
    )
    values[10] = machine.pcr10["sha256"]
    selection = PcrSelection.of({"sha256": sorted(values)})
    ak, nonce = SoftwareAk.ecc(), bytes(32)
    quoted = QuoteInfo(selection, pcr_digest(selection, {"sha256": values}, Alg.SHA256))
    attest, signature = ak.quote(attested=quoted, extra_data=nonce)
    pcrs = {"sha256": values}
    reference = Reference("0" * 64, baseline, AllowList(baseline.ima))
    first = Machine(boot_digest=machine.boot_digest)
    begun = Progress(None, first.replayed().state)
    evidence = Evidence(attest, signature, pcrs, log, 1, machine.ascii(1))
    question = Question(
        key=ak.key,
        qualifying_data=nonce,
        policy=rules,
        reference=reference,
        previous=begun,
        now_ms=0,
        virtual=False,
    )
    assert appraise(evidence, question).verdict.trusted, appraise(evidence, question).verdict

    def alone() -> None:
        verify_quote(parse_quote(attest, signature), ak.key, nonce=nonce, selection=selection, pcr_values=pcrs)

    found = compare(lambda: appraise(evidence, question), alone, rounds=rounds)
    target = f"ratio >= {ROUND_RATIO:.2f}"
    return row("runtime_round", found, "us", 1e6, "quote verification alone", target, found.speed >= ROUND_RATIO)


def _question() -> tuple[DispatchPolicy, Policies, Case]:
    text = "\n".join(
        f'@id("p{number}") permit (principal in Group::"g{number % 50}", action, resource in Pool::"p{number % 50}")'
        f' when {{ context.trusted && context.tier >= {number % 5} && context.workflow == "w{number}" }};'
        for number in range(POLICIES)
    )
    entities = 'format = "ztrooted-entities/1"\n'
    for number in range(50):
        members = ", ".join(f'"o{one}"' for one in range(number, ENTITIES // 2, 50))
        executors = ", ".join(f'"ex-{one:032x}"' for one in range(number, ENTITIES // 2, 50))
        entities += f"[group.g{number}]\nmembers = [{members}]\n[pool.p{number}]\nexecutors = [{executors}]\n"
    appraisal = files("strict")["appraisal.toml"]
    policies = Policies.load({"appraisal": appraisal, "dispatch": text.encode(), "entities": entities.encode()})
    case = Case.model_validate(
        {"name": "x", "expect": "permit", "orchestrator": "o7", "executor": f"ex-{7:032x}", "workflow": "w7"}
    )
    return policies.dispatch, policies, case


def cedar(rounds: int) -> Row:
    """One decision with 200 policies and 1,000 entities; beside it what reading the question as JSON takes."""
    dispatch, policies, case = _question()
    facts = case.facts(policies.appraisal)
    request: Request = policy_request("dispatch", facts, policies.entities)
    assert dispatch.decide(request).permitted
    assert isinstance(policies.entities, Entities)
    text = json.dumps(request.encode())
    found = compare(lambda: dispatch.decide(request), lambda: json.loads(text), rounds=rounds)
    met = found.value * 1e6 <= CEDAR_US
    return row("cedar_200_1000", found, "us", 1e6, "the question as JSON", f"<= {CEDAR_US:.0f} us", met)


def load(data: bytes, rounds: int) -> Row:
    """Read a baseline, ready for appraisals, against parsing its JSON and hashing its bytes."""

    def bare() -> None:
        json.loads(data)
        hashlib.sha256(data).digest()

    found = compare(lambda: Reference.load(data), bare, rounds=rounds)
    return row(
        "baseline_load_100k", found, "ms", 1e3, "json and sha256 of its bytes", f"<= {LOAD_S} s", found.value <= LOAD_S
    )
