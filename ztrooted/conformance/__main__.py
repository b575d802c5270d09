"""``scripts/conformance INDEX.json… [--json]``: exit 1 where a verdict differs, 3 where nothing could be judged."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ztrooted.cli.output import ENVIRONMENT, NO, JsonFlag, fail
from ztrooted.conformance import Result, Status, count_by_kind, run_index, sum_counts
from ztrooted.errors import GateError
from ztrooted.inspect.plain import printable

_COLOURS = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.NO_ORACLE: "cyan",
    Status.NOT_APPLICABLE: "yellow",
    Status.MISSING: "yellow",
}


def conformance(
    index: Annotated[list[Path], typer.Argument(metavar="INDEX.json…", help="Indices of corpora.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also list what passed.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run every entry of the indices through the public API and compare its verdict with what is expected."""
    try:
        results = [result for path in index for result in run_index(path)]
    except GateError as error:
        fail(error, json=json)
    totals = count_by_kind(results)
    summary = sum_counts(totals)
    if json:
        _print_json(results, totals, summary)
    else:
        _print(results, totals, summary, verbose=verbose)
    if summary[Status.FAIL]:
        sys.exit(NO)
    if not summary[Status.PASS]:
        sys.exit(ENVIRONMENT)


def _print_json(results: list[Result], totals: dict[str, dict[str, int]], summary: dict[str, int]) -> None:
    body = {"summary": summary, "totals": totals, "results": [result.encode() for result in results]}
    typer.echo(json.dumps(body, indent=1))


def _print(results: list[Result], totals: dict[str, dict[str, int]], summary: dict[str, int], *, verbose: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for result in results:
        if result.status is Status.PASS and not verbose:
            continue
        colour = _COLOURS[result.status]
        came = f"{result.actual} {result.reason}".strip()
        console.print(
            f"[{colour}]{result.status}[/] {_shown(result.kind)} [bold]{_shown(result.id)}[/]: "
            f"expected {_shown(result.expected)}, came {_shown(came)}. {_shown(result.detail)}"
        )
    table = Table("kind", *(status.value.replace("_", " ") for status in Status), box=None, pad_edge=False)
    for kind, counted in {**totals, "together": summary}.items():
        table.add_row(_shown(kind), *(str(counted[status]) if counted[status] else "·" for status in Status))
    console.print(table)


def _shown(text: str) -> str:
    return escape(printable(text))


if __name__ == "__main__":
    typer.run(conformance)
