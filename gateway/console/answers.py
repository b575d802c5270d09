"""One execution, as answers to what people ask of it: seven questions, each with what the records say and where they say it.

Every row names the record it is from, so that whoever doubts it goes there and has that record proved.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from gateway.console.stories import COUNTED, Story, Told, blob, newest, orders_between, record_at
from gateway.storage.listings import stands

MOST_TEXT = 32 << 10  # bytes of a policy that is shown; the rest is in the bundle
MOST_ROWS = 64  # of a list within an answer
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an answer. ``kind`` is how the value is written: ``text``, ``code``, ``time``, ``state``, ``reason``."""

    name: str
    value: Any
    kind: str = "text"
    record: int | None = None
    link: str = ""
    text: str = ""  # unfolded where somebody wants to read it


@dataclass(frozen=True, slots=True)
class Answer:
    """A question and what answers it."""

    question: str
    rows: tuple[Row, ...]


def answers(connection: sqlite3.Connection, story: Story) -> list[Answer]:
    """The seven of one authorization."""
    asking = _Asking(connection, story)
    questions: tuple[tuple[str, Callable[[], Iterator[Row]]], ...] = (
        ("Where did it come from?", asking.origin),
        ("Who authorized it?", asking.authority),
        ("Under which policy?", asking.policy),
        ("In which environment?", asking.environment),
        ("What did it depend on?", asking.dependencies),
        ("What state did it inherit?", asking.inheritance),
        ("Which controls acted?", asking.controls),
    )
    return [Answer(question, tuple(answer())) for question, answer in questions]


class _Asking:
    def __init__(self, connection: sqlite3.Connection, story: Story) -> None:
        self._connection = connection
        self._story = story
        self._asked = story.first[0]
        self._decided = story.one("policy.evaluated")
        self._rounds = [one for one in story.first if one.round]
        self._round: Body = self._rounds[0].round if self._rounds else {}

    def origin(self) -> Iterator[Row]:
        """1. Who asked for what, and on whose behalf."""
        asked, found = self._asked, self._story.authorization
        orchestrator = str(asked.body["orchestrator"])
        yield Row("Asked for by", orchestrator, "code", asked.index, f"?orchestrator={quote(orchestrator)}")
        yield Row("At", asked.at, "time")
        if found.parent is not None:
            yield Row("Under", found.parent, "code", link=f"/console/lineage/{found.parent}")
        else:
            yield Row("Under", "nothing: it is the first of its chain")
        job = found.job
        yield Row("Job", f"{job.workflow} / {job.run} / {job.step}, attempt {job.attempt}")
        yield Row("Job digest", found.job_digest, "code", link=f"?job={found.job_digest}")
        if isinstance(asked.body.get("trace"), str):
            yield Row("Trace", asked.body["trace"], "code")
        granted = found.delegation
        yield Row(
            "It may hand on", f"{granted.children} children, {granted.depth} levels" if granted.depth else "nothing"
        )

    def authority(self) -> Iterator[Row]:
        """2. Whose word let it run."""
        denied = self._story.one("authorization.denied")
        if denied is not None:
            yield Row("Nobody: denied for", denied.body["reason"], "reason", denied.index)
        if self._decided is not None and isinstance(self._decided.body.get("decision"), dict):
            decision = self._decided.body["decision"]
            word = "permitted" if decision.get("permitted") is True else "forbidden"
            by = ", ".join(map(str, decision.get("determining", []))) or "no policy permits it"
            yield Row("The dispatch policy", f"{word} by {by}", record=self._decided.index)
        for name, kind, key, digest in (
            ("Appraisal policy put in force by", "policy.activated", "appraisal", self._round.get("appraisal_policy")),
            ("Baseline approved by", "baseline.approved", "baseline", self._round.get("baseline")),
        ):
            if isinstance(digest, str):
                told = self._newest(kind, key, digest)
                operator = None if told is None else told.body.get("operator") or "the gateway's start"
                yield Row(name, operator or "not found", record=None if told is None else told.index)
        issued = self._story.one("authorization.issued")
        if issued is not None:
            yield Row("Authorized at", issued.at, "time", issued.index)
            yield Row("Signed by the key", issued.body["kid"], "code")
            yield Row("Artifacts in its chain", str(self._story.authorization.renewals + 1))

    def policy(self) -> Iterator[Row]:
        """3. The texts that decided, by their digests."""
        decided = {} if self._decided is None else self._decided.body
        for name, digest in (
            ("Appraisal policy", self._round.get("appraisal_policy")),
            ("Dispatch policy", decided.get("dispatch_policy")),
            ("Entities", decided.get("entities")),
            ("Baseline", self._round.get("baseline")),
        ):
            if isinstance(digest, str):
                data, size = blob(self._connection, digest, MOST_TEXT)
                text = data.decode("utf-8", "replace")
                yield Row(name, digest, "code", text=text if size <= MOST_TEXT else f"{text}\n…")
        if not self._round:
            yield Row("None", "it was decided before any policy was asked")

    def environment(self) -> Iterator[Row]:
        """4. The machine, as it proved itself."""
        found = self._story.authorization
        yield Row("Executor", found.executor, "code", link=f"?executor={quote(found.executor)}")
        index = self._round.get("enrollment")
        enrolled = record_at(self._connection, index) if isinstance(index, int) else None
        if enrolled is not None and enrolled.type == "executor.enrolled":
            body = enrolled.body
            yield Row("Its TPM", "virtual" if body["virtual"] else "hardware", "state", enrolled.index)
            yield Row("Made by", str(body["manufacturer"]), "code")
            yield Row("Attestation key", str(body["ak"]), "code")
        if "class" in self._round:
            yield Row("Class", str(self._round["class"]))
        labels = self._round.get("labels") or {}
        yield Row("Labels", ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "none")
        if found.tier is not None:
            yield Row("Tier", f"A{found.tier}")
        manifest = self._round.get("manifest")
        if isinstance(manifest, dict):
            pcrs = [
                f"{bank}:{pcr}  {value}" for bank, values in manifest["pcrs"].items() for pcr, value in values.items()
            ]
            yield Row("PCRs then", f"{len(pcrs)} values", record=self._rounds[0].index, text="\n".join(pcrs))
            yield Row("Event log", str(manifest["event_log"]), "code")
        started = self._story.one("execution.started")
        if started is not None:
            yield Row("Kept in by", str(started.body["enforcement"]).replace("_", " "), record=started.index)

    def dependencies(self) -> Iterator[Row]:
        """5. What it was to run with, by digest."""
        job, asked = self._asked.body["job"], self._asked.index
        yield Row("Command", " ".join(map(str, job["argv"])), "code", asked)
        yield Row("In", str(job["cwd"]), "code")
        yield Row("Environment variables", str(job["env"]), "code")
        for path, digest in sorted(job["files"].items())[:MOST_ROWS]:
            yield Row(f"File {path}", str(digest), "code")
        if len(job["files"]) > MOST_ROWS:
            yield Row("And", f"{len(job['files']) - MOST_ROWS} more files")
        for name, key in (
            ("User", "user"),
            ("Memory (bytes)", "memory"),
            ("Processes", "pids"),
            ("Processor (%)", "cpu"),
        ):
            if key in job:
                yield Row(name, str(job[key]))
        if self._round.get("evidence"):
            yield Row("Evidence of its first round", str(self._round["evidence"]), "code", self._rounds[0].index)

    def inheritance(self) -> Iterator[Row]:
        """6. What was so before it began."""
        previous = self._round.get("previous")
        if isinstance(previous, dict):
            clock = previous.get("clock")
            if isinstance(clock, dict):
                yield Row(
                    "The TPM's clock",
                    f"{clock['clock']} ms, reset {clock['reset_count']}, restart {clock['restart_count']}",
                )
                yield Row("Its firmware", str(clock["firmware_version"]), "code")
            yield Row("Measurements followed before", f"{previous['ima']['entries']} entries")
        request = {} if self._decided is None else self._decided.body.get("request", {})
        parent = request.get("context", {}).get("parent") if isinstance(request, dict) else None
        if isinstance(parent, dict):
            told = ", ".join(f"{name} {value}" for name, value in sorted(parent.items()) if not isinstance(value, dict))
            yield Row("Its parent then", told, record=None if self._decided is None else self._decided.index)
        if not self._round:
            yield Row("Nothing", "nobody was asked for proof")

    def controls(self) -> Iterator[Row]:
        """7. What was checked, and what ended it."""
        counts, story = self._story.counts, self._story
        good = counts.get("attestation.passed", 0)
        bad = counts.get("attestation.failed", 0), counts.get("attestation.overdue", 0)
        of = "" if story.counted_all else f", of its latest {COUNTED:,} records"
        yield Row("Proofs while it was live", f"{good} passed, {bad[0]} failed, {bad[1]} did not come{of}")
        yield Row("Leases", f"{story.authorization.renewals + (1 if story.one('authorization.issued') else 0)} given")
        for one in story.last:
            if one.type not in {"attestation.failed", "attestation.overdue"}:
                continue
            verdict = one.body.get("verdict")
            yield Row("Proof refused for", verdict["reason"] if verdict else "lease.expired", "reason", one.index)
        last = story.last[-1].index
        subjects = {story.authorization.id, story.authorization.executor, story.authorization.orchestrator}
        for told in orders_between(self._connection, self._asked.index, last, subjects)[:MOST_ROWS]:
            body = told.body
            order = f"{told.type.removeprefix('operator.')} {body.get('id')}"
            said = f"{body.get('operator')}: {order}, {body.get('reason')}"
            yield Row("An operator's order", said, record=told.index)
        yield from self._end()

    def _end(self) -> Iterator[Row]:
        story = self._story
        revoked, stopped, closed = (
            story.final(kind) for kind in ("authorization.revoked", "execution.interrupted", "execution.closed")
        )
        if revoked is not None:
            yield Row("Revoked for", revoked.body["reason"], "reason", revoked.index)
        if stopped is not None:
            took = f"{stopped.at - revoked.at} ms after the revocation" if revoked is not None else ""
            yield Row("Stopped", ", ".join(filter(None, (str(stopped.body["outcome"]), took))), record=stopped.index)
        if closed is not None:
            status = closed.body.get("exit_status")
            said = str(closed.body["outcome"]) if status is None else f"{closed.body['outcome']}, status {status}"
            yield Row("Closed", said, record=closed.index)
        one = story.authorization
        yield Row("Now", stands(self._connection, one.id, one.state, one.reason), "state")

    def _newest(self, kind: str, key: str, digest: str) -> Told | None:
        return newest(self._connection, kind, self._asked.index, lambda body: body.get(key) == digest)
