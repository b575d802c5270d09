"""IMA measurement lists: every entry, the PCR 10 they add up to, and what a quote and an allow-list make of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from tpm.errors import EvidenceError, RejectedError
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import ImaFinding, collect_ima_findings
from tpm.ima_entry import ImaEntry, ImaList
from tpm.ima_replay import ImaState, VerifiedImaEntries, extend, replay
from tpm.ima_rules import ImaRules
from tpm.pcr import PcrValues
from tpm.reasons import EvidenceReason
from ztrooted.inspect.plain import Report, plain


@dataclass(frozen=True, slots=True)
class ImaQuoted:
    """What is known beside the list: PCR 10 by bank, the state and offset of the round before, other quoted PCRs.

    Without ``allow_pending`` the list must end where the quote does. ``padded_sha1`` is for kernels before 5.8.
    """

    pcr10: Mapping[str, bytes]
    state: ImaState
    offset: int = 0
    allow_pending: bool = False
    padded_sha1: bool = False
    pcrs: PcrValues | None = None


@dataclass(frozen=True, slots=True)
class ImaInspection:
    """A report, and the entries that the rules refuse; the first of them is why the list is refused."""

    report: Report
    refused: tuple[ImaFinding, ...]


def inspect_ima(
    data: bytes, *, form: str | None = None, quoted: ImaQuoted | None = None, rules: ImaRules | None = None
) -> ImaInspection:
    """Read a list; replay it, against quoted values of PCR 10 where they are given; judge it where there are rules.

    1. The list parses; ``form`` is "ascii", "binary" or None to tell by its bytes.
    2. With ``quoted`` its entries reach the value of PCR 10 in each bank; else they are replayed in all of them.
    3. With ``rules`` every entry that a quote covers is judged, or every one where there is no quote.

    Raises EvidenceError with an ``ima.*`` code for 1 and 2; what 3 refuses is in ``refused``.
    """
    # 1. Parsing
    parsed = parse_ima_list(data, format=form)
    # 2. Replay
    offset = quoted.offset if quoted else 0
    verified, report = VerifiedImaEntries(offset, parsed.entries), _describe(parsed, offset)
    if quoted is None:
        report |= _replay_all(parsed)
    else:
        verified, replayed = _replay_quoted(parsed, quoted)
        report |= replayed
    # 3. Rules
    refused: tuple[ImaFinding, ...] = ()
    if rules is not None:
        appraisal = collect_ima_findings(verified, rules, pcrs=quoted.pcrs if quoted else None)
        refused = appraisal.findings
        report["appraisal"] = {name: value for name, value in plain(appraisal).items() if name != "findings"}
        report["findings"] += [plain(finding) for finding in refused]
    report["verified"] = quoted is not None
    return ImaInspection(report, refused)


def _describe(parsed: ImaList, offset: int) -> Report:
    violations = [offset + number for number, entry in enumerate(parsed.entries) if entry.violation]
    return {
        "format": parsed.format,
        "hash_alg": parsed.hash_alg,
        "first": offset,
        "count": len(parsed.entries),
        "violations": violations,
        "appraisal": None,
        "findings": [],
        "entries": [_entry(offset + number, entry) for number, entry in enumerate(parsed.entries)],
    }


def _entry(number: int, entry: ImaEntry) -> Report:
    kind = "" if entry.digest_type == "ima" else f"{entry.digest_type}:"
    return {
        "number": number,
        "pcr": entry.pcr,
        "template_hash": entry.template_hash.hex(),
        "template": entry.template,
        "digest": f"{kind}{entry.digest_alg}:{entry.digest.hex()}",
        "path": entry.path,
        "violation": entry.violation,
        "signature": entry.signature.hex() or None,
        "buffer": entry.buffer.hex() or None,
        "modsig_digest": entry.modsig_digest or None,
    }


def _replay_all(parsed: ImaList) -> Report:
    """PCR 10 of every bank, as if nothing had been measured before the first entry."""
    pcrs: Report = {}
    for bank in BANK_BY_NAME:
        try:
            _, value = extend(bytes(DIGEST_SIZE[BANK_BY_NAME[bank]]), parsed.entries, bank)
        except EvidenceError as error:
            raise RejectedError(error.reason, error.detail) from None
        pcrs[bank] = {"10": value.hex()}
    if not len(parsed.entries):
        raise RejectedError(EvidenceReason.IMA_EMPTY, "no entry was measured: IMA is not active")
    return {"pcrs": pcrs, "matched": 0, "pending": len(parsed.entries), "state": None}


def _replay_quoted(parsed: ImaList, quoted: ImaQuoted) -> tuple[VerifiedImaEntries, Report]:
    """Against every bank given; they must agree on how far the quote reaches."""
    results = {
        bank: replay(
            quoted.state,
            parsed.entries,
            bank=bank,
            pcr10=value,
            offset=quoted.offset,
            padded_sha1=quoted.padded_sha1,
            allow_pending=quoted.allow_pending,
        )
        for bank, value in quoted.pcr10.items()
    }
    if not results:
        raise ValueError("PCR 10 is given for no bank")
    reach = {result.matched for result in results.values()}
    if len(reach) > 1:
        found = ", ".join(f"{bank} {result.matched}" for bank, result in results.items())
        raise RejectedError(
            EvidenceReason.IMA_REPLAY_MISMATCH, f"the banks cover different numbers of entries: {found}"
        )
    first = next(iter(results.values()))
    report = {
        "pcrs": {bank: {"10": value.hex()} for bank, value in quoted.pcr10.items()},
        "matched": first.matched,
        "pending": first.pending,
        "state": first.state.to_dict(),
    }
    return first.verified, report
