"""Write every vector as files of its own, for verifiers that have no use for operations."""

import json
import sys
from pathlib import Path

from tests.vectors.operations import apply

DATA = Path(__file__).parent / "data"


def main(folder: Path) -> None:
    """Write them below ``folder``."""
    for number, case in enumerate(json.loads((DATA / "index.json").read_text())["cases"]):
        place = folder / f"{number:03d}"
        place.mkdir(parents=True)
        (place / "bundle").write_bytes(apply((DATA / case["bundle"]).read_bytes(), case["operations"]))
        (place / "anchors.toml").write_bytes((DATA / case["anchors"]).read_bytes())
        expected = {name: case[name] for name in ("name", "verified", "check", "reason")}
        (place / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/vectors --expand FOLDER")
    main(Path(sys.argv[1]))
