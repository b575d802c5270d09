"""Seeds from the corpus where it is present; without it, nothing, and the self-made seeds have to do."""

import json
from functools import cache

from tests.support import corpus

# A seed larger than this slows a parser down more than it teaches.
MAX_SEED = 40_000


@cache
def _index(part: str) -> tuple[corpus.Entry, ...]:
    path = corpus.ROOT / part / "INDEX.json"
    if not path.exists():
        return ()
    loaded = json.loads(path.read_text())
    return tuple(loaded["entries"] if isinstance(loaded, dict) and "entries" in loaded else loaded)


@cache
def structures(kind: str, part: str) -> tuple[bytes, ...]:
    """The file called ``part`` of each attack of one kind, each content once."""
    found: dict[bytes, None] = {}
    for entry in _index("attacks"):
        name = entry.get("files", {}).get(part) if entry["kind"] == kind else None
        if name and (corpus.ROOT / "attacks" / name).is_file():
            found[corpus.read("attacks", name)] = None
    return _small(found)


@cache
def files(folder: str, *suffixes: str) -> tuple[bytes, ...]:
    """All files below a folder of the corpus whose names end so, each content once."""
    paths = sorted((corpus.ROOT / folder).rglob("*"))
    return _small({path.read_bytes(): None for path in paths if path.is_file() and path.name.endswith(suffixes)})


def _small(found: dict[bytes, None]) -> tuple[bytes, ...]:
    return tuple(data for data in found if len(data) <= MAX_SEED)
