"""``ztrooted policy …``: write policies, check and test them offline, see why they decide, put them in force."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ztrooted import ready_made
from ztrooted.cli import policy_activate
from ztrooted.cli.output import NO, JsonFlag, show
from ztrooted.cli.policy_activate import Folder, read_folder
from ztrooted.errors import EnvironmentProblem
from ztrooted.policies import FILES, Policies
from ztrooted.policy_cases import FILE as CASES_FILE
from ztrooted.policy_cases import Case, Cases, Outcome, request_of
from ztrooted.policy_check import problems
from ztrooted.policy_explain import consider, risk_of
from ztrooted.reasons import GateReason

app = typer.Typer(
    no_args_is_help=True, help="Policies: start from a ready-made one, check, test, explain and activate them."
)
app.command("activate")(policy_activate.activate)
app.command("show")(policy_activate.in_force)


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(ready_made.NAMES)}.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    json: JsonFlag = False,
) -> None:
    """Start from a ready-made policy: three documents and a table of cases, each line explained."""
    if name not in ready_made.NAMES:
        raise typer.BadParameter(f"there is no ready-made policy {name!r}; there are {', '.join(ready_made.NAMES)}")
    try:
        folder.mkdir(parents=True)
        for file, data in ready_made.files(name).items():
            (folder / file).write_bytes(data)
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER,
            f"{folder} can't be made: {error.strerror}",
            "name a folder that is not there yet",
        ) from error
    show(
        {"folder": str(folder), "policy": name},
        f"Wrote the policy {name!r} to {folder}. Next: ztrooted policy test {folder}",
        json=json,
    )


@app.command()
def check(folder: Folder, json: JsonFlag = False) -> None:
    """Load all three documents as a gateway would, and look for names that don't exist. Exit code 1 for any problem."""
    policies = load(folder)
    found = problems(policies)
    classes = {
        name: [*rules.model_dump(exclude_defaults=True, by_alias=True)]
        for name, rules in policies.appraisal.classes.items()
    }
    if json:
        value = {
            "ok": not found,
            "problems": [{"where": one.where, "what": one.what} for one in found],
            "trusts_everything": list(policies.trusts_everything()),
            "classes": list(classes),
            "policies": [one.name for one in policies.dispatch.statements],
            **policies.digests(),
        }
        show(value, "", json=True)
    else:
        _print_policies(folder, policies)
        console = Console(highlight=False)
        for one in found:
            console.print(f"[bold red]{escape(str(folder / one.where))}: {escape(one.what)}[/]")
        console.print("[bold red]Not usable as it is.[/]" if found else "[green]These policies fit together.[/]")
    if found:
        sys.exit(NO)


@app.command("test")
def run_cases(
    folder: Folder,
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FILE", help=f"The table. Default: {CASES_FILE} of the folder.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run a table of cases against the policies of a folder. Exit code 1 if any comes out otherwise than expected."""
    policies = load(folder)
    outcomes = read_cases(cases or folder / CASES_FILE).run(policies)
    failed = [one for one in outcomes if not one.passed]
    if json:
        rows = [{"case": one.name, "passed": one.passed, "expected": one.expected, "got": one.got} for one in outcomes]
        show({"passed": not failed, "cases": rows}, "", json=True)
    else:
        _print_outcomes(failed + [one for one in outcomes if one.passed], len(failed))
    if failed:
        sys.exit(NO)


@app.command()
def explain(
    folder: Folder,
    case: Annotated[str, typer.Option("--case", metavar="NAME", help="A case of the table, by its name.")],
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FILE", help=f"The table. Default: {CASES_FILE} of the folder.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say which policies decide a case, which match and which do not, and what its risk score is made of.

    Exit code 0 for permit, 1 for deny.
    """
    policies = load(folder)
    found = _case(read_cases(cases or folder / CASES_FILE), case)
    request = request_of(found, policies)
    decision = policies.dispatch.decide(request)
    considered, risk = consider(policies, request), risk_of(request)
    if json:
        value = {
            "decision": decision.encode(),
            "request": request.encode(),
            "risk": {"total": risk.total, "parts": dict(risk.parts)},
            "policies": [one.encode() for one in considered],
        }
        show(value, "", json=True)
    else:
        console = Console(highlight=False)
        word = "[bold green]permit[/]" if decision.permitted else "[bold red]deny[/]"
        why = ", ".join(decision.determining) or (decision.errors[0] if decision.errors else "no permit matches")
        console.print(f"{word}: {escape(why)}")
        console.print(f"risk {risk.total}: " + (", ".join(f"{name} {points}" for name, points in risk.parts) or "none"))
        for one in considered:
            console.print(
                f"\n[bold]{escape(one.statement.name)}[/] ({FILES['dispatch']}:{one.statement.line}):"
                f" {one.effect}, {one.came}"
            )
            console.print(escape("  " + one.statement.text.replace("\n", "\n  ")))
    if not decision.permitted:
        sys.exit(NO)


def load(folder: Path) -> Policies:
    """The policies of a folder. PolicyError naming file and line."""
    return Policies.load(read_folder(folder), {role: str(folder / name) for role, name in FILES.items()})


def read_cases(path: Path) -> Cases:
    """A table of cases. EnvironmentProblem where it is not there, PolicyError where it can't be used."""
    try:
        return Cases(path.read_bytes(), str(path))
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            f"the table of cases {path} can't be read: {error.strerror}",
            "name one with --cases; 'ztrooted policy new' writes an example",
        ) from error


def _case(cases: Cases, name: str) -> Case:
    for one in cases.cases:
        if one.name == name:
            return one
    raise typer.BadParameter(f"there is no case {name!r}; there are: {'; '.join(one.name for one in cases.cases)}")


def _print_policies(folder: Path, policies: Policies) -> None:
    console = Console(highlight=False)
    table = Table("class", "for", "requires", "reaches", title=f"{folder / FILES['appraisal']}", title_justify="left")
    from ztrooted.appraisal import required_checks  # noqa: PLC0415 -- loads much that --help has no use for
    from ztrooted.results import tier, tier_name  # noqa: PLC0415

    for name, rules in policies.appraisal.classes.items():
        who = "every executor" if rules.match is None else str(rules.match.model_dump(exclude_defaults=True))
        reaches = tier_name(tier(rules, trusted=True, virtual=False))
        table.add_row(escape(name), escape(who), ", ".join(required_checks(rules)), reaches)
    console.print(table)
    listed = Table("policy", "line", "begins", title=f"{folder / FILES['dispatch']}", title_justify="left")
    for one in policies.dispatch.statements:
        body = [line for line in one.text.splitlines() if not line.lstrip().startswith("@")]
        listed.add_row(escape(one.name), str(one.line), escape((body or [one.text])[0][:60]))
    console.print(listed)
    for warning in policies.trusts_everything():
        console.print(f"[bold red]{escape(warning)}[/]")


def _print_outcomes(outcomes: list[Outcome], failed: int) -> None:
    console = Console(highlight=False)
    table = Table("", "case", "expected", "got", box=None, pad_edge=False)
    for one in outcomes:
        mark = "[green]ok[/]" if one.passed else "[bold red]FAILED[/]"
        table.add_row(mark, escape(one.name), escape(one.expected), escape(one.got))
    console.print(table)
    style = "bold red" if failed else "green"
    console.print(f"[{style}]{len(outcomes) - failed} of {len(outcomes)} cases as expected.[/]")
