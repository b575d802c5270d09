"""A thousand decisions, each made again from its file: the same bytes come out, and another input is noticed."""

import base64
import hashlib
import json
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.decisions import decision_body, facts
from gateway.rounds import Round
from gateway.storage.authorizations import Authorization
from gateway.storage.executors import Executor
from tests.support.attestation import SoftwareAk
from tests.support.eventlog_builder import Log
from tests.support.ima_machine import Machine
from tpm.algorithms import Alg
from tpm.attest import QuoteInfo
from tpm.pcr import PcrSelection, pcr_digest
from ztrooted import canonical
from ztrooted.appraisal import Question, appraise
from ztrooted.decision_file import DecisionFile, parse_decision_file, redecide
from ztrooted.delegation import Delegation
from ztrooted.dispatch_context import Parent, policy_request
from ztrooted.errors import GateError
from ztrooted.evidence import Evidence, Purpose, qualifying_data, sha256
from ztrooted.lifecycle import State
from ztrooted.models import Job
from ztrooted.policies import Policies
from ztrooted.progress import Progress
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.redecide import decide_again
from ztrooted.redecide_bundle import redecide_file
from ztrooted.reference import Baseline, Reference
from ztrooted.verdict import Verdict

DECISIONS = 1000
BATCHES = 10
EXECUTOR = "ex-" + "5" * 32
NOW = 1_800_000_000_000


@dataclass
class Case:
    """One random decision, recorded as the gateway records it."""

    file: DecisionFile
    permitted: bool


class Dice:
    """Random machines, policies and questions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 -- dice, not keys
        self.ak = SoftwareAk.ecc()

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def machine(self) -> tuple[dict[int, bytes], bytes, Machine]:
        log = Log()
        values = dict(log.pcrs("sha256", range(10)))
        aggregate = hashlib.sha256(b"".join(values[pcr] for pcr in range(10))).digest()
        ima = Machine(boot_digest=aggregate)
        for number in range(self.random.randrange(6)):
            ima.measure(f"/usr/bin/tool-{number}", allow=self.chance(0.9))
        values[10] = ima.pcr10["sha256"]
        return values, log.data(), ima

    def appraisal(self, pcrs: list[int]) -> str:
        lines = ['format = "ztrooted-appraisal/1"']
        if self.chance(0.3):
            lines += ["[class.labelled]", 'match = { labels = { zone = "eu" } }', f"pcrs = {pcrs}", "pinned = [0]"]
            lines += ["[class.labelled.ima]"]
        lines += ["[class.default]", f"pcrs = {pcrs}"]
        observe = self.chance(0.1)
        if observe:
            lines.append("observe = true")
        elif self.chance(0.7):
            lines.append(f"pinned = {sorted(self.random.sample([0, 4, 7], self.random.randrange(1, 4)))}")
        if not observe and self.chance(0.2):
            lines.append(f'min_tier = "{self.random.choice(["A1", "A2"])}"')
        if self.chance(0.5):
            lines += ["[class.default.event_log]", f"secure_boot = {self.random.choice(['true', 'false'])}"]
            if not observe and self.chance(0.3):
                lines.append('images = "baseline"')
        lines += ["[class.default.ima]"]
        return "\n".join(lines) + "\n"

    def cedar(self) -> str:
        conditions = [
            "context.trusted",
            f"context.tier >= {self.random.randrange(4)}",
            f'context.step == "{self.random.choice("abc")}"',
            'principal in Group::"ci"',
            'resource in Pool::"eu"',
            f"context.attempt < {self.random.randrange(1, 5)}",
            "context has parent && context.parent.depth < 2",
            f'resource.class == "{self.random.choice(["default", "labelled"])}"',
        ]
        rules = []
        if self.chance(0.4):
            return '@id("trusted") permit (principal, action, resource) when { context.trusted };'
        for number in range(self.random.randrange(1, 4)):
            effect = "permit" if number == 0 or self.chance(0.6) else "forbid"
            chosen = self.random.sample(conditions, self.random.randrange(1, 3))
            rules.append(
                f'@id("rule-{number}") {effect} (principal, action, resource) when {{ {" && ".join(chosen)} }};'
            )
        return "\n".join(rules)

    def entities(self) -> str:
        text = 'format = "ztrooted-entities/1"\n'
        if self.chance(0.7):
            text += '[group.ci]\nmembers = ["flows"]\n'
        if self.chance(0.7):
            text += '[pool.eu]\nlabels = { zone = "eu" }\n'
        return text

    def policies(self, pcrs: list[int]) -> Policies:
        """Valid ones: what does not load is thrown again."""
        while True:
            documents = {"appraisal": self.appraisal(pcrs), "dispatch": self.cedar(), "entities": self.entities()}
            try:
                return Policies.load({role: text.encode() for role, text in documents.items()})
            except GateError:
                continue

    def case(self) -> Case:
        values, log, ima = self.machine()
        pcrs = sorted(values)
        policies = self.policies(pcrs)
        labels = {"zone": "eu"} if self.chance(0.4) else {}
        good = dict(values)
        if self.chance(0.2):
            good[self.random.choice([0, 4, 7])] = bytes(32)
        allow = {path: frozenset(digests) for path, digests in ima.allow.items()}
        baseline = Baseline("sha256", {pcr: good[pcr] for pcr in pcrs if pcr != 10}, allow, EXECUTOR, NOW)
        data = baseline.encode()
        reference = None
        if self.chance(0.9):
            reference = Reference.load(data, self.random.choice([None, NOW + 1000, NOW - 1000]))
        return self.record(values, log, ima, policies, labels, reference, data)

    def record(
        self,
        values: dict[int, bytes],
        log: bytes,
        ima: Machine,
        policies: Policies,
        labels: dict[str, str],
        reference: Reference | None,
        baseline: bytes,
    ) -> Case:
        """Decide it as the gateway does, and write it down as the gateway does."""
        nonce, purpose = self.random.randbytes(32), Purpose.DISPATCH
        job = Job(
            workflow="w",
            run="1",
            step=self.random.choice("abc"),
            attempt=self.random.randrange(1, 5),
            argv=["/bin/true"],
            env="0" * 64,
        )
        bindings = (bytes.fromhex(job.digest()),)
        wanted = qualifying_data(purpose, nonce if self.chance(0.95) else bytes(32), *bindings)
        selection = PcrSelection.of({"sha256": sorted(values)})
        quoted = QuoteInfo(selection, pcr_digest(selection, {"sha256": values}, Alg.SHA256))
        attest, signature = self.ak.quote(attested=quoted, extra_data=wanted)
        if self.chance(0.05):
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        shown = b"" if self.chance(0.05) else ima.ascii()
        evidence = Evidence(attest, signature, {"sha256": values}, log if self.chance(0.95) else b"", 0, shown)
        executor = Executor(
            id=EXECUTOR,
            executor_class="default",
            virtual=self.chance(0.5),
            manufacturer="id:494E5443",
            ak_public=self.ak.key.public.marshal(),
            session_key=b"",
            enrollment=7,
            event_log=sha256(log),
            progress=Progress(),
            pcrs={},
            trusted=False,
            verdict={},
            proved_at=0,
            proof_due=0,
        )
        executor_class = "labelled" if labels and "labelled" in policies.appraisal.classes else "default"
        executor = replace(executor, executor_class=executor_class)
        rules = policies.appraisal.for_class(executor_class)
        question = Question(
            key=self.ak.key,
            qualifying_data=qualifying_data(purpose, nonce, *bindings),
            policy=rules,
            reference=reference,
            previous=Progress(),
            now_ms=NOW,
            virtual=executor.virtual,
        )
        done = Round(
            challenge="c" * 22,
            executor=executor,
            purpose=purpose,
            nonce=nonce,
            bindings=bindings,
            previous=Progress(),
            evidence=evidence,
            appraisal=appraise(evidence, question),
            now_ms=NOW,
            baseline=None if reference is None else reference.digest,
            policy=rules,
            policy_digest=policies.appraisal.digest,
            labels=labels,
        )
        parent = None
        if self.chance(0.2):
            parent = Parent("a" * 32, "flows", EXECUTOR, "w", "a", self.random.randrange(3), 0, 2)
        authorization = Authorization(
            id="b" * 32,
            executor=EXECUTOR,
            orchestrator=self.random.choice(["flows", "other"]),
            state=State.REQUESTED,
            job=job,
            job_digest=job.digest(),
            max_runtime_s=60,
            enrollment=7,
            requested_at=NOW,
            delegation=Delegation(),
        )
        action = "dispatch" if parent is None else "delegate"
        request = policy_request(action, facts(authorization, done, parent), policies.entities)
        decision = policies.dispatch.decide(request)
        body = {"round": done.body(), **decision_body(policies, request, decision)}
        asked = {
            "orchestrator": authorization.orchestrator,
            "executor": EXECUTOR,
            "job": job.model_dump(),
            "job_digest": job.digest(),
            "max_runtime_s": 60,
            "parent": None,
            "delegation": Delegation().model_dump(),
        }
        ak = executor.ak_public
        enrolled = {
            "executor": EXECUTOR,
            "virtual": executor.virtual,
            "manufacturer": executor.manufacturer,
            "ak_public": sha256(ak),
        }
        expires = None if reference is None else reference.expires_ms
        approved = {"baseline": sha256(baseline), "class": executor_class, "operator": "o", "expires": expires}
        blobs = [*evidence.blobs(), *policies.documents().values(), ak, baseline]
        file = DecisionFile(
            index=9,
            record=Record("policy.evaluated", NOW, body, authorization.id),
            asked=Record("dispatch.requested", NOW, asked, authorization.id),
            enrolled=Record("executor.enrolled", NOW, enrolled),
            approved=None if reference is None else Record("baseline.approved", NOW, approved),
            activated=Record("policy.activated", NOW, {**policies.digests(), "operator": None}),
            outcome=None,
            blobs={sha256(blob): blob for blob in blobs},
        )
        return Case(file, done.trusted and decision.permitted)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_decisions_come_out_the_same_again(batch: int) -> None:
    dice = Dice(batch)
    outcomes = set()
    for _ in range(DECISIONS // BATCHES):
        case = dice.case()
        file = parse_decision_file(case.file.encode())
        assert file == case.file
        again, differing = redecide(file)
        assert differing == ()
        assert again.permitted is case.permitted
        outcomes.add((again.verdict.reason, case.permitted))
    assert len(outcomes) > 5  # the dice do throw different things
    assert any(permitted for _, permitted in outcomes)


def test_another_input_is_noticed() -> None:
    """For each digest in a record: other bytes under it are refused, and a record that names others decides otherwise."""
    dice = Dice(77)
    case = next(case for case in iter(dice.case, None) if case.permitted)
    value = json.loads(case.file.encode())
    for digest, text in value["blobs"].items():
        other = hashlib.sha256(base64.b64decode(text)).digest() + b"x"
        swapped = {**value, "blobs": {**value["blobs"], digest: base64.b64encode(other).decode()}}
        with pytest.raises(GateError) as refused:
            parse_decision_file(canonical.encode(swapped))
        assert refused.value.reason == "bundle.malformed"


def change(file: DecisionFile, **parts: Any) -> DecisionFile:
    """A record that says something else in its body or in its round."""
    assert file.record is not None
    body = {**file.record.body, "round": {**file.record.body["round"]}}
    for name, part in parts.items():
        if name in body:
            body[name] = part
        else:
            body["round"][name] = part
    return replace(file, record=replace(file.record, body=body))


def test_a_record_that_lies_about_its_inputs_comes_out_otherwise() -> None:
    dice = Dice(78)
    case = next(case for case in iter(dice.case, None) if case.permitted and case.file.reference() is not None)
    file = case.file
    assert file.record is not None
    round_, request = file.record.body["round"], file.record.body["request"]
    trusted = {**round_["verdict"], "expires": round_["verdict"]["expires"] + 1}
    lies: dict[str, tuple[DecisionFile, str]] = {
        "another instant": (change(file, now=round_["now"] + 1), "verdict"),
        "a later expiry": (change(file, verdict=trusted), "verdict"),
        "another nonce": (change(file, nonce="00" * 32), "verdict"),
        "a better tier": (change(file, request={**request, "context": {**request["context"], "tier": 4}}), "request"),
        "another group": (change(file, request={**request, "groups": ["admins"]}), "request"),
        "another decision": (
            change(file, decision={**file.record.body["decision"], "determining": ["nobody"]}),
            "decision",
        ),
    }
    for name, (lie, part) in lies.items():
        assert part in redecide(lie)[1], name
        (found,) = redecide_file(lie.encode())
        assert part in found.differing, name


def test_a_verdict_survives_its_encoding() -> None:
    dice = Dice(79)
    for _ in range(20):
        recorded = dice.case().file.recorded().round["verdict"]
        assert Verdict.decode(recorded).encode() == recorded


def test_rules_without_a_class_for_the_machine_make_a_yes_a_no() -> None:
    dice = Dice(79)
    case = next(case for case in iter(dice.case, None) if case.permitted)
    others = 'format = "ztrooted-appraisal/1"\n[class.others]\nmatch = { labels = { nobody = "has-it" } }\n'
    documents = dict(case.file.policies().documents())
    documents["appraisal"] = (others + "pcrs = [0]\npinned = [0]\n").encode()
    policies = Policies.load(documents)
    again = decide_again(case.file.recorded(), policies, lambda _class: None, case.file.blob)
    assert not again.permitted
    assert again.verdict.reason is GateReason.POLICY_NO_CLASS
