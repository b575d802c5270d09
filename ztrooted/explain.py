"""Why a decision was made, told as a good compiler tells an error: what, where, by which rule, and what to do.

Pure: everything comes out of a decision file, so a person at the gateway and an auditor far from it read the same.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tpm.reasons import EvidenceReason
from ztrooted.decision_file import DecisionFile, told_by
from ztrooted.errors import GateError, ProofError
from ztrooted.explanations import explain as explain_reason
from ztrooted.reasons import GateReason, Reason, parse_reason
from ztrooted.reference import parse_baseline
from ztrooted.toml_lines import line_of
from ztrooted.verdict import Status, Verdict

WIDTH = 96
# The part of a class that asks for a check.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "quote": ("pcrs",),
    "clock": ("pcrs",),
    "event_log": ("event_log",),
    "boot": ("event_log",),
    "baseline": ("pinned",),
    "ima": ("ima",),
    "files": ("ima",),
    "tier": ("min_tier",),
}
_BOOT_RULES: dict[str, str] = {
    GateReason.BOOT_KEYS: "keys",
    GateReason.BOOT_AUTHORITY: "authorities",
    GateReason.BOOT_IMAGE: "images",
    GateReason.BOOT_FILE: "files",
    GateReason.BOOT_COMMAND_LINE: "command_line",
    GateReason.BOOT_EVENT: "events",
}
_MARKS = {Status.PASS.value: "ok", Status.FAIL.value: "FAILED", Status.NOT_CHECKED.value: "not checked"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """``notes`` are pairs of a label and a text, in order; ``reason`` is None for a yes."""

    permitted: bool
    reason: Reason | None
    headline: str
    where: str
    notes: tuple[tuple[str, str], ...]
    help: str

    def encode(self) -> dict[str, Any]:
        """For the API."""
        return {
            "permitted": self.permitted,
            "reason": self.reason,
            "headline": self.headline,
            "where": self.where,
            "notes": [{"label": label, "text": text} for label, text in self.notes],
            "help": self.help,
            "text": self.text(),
        }

    def text(self) -> str:
        """For a terminal, no line longer than ``WIDTH`` where its words allow that."""
        head = f"error[{self.reason}]" if self.reason else "permitted"
        lines = textwrap.wrap(f"{head}: {self.headline}", WIDTH, subsequent_indent="  ")
        lines += [f"  --> {self.where}", "   |"]
        for label, text in self.notes:
            lines += _wrapped(f"{label}: ", text)
        if self.help:
            lines += ["   |", *_wrapped("help: ", self.help, mark="=")]
        return "\n".join(lines)


def _wrapped(label: str, text: str, mark: str = "|") -> list[str]:
    """``text`` behind its label, further lines below it."""
    first, indent = f"   {mark} {label}", "   | " + " " * len(label)
    found: list[str] = []
    for part in text.split("\n"):
        found += textwrap.wrap(
            part,
            WIDTH,
            initial_indent=indent if found else first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [indent.rstrip()]
    return found


def explain(file: DecisionFile) -> Explanation:
    """The explanation of a decision; of a denial without one, what its record says. ProofError for records that lie."""
    with told_by(file.index):
        return _explain(file)


def _explain(file: DecisionFile) -> Explanation:
    body, record = file.body, file.record
    if body is None or record is None:
        return _without_round(file)
    verdict, decision = body["verdict"], record.body.get("decision")
    permitted = verdict["trusted"] is True and (decision is None or decision["permitted"] is True)
    code = verdict["reason"] or (decision["reason"] if decision is not None else None)
    if permitted and file.outcome is not None:
        code, permitted = file.outcome.body["reason"], False
    reason = None if permitted or code is None else parse_reason(code)
    notes = [("when", f"{_time(body['now'])}, a quote with purpose {body['purpose']}")]
    notes += [("for", _asked(file))] if file.asked is not None else []
    notes += _verdict_notes(file, body)
    notes += _decision_notes(record.body, decision)
    if file.outcome is not None:
        told = file.outcome.body["detail"]
        notes.append(("led to", file.outcome.type + ("" if told in {"", Verdict.detail_of(verdict)} else f": {told}")))
    known = None if reason is None else explain_reason(reason)
    return Explanation(
        permitted=permitted,
        reason=reason,
        headline="everything that was required was proved" if known is None else known.meaning.rstrip("."),
        where=f"executor {body['executor']}, as of record {file.index}",
        notes=tuple(notes),
        help="" if known is None else known.remedy,
    )


def _without_round(file: DecisionFile) -> Explanation:
    if file.outcome is None:
        raise ProofError(GateReason.BUNDLE_INCOMPLETE, "the file holds no decision")
    reason = parse_reason(file.outcome.body["reason"])
    known = explain_reason(reason)
    notes = [("when", _time(file.outcome.at))]
    notes += [("for", _asked(file))] if file.asked is not None else []
    notes.append(("found", file.outcome.body["detail"]))
    notes.append(("proof", "the executor was not asked for any"))
    where = f"record {file.index}"
    return Explanation(False, reason, known.meaning.rstrip("."), where, tuple(notes), known.remedy)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _asked(file: DecisionFile) -> str:
    assert file.asked is not None  # noqa: S101 -- asked for only where it is there
    asked = file.asked.body
    job = asked["job"]
    return (
        f"step {job['step']} of {job['workflow']}, run {job['run']}, attempt {job['attempt']},"
        f" asked for by {asked['orchestrator']}"
    )


def _verdict_notes(file: DecisionFile, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    checks = body["verdict"]["checks"]
    failed = next((check for check in checks if check["status"] == Status.FAIL.value), None)
    if failed is not None:
        yield "found", failed["detail"]
        yield from _more(file, body, failed)
        yield "rule", _rule(file, body, failed)
    yield "checks", ", ".join(f"{check['name']} {_MARKS[check['status']]}" for check in checks)
    if body["baseline"] is None:
        yield "baseline", f"none was in force for class {body['class']!r}"
    elif file.approved is not None:
        approved = file.approved.body
        until = "" if approved["expires"] is None else f", until {_time(approved['expires'])}"
        by = f"approved by {approved['operator']} at {_time(file.approved.at)}{until}"
        yield "baseline", f"{body['baseline']}, {by}"


def _more(file: DecisionFile, body: dict[str, Any], failed: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a person would look up next."""
    if failed["reason"] != EvidenceReason.IMA_NOT_ALLOWED or body["baseline"] is None:
        return
    try:
        listed = parse_baseline(file.blob(body["baseline"])).ima
    except GateError:
        return
    for word in failed["detail"].split():
        digest = word.rstrip(":,")
        if digest.startswith("sha") and (known := sorted(path for path, all_ in listed.items() if digest in all_)):
            yield "note", f"a file of the same content is approved as {known[0]}"
            return


def _rule(file: DecisionFile, body: dict[str, Any], failed: dict[str, Any]) -> str:
    """The part of the appraisal policy that asked for the check, by its line."""
    section = ("class", body["class"], *_SECTIONS.get(failed["name"], ()))
    if failed["reason"] in _BOOT_RULES:
        section = (*section, _BOOT_RULES[failed["reason"]])
    name = ".".join(section)
    try:
        text = file.blob(body["appraisal_policy"]).decode()
    except GateError:
        return name
    line = line_of(text, section)
    return name if line is None else f"{name}, line {line} of the appraisal policy"


def _decision_notes(body: dict[str, Any], decision: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if decision is None:
        return
    asked = body["request"]
    context = asked["context"]
    said = "permits it" if decision["permitted"] else "does not permit it"
    if decision["errors"]:
        why = f"it failed while deciding, and an error is a denial: {decision['errors'][0]}"
    elif decision["determining"]:
        why = f"decided by {', '.join(decision['determining'])}"
    else:
        why = "no permit matches, and the default is to deny"
    yield "policy", f"the dispatch policy {said}: {why}"
    yield (
        "asked as",
        (
            f"{asked['action']} by {asked['orchestrator']} on {asked['executor']}"
            f" (trusted: {str(context['trusted']).lower()}, tier: A{context['tier']})"
        ),
    )
