"""Corpus entries run as ``scripts/conformance`` runs them."""

from tests.support.corpus import ROOT, Entry
from ztrooted.conformance import Entry as IndexEntry
from ztrooted.conformance import Result, Status, run_entry


def run(part: str, entry: Entry) -> Result:
    """What came of one entry of an index."""
    (result,) = run_entry(IndexEntry(ROOT / part / "INDEX.json", entry))
    return result


def check_attack(entry: Entry) -> None:
    """The entry gets the verdict its index names, for the reason it names or one of the alternatives."""
    result = run("attacks", entry)
    assert result.status is Status.PASS, result
    assert (result.reason or "ok") in result.expected_reasons, result


def check_evidence(entry: Entry) -> None:
    """Nothing the origin expects of the entry is contradicted."""
    result = run("evidence", entry)
    assert result.status is not Status.FAIL, result
