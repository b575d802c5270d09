"""Runs published corpora of evidence, attacks and proofs through the public API, and compares verdicts.

An index lists cases by kind, with files and the context a verifier is told; nothing here knows an id or a file name.
``run_index`` gives a ``Result`` for each: pass, fail, no oracle, not applicable or missing, with what came and why.
"""

from ztrooted.conformance.index import Entry
from ztrooted.conformance.results import Result, Status, count_by_kind, sum_counts
from ztrooted.conformance.runner import run_entry, run_index

__all__ = ["Entry", "Result", "Status", "count_by_kind", "run_entry", "run_index", "sum_counts"]
