"""Appraisal of verified IMA entries under rules: the first thing that is wrong, or all of it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from tpm.errors import EvidenceError, RejectedError
from tpm.ima_entry import HASHERS, Row, entry_of, shown_path
from tpm.ima_paths import is_plain
from tpm.ima_replay import VerifiedImaEntries
from tpm.ima_rules import BOOT_AGGREGATE, BootAggregate, ImaRules
from tpm.ima_signature import verify_ima_signature
from tpm.ima_template import MAX_LEGACY_NAME
from tpm.reasons import EvidenceReason

# Enough for a person to see the pattern; a machine with another system on it has as many findings as entries.
MAX_FINDINGS = 1000

# Keyrings whose keys the kernel measures under their names when they are loaded (Documentation/ABI/testing/ima_policy).
KEYRINGS = frozenset(
    {
        b".ima",
        b"_ima",
        b".evm",
        b"_evm",
        b".machine",
        b".platform",
        b".blacklist",
        b".builtin_trusted_keys",
        b".secondary_trusted_keys",
        b".system_keyring",
    }
)
_SIGNED = frozenset({b"ima-sig", b"ima-sigv2", b"ima-modsig"})

QuotedPcrs = Mapping[str, Mapping[int, bytes]]


@dataclass(frozen=True, slots=True)
class ImaFinding:
    """One entry that is not acceptable. ``index`` counts from 0 in the whole list; ``digest`` is ``alg:hex``."""

    index: int
    reason: EvidenceReason
    path: str
    digest: str
    detail: str

    def error(self) -> RejectedError:
        """The finding as what a verifier raises."""
        return RejectedError(self.reason, f"entry {self.index}, {self.path!r} {self.digest}: {self.detail}")


@dataclass(frozen=True, slots=True)
class ImaAppraisal:
    """How many entries were looked at, and how each accepted one came to be accepted. Without findings, all were."""

    entries: int
    listed: int
    signed: int
    excluded: int
    violations: int
    findings: tuple[ImaFinding, ...] = ()


@dataclass(slots=True)
class _Tally:
    signatures: int = 0
    signed: int = 0
    excluded: int = 0
    violations: int = 0


def appraise_ima(verified: VerifiedImaEntries, rules: ImaRules, *, pcrs: QuotedPcrs | None = None) -> ImaAppraisal:
    """Judge entries that a quote covers; ``pcrs`` are the values the same quote proved, for the boot aggregate.

    For each entry, in the order of the list:

    1. The first entry of the list is the boot aggregate, and it is that of this boot; no later entry claims to be one.
    2. The template is one the rules accept.
    3. A violation is one the rules accept.
    4. The digest is by an accepted algorithm.
    5. A buffer is listed by its name, and its digest is its own.
    6. A file's path is absolute and plain.
    7. The file is listed with this digest, or not listed and signed by the keyring, or not listed and excluded.

    Raises RejectedError for the first entry that fails: ``ima.boot_aggregate`` (1), ``ima.template_unknown`` (2),
    ``ima.violation`` (3), ``ima.digest_alg`` (4), ``ima.digest_not_allowed`` (5, 7), ``ima.signature_invalid`` and
    ``ima.key_not_allowed`` (7), ``ima.not_allowed`` (5, 6, 7); ``ima.too_large`` for more signatures than allowed.
    """
    tally = _Tally()
    for finding in _findings(verified, rules, pcrs or {}, tally):
        raise finding.error()
    return _result(len(verified.entries), tally, ())


def collect_ima_findings(
    verified: VerifiedImaEntries, rules: ImaRules, *, pcrs: QuotedPcrs | None = None, limit: int = MAX_FINDINGS
) -> ImaAppraisal:
    """Like ``appraise_ima``, but goes on after what is wrong and returns up to ``limit`` findings."""
    tally = _Tally()
    found = tuple(islice(_findings(verified, rules, pcrs or {}, tally), limit))
    # At the limit nobody has looked past the last finding.
    seen = found[-1].index - verified.first + 1 if found and len(found) == limit else len(verified.entries)
    return _result(seen, tally, found)


def _result(seen: int, tally: _Tally, findings: tuple[ImaFinding, ...]) -> ImaAppraisal:
    others = tally.signed + tally.excluded + tally.violations + len(findings)
    return ImaAppraisal(seen, seen - others, tally.signed, tally.excluded, tally.violations, findings)


def _findings(verified: VerifiedImaEntries, rules: ImaRules, pcrs: QuotedPcrs, tally: _Tally) -> Iterator[ImaFinding]:
    rows = verified.entries.rows
    index = verified.first
    if index == 0 and rows:
        # 1. First entry
        judged = _judge_boot_aggregate(rows[0], rules, pcrs)
        if judged:
            yield _finding(0, rows[0], *judged)
        rows, index = rows[1:], 1
    # What nearly every entry is: a plain file, listed with its digest. Everything else is judged step by step.
    listed = rules.allow.files
    usual = {name.encode() for name in rules.templates - {"ima", "ima-buf"}}
    strong = {name.encode() for name in rules.digest_algs}
    nothing: tuple[bytes, ...] = ()
    no_hash = bytes(len(rows[0][0])) if rows else b""
    for index, row in enumerate(rows, index):  # noqa: B020 -- goes on counting from the first
        shown, template, text, path, _ = row
        if (
            text in listed.get(path, nothing)
            and template in usual
            and text.partition(b":")[0] in strong
            and shown != no_hash
        ):
            continue
        judged = _judge(row, rules, tally)
        if judged:
            yield _finding(index, row, *judged)


def _finding(index: int, row: Row, reason: EvidenceReason, detail: str) -> ImaFinding:
    return ImaFinding(index, reason, shown_path(row[3]), row[2].decode(), detail)


_Judged = tuple[EvidenceReason, str] | None


def _judge(row: Row, rules: ImaRules, tally: _Tally) -> _Judged:
    """Steps 1 to 7 for one entry but the first: None, or why it is refused."""
    shown, template, text, path, _ = row
    # 1. No second boot aggregate
    if path == BOOT_AGGREGATE:
        return EvidenceReason.IMA_BOOT_AGGREGATE, "only the first entry of a list is the boot aggregate"
    # 2. Template
    if template.decode() not in rules.templates:
        return EvidenceReason.IMA_TEMPLATE_UNKNOWN, f"template {template.decode()} is not accepted by the rules"
    # 3. Violation
    if not any(shown):
        if not (rules.allow_violations or rules.violations.matches(path)):
            return EvidenceReason.IMA_VIOLATION, "the file was open for writing while it was measured, or the reverse"
        tally.violations += 1
        return None
    # 4. Digest
    if text.rpartition(b":")[0].rpartition(b":")[2].decode() not in rules.digest_algs:
        return EvidenceReason.IMA_DIGEST_ALG, "the digest algorithm is not accepted by the rules"
    # 5. Buffer
    if template == b"ima-buf":
        return _judge_buffer(row, rules)
    # 6. Path
    if not is_plain(path):
        return EvidenceReason.IMA_NOT_ALLOWED, "not an absolute path without '.', '..' and empty components"
    if template == b"ima" and len(path) == MAX_LEGACY_NAME:
        return EvidenceReason.IMA_NOT_ALLOWED, "the template may have cut this name"
    # 7. File
    return _judge_file(row, rules, tally)


def _judge_buffer(row: Row, rules: ImaRules) -> _Judged:
    entry = entry_of(row)
    hasher = HASHERS.get(entry.digest_alg)
    if hasher is None or hasher(entry.buffer).digest() != entry.digest:
        return EvidenceReason.IMA_NOT_ALLOWED, "the digest is not that of the buffer"
    allowed = rules.allow.names.get(row[3])
    if allowed is None and row[3] in KEYRINGS:
        # A key that the list says was loaded is never learned from it.
        if rules.keyring.holds(entry.buffer):
            return None
        detail = f"a key was loaded into {row[3].decode()} that is neither listed nor one of the policy's keys"
        return EvidenceReason.IMA_KEY_NOT_ALLOWED, detail
    if allowed is None:
        return EvidenceReason.IMA_NOT_ALLOWED, "no buffer of this name is listed"
    if row[2] not in allowed:
        return EvidenceReason.IMA_DIGEST_NOT_ALLOWED, _expected(allowed)
    return None


def _judge_file(row: Row, rules: ImaRules, tally: _Tally) -> _Judged:
    _, template, text, path, _ = row
    allowed = rules.allow.files.get(path)
    if allowed is not None:
        return None if text in allowed else (EvidenceReason.IMA_DIGEST_NOT_ALLOWED, _expected(allowed))
    if rules.excludes.matches(path):
        tally.excluded += 1
        return None
    entry = entry_of(row) if rules.keyring and template in _SIGNED else None
    if entry is None or not entry.signature:
        return EvidenceReason.IMA_NOT_ALLOWED, "the path is not listed"
    tally.signatures += 1
    if tally.signatures > rules.max_signatures:
        detail = f"more than {rules.max_signatures} entries need their signature verified"
        raise RejectedError(EvidenceReason.IMA_TOO_LARGE, detail)
    try:
        verify_ima_signature(entry, rules.keyring)
    except EvidenceError as error:
        return error.reason, error.detail
    tally.signed += 1
    return None


def _expected(allowed: Collection[bytes]) -> str:
    first = sorted(allowed)[:3]
    more = f" and {len(allowed) - 3} more" if len(allowed) > 3 else ""
    return f"listed are {', '.join(text.decode() for text in first)}{more}"


def boot_aggregate(kind: BootAggregate, alg: str, pcrs: QuotedPcrs) -> bytes | None:
    """The digest text of a boot aggregate labelled ``alg``, computed from PCR values; None where they do not suffice.

    ``ima_calc_boot_aggregate_tfm``: the hash over the values of the PCRs of the bank, one after another.
    """
    last = 9 if kind is BootAggregate.BANK else 7
    values = [pcrs.get(alg, {}).get(index) for index in range(last + 1)]
    if alg not in HASHERS or (kind is BootAggregate.SHA1) is not (alg == "sha1"):
        return None
    known = [value for value in values if value is not None]
    if len(known) != len(values):
        return None
    return f"{alg}:{HASHERS[alg](b''.join(known)).hexdigest()}".encode()


def _judge_boot_aggregate(row: Row, rules: ImaRules, pcrs: QuotedPcrs) -> _Judged:
    """Step 1: computed where the quote covers the PCRs it is made of, else listed."""
    shown, template, text, path, _ = row
    if path != BOOT_AGGREGATE or template == b"ima-buf" or not any(shown):
        return EvidenceReason.IMA_BOOT_AGGREGATE, "the list does not start with a boot aggregate"
    if template.decode() not in rules.templates:
        return EvidenceReason.IMA_TEMPLATE_UNKNOWN, f"template {template.decode()} is not accepted by the rules"
    alg = text.partition(b":")[0].decode()
    computed = {kind: boot_aggregate(kind, alg, pcrs) for kind in rules.boot_aggregate}
    possible = sorted({value for value in computed.values() if value})
    if text in possible:
        return None
    if possible:
        wanted = " or ".join(value.decode() for value in possible)
        return EvidenceReason.IMA_BOOT_AGGREGATE, f"the quoted PCRs give {wanted}"
    if text in rules.allow.boot_aggregate and (alg in rules.digest_algs or BootAggregate.SHA1 in rules.boot_aggregate):
        return None
    return EvidenceReason.IMA_BOOT_AGGREGATE, f"not listed, and PCRs 0 to 9 of bank {alg} are not in the quote"
