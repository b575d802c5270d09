"""Every reason code explained to a person: what happened, what to do, and with which HTTP status it is answered.

One table for each room of the house: ``keys``, ``boot`` and ``quotes`` for evidence, ``dispatches``, ``service`` and
``proofs`` for the gate, ``machine`` for what it runs on. Together they have every code of
``ztrooted.reasons.all_reasons`` exactly once.

Statuses: 400 for what cannot be read, 413 for what is too large, 403 for what is read and refused, 404 and 409 for what
is unknown or was used, 410 for what came too late, 422 and 429 for Idempotency-Keys, 500 and 503 for what is wrong on
our side.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ztrooted.explanations.boot import BOOT
from ztrooted.explanations.dispatches import DISPATCHES
from ztrooted.explanations.explanation import Explanation
from ztrooted.explanations.keys import KEYS
from ztrooted.explanations.machine import MACHINE
from ztrooted.explanations.proofs import PROOFS
from ztrooted.explanations.quotes import QUOTES
from ztrooted.explanations.service import SERVICE
from ztrooted.reasons import Reason

__all__ = ["EXPLANATIONS", "TABLES", "Explanation", "explain"]

TABLES = (KEYS, BOOT, QUOTES, DISPATCHES, SERVICE, PROOFS, MACHINE)

EXPLANATIONS: Mapping[Reason, Explanation] = MappingProxyType(
    {reason: explanation for table in TABLES for reason, explanation in table.items()}
)


def explain(reason: Reason) -> Explanation:
    """What ``reason`` means. Total: a test compares the tables with the closed set of codes."""
    return EXPLANATIONS[reason]
