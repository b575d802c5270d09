"""Runs the entries of an index: finds each one's judge by its kind, and compares what it says with what is expected."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tpm.errors import EvidenceError
from ztrooted.conformance import evidence_ima, evidence_keys, evidence_logs, evidence_quotes, evidence_results, lineage
from ztrooted.conformance.attacks import JUDGES
from ztrooted.conformance.index import Entry, Fields, VectorSet, read_index
from ztrooted.conformance.jws_model import REVOKED, USED, judge_token, load_keys
from ztrooted.conformance.results import (
    Case,
    Checks,
    Expectation,
    MissingFileError,
    NotApplicableError,
    Result,
    Status,
)
from ztrooted.errors import GateError

# What an undeclared exception of a verifier is: a defect, whatever was expected.
_DEFECTS = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)

# Where our code is of another family than the corpus': a token's use and revocation are the gateway's to know.
_FAMILIES: Mapping[str, str] = {str(USED): "jws", str(REVOKED): "jws"}

_EVIDENCE: Mapping[str, Callable[[Entry, Fields, Checks], None]] = {
    "ak_creation_params": evidence_keys.judge_creation,
    "attestation_evidence": evidence_quotes.judge_bundle,
    "certificate": evidence_keys.judge_certificate,
    "ar4si_table": evidence_results.judge_table,
    "ear_claims": evidence_results.judge_claims,
    "ear_jwt": evidence_results.judge_token,
    "ek_public_key": evidence_keys.judge_ek_location,
    "ima_log": evidence_ima.judge_log,
    "ima_log_entry": evidence_ima.judge_entry,
    "negative_case": evidence_logs.judge_negative,
    "pcr_selection_case": evidence_keys.judge_selection,
    "public_key": evidence_keys.judge_public_key,
    "quote_bundle": evidence_quotes.judge_bundle,
    "spec_id_event_data": evidence_logs.judge_spec_id,
    "tpm_event_log": evidence_logs.judge_log,
    "tpm_event_log_fragment": evidence_logs.judge_log,
    "verify_option_case": evidence_quotes.judge_option,
    "x509_extension": evidence_keys.judge_extension,
}
# Kinds that this product has nothing to do with, and why.
_OUTSIDE: Mapping[str, str] = {
    "attribute_certificate": "platform certificates are not read here",
    "ek_certificate_rule": "the case is a line of another language's source, without a certificate",
    "expected_output": "what another program printed; not an input",
}
# Kinds whose files hold vectors, expectations included.
_VECTORS = ("merkle", "note", "vkey", "signature", "jcs", "wycheproof")
# Members of an expectation whose value is a verdict over the whole entry.
_VERDICTS = (
    "check_ak_parameters",
    "mb_policy",
    "parse",
    "parse_single_event",
    "parse_spec_id",
    "replay",
    "verify",
    *(name for name in evidence_ima.VERDICTS if name.startswith("with")),
)
_REFUSING = ("error", "reject", "invalid", "fail")


def run_index(path: Path) -> Iterator[Result]:
    """Run everything in an index. EnvironmentProblem (GateError) where it is none."""
    for item in read_index(path):
        yield from _run_set(item) if isinstance(item, VectorSet) else run_entry(item)


def run_entry(entry: Entry) -> Iterator[Result]:
    """Run one entry: an attack, a file of vectors, or somebody else's evidence, told by its kind and members."""
    if entry.kind.startswith(_VECTORS):
        yield from _run_vectors(entry)
    elif "expect" in entry.value:
        yield _run_attack(entry)
    else:
        yield _run_evidence(entry)


def _run_attack(entry: Entry) -> Result:
    """One file, or a few, with a context, a verdict and the reasons that are right for it."""
    reasons = (str(entry.value.get("reason", "")), *map(str, entry.value.get("reason_alternatives") or ()))
    lenient = entry.value.get("lenient_ok") is True
    expected = Expectation(str(entry.value["expect"]), reasons, lenient)
    remark: list[str] = []
    return _judge(entry.id, entry.kind, expected, lambda: _attack(entry, remark), remark)


def _attack(entry: Entry, remark: list[str]) -> None:
    fields = entry.fields()
    for known in ("file", "sha256", "expect", "reason", "reason_alternatives", "lenient_ok", "format"):
        fields.take(known)
    context, named, budget = fields.nested("context"), fields.take("files") or {}, fields.take("budget_ms")
    fields.done()
    started = time.perf_counter()
    if entry.kind == "jws":
        keys, said = load_keys(entry.index, str((entry.value.get("context") or {}).get("jwks")))
        remark.extend([said] if said else [])
        token = entry.data().decode("utf-8", "surrogateescape")
        _timed(lambda: judge_token(token, context, keys), budget, started)
        return
    judge = JUDGES.get(entry.kind)
    if judge is None:
        raise NotApplicableError(f"nothing here judges the kind {entry.kind}")
    files = {"file": entry.data(), **{role: entry.read(name) for role, name in named.items()}}
    started = time.perf_counter()
    _timed(lambda: judge(files, context), budget, started)


def _timed(judge: Callable[[], None], budget_ms: float | None, started: float) -> None:
    """Run a judge; one that takes longer than the entry allows is a defect, whatever it says."""
    try:
        judge()
    finally:
        taken = 1000 * (time.perf_counter() - started)
        if budget_ms is not None and taken > budget_ms:
            raise ArithmeticError(f"took {taken:.0f} ms, of a budget of {budget_ms} ms")


def _judge(name: str, kind: str, expected: Expectation, judge: Callable[[], None], remark: list[str]) -> Result:
    """Run a judge that returns or raises, and compare."""

    def result(status: Status, actual: str, reason: str = "", detail: str = "") -> Result:
        said = "; ".join(part for part in (detail, *remark) if part)
        return Result(name, kind, status, expected.verdict, actual, reason, said, expected.reasons)

    try:
        judge()
    except (EvidenceError, GateError) as error:
        status, why = _compare_refusal(expected, str(error.reason))
        return result(status, "reject", str(error.reason), f"{why}{error.detail}")
    except NotApplicableError as error:
        return result(Status.NOT_APPLICABLE, "none", detail=str(error))
    except MissingFileError as error:
        return result(Status.MISSING, "none", detail=str(error))
    except _DEFECTS as error:
        return result(Status.FAIL, "error", detail=f"{type(error).__name__}: {error}")
    if expected.verdict == "accept":
        return result(Status.PASS, "accept")
    if expected.lenient:
        return result(Status.PASS, "accept", detail="the index calls accepting it possible")
    return result(Status.FAIL, "accept")


def _compare_refusal(expected: Expectation, reason: str) -> tuple[Status, str]:
    if expected.verdict != "reject":
        return (Status.PASS if expected.lenient else Status.FAIL), ""
    named = [code for code in expected.reasons if code]
    if not named or reason in named:
        return Status.PASS, ""
    family = _FAMILIES.get(reason, reason.partition(".")[0])
    if any(code.partition(".")[0] == family for code in named):
        return Status.PASS, f"another code of the family than {named[0]}: "
    return Status.FAIL, f"another family than that of {named[0]}: "


def _run_evidence(entry: Entry) -> Result:
    """A file of somebody else, with what their own tests say of it."""
    expected = entry.value.get("expected")
    shown = "none" if expected is None else ", ".join(sorted(expected)) if isinstance(expected, dict) else str(expected)

    def result(status: Status, actual: str, reason: str = "", detail: str = "") -> Result:
        return Result(entry.id, entry.kind, status, shown, actual, reason, detail)

    judge = _EVIDENCE.get(entry.kind)
    if judge is None:
        why = _OUTSIDE.get(entry.kind, f"nothing here judges the kind {entry.kind}")
        return result(Status.NOT_APPLICABLE, "none", detail=why)
    told = expected if isinstance(expected, dict) else {}
    fields, checks = Fields({name: value for name, value in told.items() if name != "same_as"}, "expectation"), Checks()
    oracle = bool(fields.left())
    refused = _wants_refusal(told)
    try:
        judge(entry, fields, checks)
    except (EvidenceError, GateError) as error:
        status = Status.NO_ORACLE if not oracle else Status.PASS if refused and not checks.wrong else Status.FAIL
        return result(status, "reject", str(error.reason), "; ".join([error.detail, *checks.wrong]))
    except (NotApplicableError, MissingFileError) as error:
        status = Status.NOT_APPLICABLE if isinstance(error, NotApplicableError) else Status.MISSING
        return result(Status.FAIL if checks.wrong else status, "none", detail=_summary(checks, str(error)))
    except _DEFECTS as error:
        return result(Status.FAIL, "error", detail=f"{type(error).__name__}: {error}")
    for name in fields.left():
        if name not in (*_VERDICTS, "error", "error_contains"):
            checks.skip(name, "not understood")
    if not oracle:
        return result(Status.NO_ORACLE, "accept", detail="read")
    if refused or checks.wrong:
        return result(Status.FAIL, "accept", detail="; ".join(checks.wrong) or "a refusal was expected")
    if not checks.names:
        return result(Status.NOT_APPLICABLE, "none", detail=_summary(checks, "nothing here to compare with"))
    return result(Status.PASS, "accept", detail=_summary(checks, f"{len(checks.names)} checks"))


def _wants_refusal(expected: Mapping[str, Any]) -> bool:
    """Whether the one verdict that is expected is a refusal; several are compared by their judge."""
    given = [str(expected[name]) for name in _VERDICTS if expected.get(name) is not None]
    return (len(given) == 1 and given[0].startswith(_REFUSING)) or expected.get("chain_ok") is False


def _summary(checks: Checks, text: str) -> str:
    return "; ".join([text, *checks.wrong, *(f"not compared: {name}" for name in checks.skipped)])


def _run_set(found: VectorSet) -> Iterator[Result]:
    """Every case of every file of a set."""
    try:
        files = list(found.files())
        root = found.folder / found.name
        if {"input", "output"} <= {path.relative_to(root).parts[0] for path in files}:
            for name, kind, expected, judge in lineage.canonical_cases(root):
                yield _judge(f"{found.name}/{name}", kind, expected, judge, [])
            return
    except MissingFileError as error:
        yield Result(found.name, found.name, Status.MISSING, "none", "none", detail=str(error))
        return
    for path in files:
        yield from _run_file(path.relative_to(found.folder).as_posix(), found.name, path.read_bytes())


def _run_file(name: str, kind: str, data: bytes) -> Iterator[Result]:
    """Every case of one file of vectors."""
    try:
        cases = list(_cases(name, data))
    except NotApplicableError as error:
        yield Result(name, kind, Status.NOT_APPLICABLE, "none", "none", detail=str(error))
        return
    except _DEFECTS as error:
        yield Result(name, kind, Status.FAIL, "none", "error", detail=f"{type(error).__name__}: {error}")
        return
    for inner, own, expected, judge in cases:
        yield _judge(f"{name}#{inner}" if inner else name, own, expected, judge, [])


def _cases(name: str, data: bytes) -> Iterator[Case]:
    if not name.endswith(".json"):
        yield from lineage.cases_of_text(data.decode())
    else:
        yield from lineage.cases_of(json.loads(data))


def _run_vectors(entry: Entry) -> Iterator[Result]:
    """An entry of a list that is a file of vectors, or one item of one."""
    try:
        data = entry.data() if "pointer" not in entry.value else json.dumps(entry.item()).encode()
    except MissingFileError as error:
        yield Result(entry.id, entry.kind, Status.MISSING, "none", "none", detail=str(error))
        return
    name = str(entry.value.get("file")) if "pointer" not in entry.value else "item.json"
    for result in _run_file(name, entry.kind, data):
        inner = result.id.partition("#")[2]
        yield Result(
            f"{entry.id}#{inner}" if inner else entry.id,
            entry.kind,
            result.status,
            result.expected,
            result.actual,
            result.reason,
            result.detail,
        )
