"""What every command has in common: ``--json``, one shape of errors, and exit codes that mean something.

0 yes; 1 no (denied, not verified, refused); 2 wrong usage; 3 the environment is not what it should be.
"""

import json as jsonlib
import sys
from collections.abc import Iterable
from importlib.metadata import version
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tpm.errors import DeviceError, EvidenceError
from ztrooted.errors import EnvironmentProblem, GateError, UsageProblem

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]

LogFormat = Annotated[
    Literal["json", "console"],
    typer.Option("--log-format", envvar="ZTROOTED_LOG_FORMAT", help="JSON objects for programs, or lines for people."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ztrooted {version('ztrooted')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]

NO = 1
USAGE = 2
ENVIRONMENT = 3

UNBROKEN = 1 << 16  # columns of a page that is no terminal
BORDER = 3  # columns: a line, and a space on either side

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def show(value: Any, text: str, *, json: bool) -> None:
    """Print a result: ``value`` as JSON, or ``text``."""
    typer.echo(jsonlib.dumps(value, indent=2) if json else text)


def counted(count: int, noun: str) -> str:
    """A number of things, in English: "1 event", "2 events"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def terminal(**options: Any) -> Console:
    """Standard output for what has columns. Nothing is cut or broken into lines where no terminal sets a width."""
    console = Console(highlight=False, **options)
    return console if console.is_terminal else Console(highlight=False, width=UNBROKEN, **options)


def show_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, empty: str) -> None:
    """Print rows under their names, or ``empty`` where there are none.

    Ids are to be copied, so a cell without spaces is never broken nor cut: on a narrow terminal the line goes on below.
    """
    from ztrooted.inspect.plain import printable  # noqa: PLC0415 -- not every command has a table

    cells = [tuple(printable(cell) for cell in row) for row in rows]
    if not cells:
        typer.echo(empty)
        return
    console, table = terminal(), Table()
    widths = _widths([(name, *column) for name, column in zip(columns, zip(*cells, strict=True), strict=True)], console)
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, width=width)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.width = max(console.width, sum(widths) + len(widths) * BORDER + 1)
    console.print(table)


def _widths(columns: list[tuple[str, ...]], console: Console) -> list[int]:
    """Room for the longest word of each column, and then, from the left, for its whole cells while there is any."""
    widths = [max(cell_len(word) for cell in column for word in cell.split(" ")) for column in columns]
    left = console.width - 1 - sum(width + BORDER for width in widths)
    for number, column in enumerate(columns):
        more = max(0, min(left, max(map(cell_len, column)) - widths[number]))
        widths[number] += more
        left -= more
    return widths


def fail(error: Exception, *, json: bool) -> NoReturn:
    """Print what happened, what it means and what to do; exit 1, 2 or 3."""
    from ztrooted.inspect.plain import printable  # noqa: PLC0415 -- needed only when something went wrong
    from ztrooted.redaction import redact_text  # noqa: PLC0415 -- the same

    code = NO
    if isinstance(error, UsageProblem):
        code = USAGE
    elif isinstance(error, (EnvironmentProblem, DeviceError)):
        code = ENVIRONMENT
    reason = str(getattr(error, "reason", "environment.tpm"))
    detail, remedy = (
        printable(redact_text(text))  # what was typed in the wrong place may have been a secret
        for text in (getattr(error, "detail", str(error)), getattr(error, "remedy", "") or _known_remedy(error))
    )
    if json:
        body = {"reason": reason, "detail": detail, "remedy": remedy}
        if getattr(error, "authorization", None):
            body["authorization"] = error.authorization  # type: ignore[attr-defined]
        typer.echo(jsonlib.dumps({"error": body}, indent=2))
    else:
        errors.print(f"[bold red]{'No' if code == NO else 'Error'}:[/] {escape(detail)} [dim]({escape(reason)})[/]")
        if remedy:
            errors.print(f"[bold]What to do:[/] {escape(remedy)}")
        if recorded := getattr(error, "authorization", None):
            errors.print(f"[bold]Recorded as:[/] {recorded}; 'ztrooted explain {recorded}' tells more.")
    sys.exit(code)


def _known_remedy(error: Exception) -> str:
    from ztrooted.explanations import explain  # noqa: PLC0415 -- needed only when something went wrong
    from ztrooted.reasons import parse_reason  # noqa: PLC0415

    if isinstance(error, (GateError, EvidenceError)):
        return explain(parse_reason(error.reason)).remedy
    return ""
