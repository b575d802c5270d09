"""A trial of policies: the last recorded decisions, made again under documents that are not in force.

Nothing is written. The evidence is appraised again from its stored bytes; where it says too little for the new rules (they
ask for other PCRs than were quoted), the decision is skipped and counted, since only a new quote could tell.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable

from tpm.errors import EvidenceError
from tpm.reasons import EvidenceReason
from ztrooted.errors import GateError
from ztrooted.policies import Policies
from ztrooted.policy_models import Change, TrialView
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record
from ztrooted.redecide import Again, Recorded, decide_again
from ztrooted.reference import Reference

MAX_CHANGES = 1000
_OTHER_PCRS = frozenset({EvidenceReason.QUOTE_SELECTION_MISMATCH, EvidenceReason.QUOTE_BANK_NOT_ALLOWED})

References = Callable[[str], Reference | None]


def replay(connection: sqlite3.Connection, policies: Policies, references: References, last: int) -> TrialView:
    """Make the last ``last`` decisions again under ``policies``, and tell which would be others."""
    skipped: Counter[str] = Counter()
    changed: list[Change] = []
    replayed = 0
    for seq, authorization, data in _decisions(connection, last):
        recorded = _recorded(connection, seq, data)
        try:
            again = decide_again(recorded, policies, references, lambda digest: _blob(connection, digest))
        except (GateError, EvidenceError, KeyError) as error:
            skipped[f"its bytes can't be used: {error}"[:200]] += 1
            continue
        if again.verdict.reason in _OTHER_PCRS:
            skipped["the new policy asks for other PCRs than were quoted"] += 1
            continue
        replayed += 1
        if again.permitted is not recorded.permitted and len(changed) < MAX_CHANGES:
            changed.append(_change(seq, authorization, recorded, again))
    return TrialView(replayed=replayed, changed=changed, skipped=dict(skipped))


def _decisions(connection: sqlite3.Connection, last: int) -> list[tuple[int, str, bytes]]:
    rows = connection.execute(
        "SELECT seq, authorization, bytes FROM records WHERE type IN ('policy.evaluated', 'attestation.passed')"
        " AND instr(bytes, '\"decision\":') > 0 ORDER BY seq DESC LIMIT ?",
        (last,),
    )
    return [(int(seq), str(authorization), bytes(data)) for seq, authorization, data in rows.fetchall()]


def _recorded(connection: sqlite3.Connection, seq: int, data: bytes) -> Recorded:
    record = parse_record(data)
    body = record.body.get("round", record.body)
    first = connection.execute(
        "SELECT bytes FROM records WHERE authorization = ? ORDER BY seq LIMIT 1", (record.authorization,)
    ).fetchone()
    enrolled = connection.execute("SELECT bytes FROM records WHERE seq = ?", (body["enrollment"],)).fetchone()
    return Recorded(
        index=seq,
        round=body,
        request=record.body["request"],
        decision=record.body["decision"],
        enrolled=json.loads(enrolled[0])["body"],
        asked=json.loads(first[0])["body"],
    )


def _change(seq: int, authorization: str, recorded: Recorded, again: Again) -> Change:
    decision = again.decision
    reason = again.verdict.reason or (None if decision is None else decision.reason)
    by = "" if decision is None else ", ".join(decision.determining)
    detail = again.verdict.detail or (f"decided by {by}" if by else "no permit matches")
    words = {True: "permit", False: "deny"}
    return Change(
        record=seq,
        authorization=authorization,
        was=words[recorded.permitted],
        would_be=words[again.permitted],
        reason=None if again.permitted or reason is None else str(reason),
        detail=detail,
    )


def _blob(connection: sqlite3.Connection, digest: str) -> bytes:
    row = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        raise GateError(GateReason.BUNDLE_INCOMPLETE, f"the bytes of {digest} are not kept")
    return bytes(row[0])
