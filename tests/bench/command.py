"""Command line of the benchmarks; ``scripts/bench`` calls it. A benchmark is a module here with a function ``rows``."""

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from tests.bench.measure import machine

_FRAME = {"__init__", "__main__", "command", "measure"}


def names() -> list[str]:
    """The benchmarks there are."""
    stems = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(stem for stem in stems - _FRAME if not stem.startswith("test_"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and print it: a table, or with ``--json`` one document. Missing a target is no failure."""
    parser = argparse.ArgumentParser("scripts/bench", description="Measure, with a reference from the same run.")
    parser.add_argument("name", choices=names(), metavar="NAME", help=f"one of {', '.join(names())}")
    parser.add_argument("--json", action="store_true", help="one JSON document for scripts")
    parser.add_argument("--write", action="store_true", help="put the table into the page that has one")
    arguments = parser.parse_args(argv)
    module = importlib.import_module(f"tests.bench.{arguments.name}")
    measured = list(module.rows())
    found = [row.encode() for row in measured]
    about = machine()
    if arguments.write:
        module.write_page(measured, about)
    if arguments.json:
        print(json.dumps({"bench": arguments.name, "machine": about, "rows": found}, indent=1))
        return 0
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{'row':22}{'value':>12} {'unit':10}{'best':>12}{'reference':>12}{'ratio':>9}  target, met or not")
    for row in found:
        numbers = f"{row['value']:12.6g} {row['unit']:10}{row['best']:12.6g}{row['reference_value']:12.6g}"
        verdict = "met" if row["met"] else "MISSED"
        print(
            f"{row['name']:22}{numbers}{row['ratio']:9.3f}  {row['target']}: {verdict} (reference: {row['reference']})"
        )
    return 0
