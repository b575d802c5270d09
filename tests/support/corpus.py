"""Third-party evidence with expected verdicts, read where it lies and never copied into the project.

The folder is ``ZTROOTED_CORPUS``, or ``../shared/corpus`` next to the checkout. Where it is absent, tests that need it are
skipped and say so.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ.get("ZTROOTED_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")

Entry = dict[str, Any]


def entries(part: str, kind: str | None = None) -> list[Any]:
    """Entries of ``part`` ("attacks" or "evidence"), of one ``kind`` or all, as pytest parameters named by id.

    Where the corpus is absent this is one parameter marked as skipped, so that the gap shows in every report.
    """
    index = ROOT / part / "INDEX.json"
    if not index.exists():
        reason = f"corpus not found at {ROOT}; set ZTROOTED_CORPUS"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no-corpus")]
    loaded = json.loads(index.read_text())
    listed: list[Entry] = loaded["entries"] if isinstance(loaded, dict) else loaded
    return [
        pytest.param(entry, id=str(entry.get("id") or entry.get("file")))
        for entry in listed
        if kind in (None, entry["kind"])
    ]


def read(part: str, name: str) -> bytes:
    """The bytes of one corpus file."""
    return (ROOT / part / name).read_bytes()


def folder(part: str) -> Path:
    """A corpus folder, or a skip where it is absent."""
    path = ROOT / part
    if not path.is_dir():
        pytest.skip(f"corpus not found at {ROOT}; set ZTROOTED_CORPUS")
    return path
