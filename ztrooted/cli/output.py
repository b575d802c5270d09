"""What every command has in common: ``--json``, one shape of errors, and exit codes that mean something.

0 yes; 1 no (denied, not verified, refused); 2 wrong usage; 3 the environment is not what it should be.
"""

import json as jsonlib
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from tpm.errors import DeviceError, EvidenceError
from ztrooted.errors import EnvironmentProblem, GateError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]

NO = 1
ENVIRONMENT = 3

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def show(value: Any, text: str, *, json: bool) -> None:
    """Print a result: ``value`` as JSON, or ``text``."""
    typer.echo(jsonlib.dumps(value, indent=2) if json else text)


def fail(error: Exception, *, json: bool) -> NoReturn:
    """Print what happened, what it means and what to do; exit 1 or 3."""
    from ztrooted.inspect.plain import printable  # noqa: PLC0415 -- needed only when something went wrong

    code = ENVIRONMENT if isinstance(error, (EnvironmentProblem, DeviceError)) else NO
    reason = str(getattr(error, "reason", "environment.tpm"))
    detail = printable(getattr(error, "detail", str(error)))
    remedy = getattr(error, "remedy", "") or _known_remedy(error)
    if json:
        body = {"reason": reason, "detail": detail, "remedy": remedy}
        if getattr(error, "authorization", None):
            body["authorization"] = error.authorization  # type: ignore[attr-defined]
        typer.echo(jsonlib.dumps({"error": body}, indent=2))
    else:
        errors.print(f"[bold red]{'No' if code == NO else 'Error'}:[/] {escape(detail)} [dim]({escape(reason)})[/]")
        if remedy:
            errors.print(f"[bold]What to do:[/] {escape(remedy)}")
    sys.exit(code)


def _known_remedy(error: Exception) -> str:
    from ztrooted.explanations import explain  # noqa: PLC0415 -- needed only when something went wrong
    from ztrooted.reasons import parse_reason  # noqa: PLC0415

    if isinstance(error, (GateError, EvidenceError)):
        return explain(parse_reason(error.reason)).remedy
    return ""
