"""Write ``data/parts.json``: parts of a verifier on their own, with what Python says of each. No TPM is needed."""

import json
from typing import Any

from tests.vectors import (
    parts_documents,
    parts_evidence,
    parts_keys,
    parts_notes,
    parts_quotes,
    parts_story,
    parts_tokens,
)
from tests.vectors.parts import DATA, expand, first

SOURCES = (
    parts_documents.documents,
    parts_notes.notes,
    parts_notes.trees,
    parts_tokens.tokens,
    parts_notes.sealed,
    parts_keys.keys,
    parts_quotes.quotes,
    parts_quotes.certificates,
    parts_evidence.event_logs,
    parts_evidence.lists,
    parts_story.stories,
)


def made() -> dict[str, Any]:
    """The document."""
    blobs = parts_evidence.blobs()
    cases = []
    for source in SOURCES:
        for part, name, given in source():
            case = {"part": part, "name": name, "input": given}
            cases.append(case | {"reason": first(expand(case, blobs))})
    return {"format": "ztrooted-vector-parts/1", "blobs": blobs, "cases": cases}


def write() -> None:
    """Write it, a case a line."""
    value = made()
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in value.pop("cases"))
    head = json.dumps(value, separators=(",", ":"))[:-1]
    (DATA / "parts.json").write_text(f'{head},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    write()
