"""Cases for the checks from the fourth on, over bundles of which nothing was verified before; see ``tests.vectors.parts``.

So no key is needed to tell what no gateway would: records are changed, and the log is made whole again.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.vectors.operations import Operation, apply, rehashed_difference
from tests.vectors.parts import DATA
from tests.vectors.parts_chain import CHAIN
from tests.vectors.parts_told import (
    at_time,
    enrolled_twice,
    first_check,
    job,
    manifest,
    of,
    round_told,
    told,
    verdict,
)
from ztrooted import canonical

Made = Iterator[tuple[str, str, dict[str, Any]]]
Records = list[dict[str, Any]]
Change = Callable[[Records], Any]


def traced(intent: object, decision: object) -> Change:
    """What two records say of a trace; None says nothing."""

    def change(records: Records) -> None:
        for kind, trace in (("dispatch.requested", intent), ("policy.evaluated", decision)):
            if trace is not None:
                of(records, kind)["body"]["trace"] = trace

    return change


STORY, APPRAISED = ["story"], ["story", "executor", "quotes", "appraisals"]
CONTINUOUS = ["story", "continuity"]
GRANT: list[tuple[str, list[str], Change]] = [
    (
        "as it is",
        ["log_key", *APPRAISED, "policies", "parents", "decisions", "artifacts", "continuity", "outcome"],
        lambda records: None,
    ),
    *(
        (f"a job with {title}", STORY, job(**changes))
        for title, changes in {
            "no workflow": {"workflow": None},
            "a workflow in a list": {"workflow": ["w"]},
            "a step with a space": {"step": "a b"},
            "attempt 0": {"attempt": 0},
            "no argv": {"argv": []},
            "257 arguments": {"argv": ["x"] * 257},
            "an argument of 4097 characters": {"argv": ["x" * 4097]},
            "an argument that is a number": {"argv": [1]},
            "an env that is no digest": {"env": "ab"},
            "a file without a path": {"files": {"file": "ab" * 32}},
            "a file that is no digest": {"files": {"/file": "ab"}},
            "a member more": {"extra": 1},
            "a user by name": {"user": "root"},
            "user 4294967295": {"user": "4294967295:0"},
            "a user": {"user": "1000:1000"},
            "memory of a byte": {"memory": 1},
            "no process": {"pids": 0},
            "a cpu of nought": {"cpu": 0},
            "all there may be": {"memory": 1 << 50, "pids": 1 << 22, "cpu": 819200},
            "too much memory": {"memory": (1 << 50) + 1},
        }.items()
    ),
    *(
        (f"a trace {title}", STORY, traced(*told))
        for title, told in {
            "in both records": ("ab" * 16, "ab" * 16),
            "in one record": ("ab" * 16, None),
            "of another request": ("ab" * 16, "cd" * 16),
            "of zeros": ("0" * 32, None),
            "in capitals": ("AB" * 16, None),
            "and a line": ("ab" * 16 + "\n", None),
            "that is too long": ("ab" * 17, None),
            "that is a number": (1, None),
            "in a list": (["ab" * 16], None),
        }.items()
    ),
    ("a job that is a list", STORY, told("dispatch.requested", job=[])),
    ("a passed round that was not trusted", STORY, verdict("attestation.passed", -1, trusted=False)),
    ("a round of another time", STORY, round_told("attestation.passed", now=1)),
    ("a round without a verdict", STORY, round_told("attestation.passed", verdict=None)),
    ("a round of no enrollment", STORY, round_told("attestation.passed", enrollment=None)),
    (
        "an enrollment that is not here",
        ["story", "executor"],
        lambda records: [
            one["body"].get("round", one["body"]).update(enrollment=999)
            for one in records
            if one["type"] in ("policy.evaluated", "attestation.passed")
        ],
    ),
    (
        "an enrollment that is none",
        ["story", "executor"],
        lambda records: [
            one["body"].get("round", one["body"]).update(enrollment=0)
            for one in records
            if one["type"] in ("policy.evaluated", "attestation.passed")
        ],
    ),
    ("two enrollments", ["story", "executor"], enrolled_twice),
    ("a round of another executor", ["story", "executor"], round_told("attestation.passed", executor="ex-" + "0" * 32)),
    ("no EK certificate", ["story", "executor"], told("executor.enrolled", ek_chain=[])),
    (
        "an enrollment of another class",
        ["story", "executor"],
        lambda records: of(records, "executor.enrolled")["body"]["round"].update({"class": "other"}),
    ),
    (
        "a decision the other way",
        ["story", "decisions"],
        lambda records: of(records, "policy.evaluated")["body"]["decision"].update(permitted=False),
    ),
    (
        "a quote after the lease",
        CONTINUOUS,
        lambda records: of(records, "authorization.issued")["body"]["claims"].update(exp=1),
    ),
    ("a round before the one before", CONTINUOUS, at_time("attestation.passed", -1, -3_600_000)),
    ("a grant without a good quote", CONTINUOUS, verdict("policy.evaluated", 0, trusted=False)),
    ("an end after the lease", CONTINUOUS, at_time("execution.closed", 0, 3_600_000)),
    (
        "a lease of no time",
        CONTINUOUS,
        lambda records: of(records, "authorization.issued")["body"]["claims"].update(exp="soon"),
    ),
    ("evidence without a manifest", ["story", "quotes"], round_told("attestation.passed", -1, manifest=None)),
    ("a manifest in a list", ["story", "quotes"], round_told("attestation.passed", -1, manifest=[])),
    ("a manifest with a member more", ["story", "quotes"], manifest(lambda one: one.update(extra=1))),
    ("a manifest without values", ["story", "quotes"], manifest(lambda one: one.pop("pcrs"))),
    (
        "a manifest of a PCR that is none",
        ["story", "quotes"],
        manifest(lambda one: one["pcrs"]["sha256"].update({"x": "00" * 32})),
    ),
    ("a manifest of text", ["story", "quotes"], manifest(lambda one: one.update(attest=1))),
    ("bindings that are text", ["story", "quotes"], round_told("attestation.passed", bindings="00")),
    ("a purpose that there is not", ["story", "quotes"], round_told("attestation.passed", -1, purpose="leisure")),
    ("live authorizations that are a number", ["story", "quotes"], round_told("attestation.passed", -1, live=1)),
    (
        "no evidence for a round that passed",
        APPRAISED,
        round_told("attestation.passed", -1, manifest=None, evidence=None),
    ),
    (
        "a clock without its firmware",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["clock"].pop("firmware_version"),
    ),
    (
        "a clock that is text",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["clock"].update(clock="soon"),
    ),
    (
        "a clock from before",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["clock"].update(clock="1"),
    ),
    (
        "no clock",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"].update(clock=None),
    ),
    ("a check of no status", APPRAISED, first_check(status="maybe")),
    ("a check of a number", APPRAISED, first_check(name=1)),
    ("two banks", APPRAISED, manifest(lambda one: one["pcrs"].update(sha384={"0": "00" * 48}))),
    ("a measurement list without PCR 10", APPRAISED, manifest(lambda one: one["pcrs"]["sha256"].pop("10"))),
    (
        "an enrollment that continues something",
        APPRAISED,
        lambda records: of(records, "executor.enrolled")["body"]["round"]["previous"].update(
            clock=of(records, "attestation.passed", -1)["body"]["previous"]["clock"]
        ),
    ),
    (
        "an enrollment of other evidence",
        APPRAISED,
        manifest(lambda one: one.update(signature=one["attest"]), "executor.enrolled", 0),
    ),
    (
        "a list that was followed to another place",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["ima"].update(entries=1),
    ),
    (
        "a list of an unknown bank",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["ima"].update(
            pcrs={"md5": "00" * 16}
        ),
    ),
    (
        "a list of no entries and a value",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["ima"].update(entries=0),
    ),
    (
        "a list of entries below nought",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["previous"]["ima"].update(entries=-1),
    ),
    ("other labels", ["story", "policies"], round_told("attestation.passed", labels={"rack": "7"})),
    (
        "an end without an outcome",
        ["story", "outcome"],
        lambda records: of(records, "execution.closed")["body"].pop("outcome"),
    ),
    (
        "a check twice",
        APPRAISED,
        lambda records: of(records, "attestation.passed", -1)["body"]["verdict"]["checks"].append(
            of(records, "attestation.passed", -1)["body"]["verdict"]["checks"][0]
        ),
    ),
    (
        "an enrollment without evidence",
        APPRAISED,
        lambda records: of(records, "executor.enrolled")["body"]["round"].update(manifest=None, evidence=None),
    ),
    ("an outcome that is a number", ["story", "outcome"], told("execution.closed", outcome=1)),
    (
        "a round that says it is a dispatch's",
        ["story", "quotes"],
        round_told("attestation.passed", 0, purpose="dispatch"),
    ),
]


def _operations(name: str, change: Change) -> list[Operation]:
    before = json.loads((DATA / name).read_bytes())
    records = [json.loads(entry["record"]) for entry in before["records"]]
    change(records)
    entries = [{"index": 0, "proof": [], "record": canonical.encode(one).decode()} for one in records]
    named = {text for entry in entries for text in entry["record"].split('"')} | {*before["artifacts"], *before["ima"]}
    blobs = {digest: data for digest, data in before["blobs"].items() if digest in named}
    raw = canonical.encode({**before, "records": entries, "blobs": blobs})
    return rehashed_difference(before, json.loads(apply(raw, [{"op": "rehash"}])))


def stories() -> Made:
    """Of a grant, of a chain, and some with other anchors."""
    for base, anchors, tales in (
        ("grant-signed-anew.json", "anchors.toml", GRANT),
        ("chain-signed-anew.json", "anchors.toml", CHAIN),
    ):
        for title, checks, change in tales:
            operations = _operations(base, change)
            name = f"{base.split('-')[0]}: {title}"
            yield "story", name, {"bundle": base, "anchors": anchors, "operations": operations, "checks": checks}
    given: dict[str, Any] = {"bundle": "grant-signed-anew.json", "operations": [], "checks": ["log_key"]}
    yield "story", "grant: another log key", {**given, "anchors": "anchors-other-log-key.toml"}
    records = json.loads((DATA / "grant-signed-anew.json").read_bytes())["records"]
    text = records[-1]["record"]
    at = text.index('"leaf":"') + 8
    torn = [
        {
            "op": "splice",
            "path": ["records", len(records) - 1, "record"],
            "at": at,
            "remove": 2,
            "insert": "00" if text[at : at + 2] != "00" else "01",
        }
    ]
    yield (
        "story",
        "grant: a link to something else",
        {**given, "anchors": "anchors.toml", "operations": torn, "checks": STORY},
    )
