"""Every reason code has one explanation that a person can act on, and the page about them is what the tables say."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ztrooted.explanations import EXPLANATIONS, TABLES, explain
from ztrooted.reasons import Reason, all_reasons

ROOT = Path(__file__).parents[2]
STATUSES = {400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 422, 429, 500, 503, 507}
MAX_SENTENCE = 120  # one line of a table in a terminal

each_reason = pytest.mark.parametrize("reason", all_reasons(), ids=str)


def test_every_code_is_explained_and_nothing_else() -> None:
    assert set(EXPLANATIONS) == set(all_reasons())


def test_no_code_is_explained_twice() -> None:
    """Evidence and gate share one space of codes, and a dict would hide a second explanation."""
    explained = Counter(str(reason) for table in TABLES for reason in table)
    assert [code for code, times in explained.items() if times > 1] == []
    assert len({str(reason) for reason in all_reasons()}) == len(all_reasons())


@each_reason
def test_the_status_is_one_the_api_answers_with(reason: Reason) -> None:
    assert explain(reason).status in STATUSES


@each_reason
def test_meaning_and_remedy_are_one_short_sentence_each(reason: Reason) -> None:
    for sentence in (explain(reason).meaning, explain(reason).remedy):
        assert sentence.endswith(".")
        assert ". " not in sentence
        assert len(sentence) <= MAX_SENTENCE
        assert sentence == " ".join(sentence.split())
        assert "|" not in sentence  # it would end a cell of the page


def test_no_two_codes_mean_the_same() -> None:
    meanings = Counter(explanation.meaning for explanation in EXPLANATIONS.values())
    assert [meaning for meaning, times in meanings.items() if times > 1] == []


@pytest.mark.parametrize(("detail", "status"), [("malformed", 400), ("too_large", 413)])
def test_what_cannot_be_read_and_what_is_too_large_has_one_status_in_every_family(detail: str, status: int) -> None:
    family = {reason: explain(reason).status for reason in all_reasons() if reason.partition(".")[2] == detail}
    assert family == dict.fromkeys(family, status)


def test_the_page_is_what_the_script_writes() -> None:
    """Run the script after a change of codes or explanations; its output doesn't depend on where or when it runs."""
    written = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--stdout"], check=True, capture_output=True, cwd="/", timeout=30
    ).stdout.decode()
    assert (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8") == written
