"""The fenced blocks of the documentation, and who runs those that are for a shell.

A block whose language is ``sh`` is run as it stands, or has a comment right above that says why not::

    <!-- not run: it needs a chip; docs/by-hand.md runs the same with a software TPM -->

``lab`` runs the blocks of a page in a folder with a real gateway and executor around it (``tests.e2e.test_snippets``).
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
# Pages whose blocks tests/e2e/test_snippets.py runs, each in one shell.
LAB = (
    "README.md",
    "docs/audit-guide.md",
    "docs/configuration.md",
    "docs/events.md",
    "docs/identities.md",
    "docs/orders.md",
    "docs/policies.md",
    "docs/witnesses.md",
)
OPERATIONS = "docs/operations.md"  # likewise, with a gateway of its own
BY_HAND = "docs/by-hand.md"  # tests/e2e/test_by_hand.py
QUICK_START = "docs/quick-start.md"  # tests/e2e/test_demo.py, on what the demo has left

_FENCE = re.compile(r"^(?P<above>[^\n]*)\n```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^>]{10,}) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, its text, the line it begins in, and why it is not run (None where it is)."""

    language: str
    text: str
    line: int
    not_run: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for one in _FENCE.finditer(text):
        marked = _NOT_RUN.fullmatch(one["above"])
        line = text.count("\n", 0, one.start("text"))
        found.append(Block(one["language"], one["text"], line, marked["why"] if marked else None))
    return found


def runnable(page: str, language: str = "sh") -> list[Block]:
    """What of a page is to be run."""
    return [one for one in blocks(ROOT / page) if one.language == language and one.not_run is None]
