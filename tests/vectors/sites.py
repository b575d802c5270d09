"""Which refusals of the second verifier decide a vector, measured: ``scripts/vectors --sites``.

Each place that refuses is switched off in turn, and the vectors in which it spoke are judged again. A place that changes no
verdict could be left out of the verifier and nobody would notice.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from tests.vectors.node import HERE, VERIFIER, node
from tests.vectors.operations import apply
from tests.vectors.parts import DATA, expand, written_parts

Site = dict[str, Any]


def _bundles() -> Iterator[dict[str, Any]]:
    for case in json.loads((DATA / "index.json").read_text())["cases"]:
        bundle = apply((DATA / case["bundle"]).read_bytes(), case["operations"])
        yield {"bundle": bundle.hex(), "anchors": (DATA / case["anchors"]).read_bytes().hex()}


def _parts() -> Iterator[dict[str, Any]]:
    value = written_parts()
    for case in value["cases"]:
        yield expand(case, value["blobs"])


def measured(cases: Iterator[dict[str, Any]]) -> list[Site]:
    """Each place: file, line, text, in how many cases it spoke, and the number of one that it decides, or None."""
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run(
        [node(), str(HERE / "sites.mjs"), str(VERIFIER)], input=lines, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    """Print the figures, and the places that decide nothing."""
    alone = measured(_bundles())
    both = measured(case for source in (_parts, _bundles) for case in source())
    for name, sites in (("whole bundles alone", alone), ("with the parts", both)):
        decided = sum(site["decides"] is not None for site in sites)
        print(f"{name}: {decided} of {len(sites)} places decide a vector")
    for site in both:
        if site["decides"] is None:
            print(f"{site['file']}:{site['line']} (spoke {site['spoke']} times) {site['text']}")


if __name__ == "__main__":
    main()
