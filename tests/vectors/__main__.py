"""Write every vector as files of its own, for verifiers that have no use for operations."""

import json
import sys
from pathlib import Path

from tests.vectors.operations import apply
from tests.vectors.parts import expand, written_parts

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
    parts = written_parts()
    for number, case in enumerate(parts["cases"]):
        place = folder / f"part-{number:04d}"
        place.mkdir()
        complete = {**case, **expand(case, parts["blobs"])}
        (place / "case.json").write_text(json.dumps(complete) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/vectors --expand FOLDER")
    main(Path(sys.argv[1]))
