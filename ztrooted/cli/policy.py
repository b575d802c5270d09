"""``ztrooted policy check``, ``test`` and ``explain``: policies in a folder, tried out before anybody depends on them.

All offline. Exit codes: 0 yes, 1 no, 2 wrong usage, 3 something around us is missing.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ztrooted import ready_made
from ztrooted.cli import policy_activate
from ztrooted.cli.files import read_at_most, write
from ztrooted.cli.output import NO, JsonFlag, show
from ztrooted.cli.policy_activate import Folder
from ztrooted.errors import EnvironmentProblem, PolicyError
from ztrooted.reasons import GateReason

app = typer.Typer(no_args_is_help=True, help="Write policies, try them out, and put them in force.")
app.command("activate")(policy_activate.activate)
app.command("show")(policy_activate.in_force)

CasesFile = Annotated[
    Path | None,
    typer.Option("--cases", metavar="FILE", help=f"Another file of cases than DIR/{ready_made.CASES_FILE}."),
]


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
            write(folder / file, data)
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER,
            f"{folder} can't be made: {error.strerror}",
            "name a folder that is not there yet",
        ) from error
    text = f"Wrote the policy {name!r} to {folder}. Next: ztrooted policy test {folder}"
    show({"folder": str(folder), "policy": name}, text, json=json)


@app.command()
def check(folder: Folder, json: JsonFlag = False) -> None:
    """Check the three documents of a folder: each by itself, and that they agree on the names they use."""
    from ztrooted.cli import policy_view as view  # noqa: PLC0415 -- loads much that --help has no use for
    from ztrooted.policy_check import check_folder  # noqa: PLC0415

    found = check_folder(*_documents(folder))
    view.print_check(found, json=json)
    if found.errors:
        sys.exit(NO)


@app.command("test")
def run_table(folder: Folder, cases: CasesFile = None, json: JsonFlag = False) -> None:
    """Decide every case of policy.cases.toml, and compare with what it expects. A file without cases fails."""
    from ztrooted.cli import policy_view as view  # noqa: PLC0415
    from ztrooted.policies import Policies  # noqa: PLC0415
    from ztrooted.policy_cases import run_cases  # noqa: PLC0415

    documents, names = _documents(folder)
    table = _cases(cases or folder / ready_made.CASES_FILE)
    policies = Policies.load(documents, names)
    results = run_cases(table, policies)
    view.print_results(table.name, results, policies, json=json)
    if not all(one.passed for one in results):
        sys.exit(NO)


@app.command()
def explain(
    folder: Folder,
    case: Annotated[
        str | None, typer.Option("--case", metavar="NAME", help="Explain this case; the options below change it.")
    ] = None,
    cases: CasesFile = None,
    action: Annotated[str | None, typer.Option(metavar="dispatch|delegate|renew")] = None,
    orchestrator: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    executor: Annotated[str | None, typer.Option(metavar="EXECUTOR")] = None,
    class_: Annotated[str | None, typer.Option("--class", metavar="CLASS")] = None,
    virtual: Annotated[bool | None, typer.Option("--virtual/--hardware", help="Its TPM.", show_default=False)] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be given often.")] = None,
    trusted: Annotated[bool | None, typer.Option("--trusted/--untrusted", show_default=False)] = None,
    tier: Annotated[int | None, typer.Option(min=0, max=4)] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    run: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    step: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    attempt: Annotated[int | None, typer.Option(min=1)] = None,
    max_runtime_s: Annotated[int | None, typer.Option("--max-runtime-s", min=1)] = None,
    time: Annotated[str | None, typer.Option(metavar="'DAY HH:MM'", help="In UTC, such as 'wed 14:30'.")] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="ORCHESTRATOR", help="It has a parent, of this orchestrator.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say which policy permits or forbids something, where it stands, and what kept the others from it.

    Exit code 0 for a permit, 1 for a denial.
    """
    from ztrooted.cli import policy_view as view  # noqa: PLC0415
    from ztrooted.policies import Policies  # noqa: PLC0415
    from ztrooted.policy_cases import Case, decide_case, make_case  # noqa: PLC0415
    from ztrooted.policy_explain import explain_decision  # noqa: PLC0415

    documents, names = _documents(folder)
    policies = Policies.load(documents, names)
    base: dict[str, Any] = {}
    if case is not None:
        table = _cases(cases or folder / ready_made.CASES_FILE)
        found: Case | None = table.find(case)
        if found is None:
            raise typer.BadParameter(f"{table.name} has no case {case!r}", param_hint="--case")
        base = found.model_dump(by_alias=True, exclude_unset=True)
    given = {
        "action": action,
        "orchestrator": orchestrator,
        "executor": executor,
        "class": class_,
        "virtual": virtual,
        "labels": _labels(label),
        "trusted": trusted,
        "tier": tier,
        "workflow": workflow,
        "run": run,
        "step": step,
        "attempt": attempt,
        "max_runtime_s": max_runtime_s,
        "time": time,
        "parent": None if parent is None else {"orchestrator": parent},
    }
    asked = make_case(base | {name: value for name, value in given.items() if value is not None})
    facts, request, _ = decide_case(asked, policies)
    explanation = explain_decision(policies.dispatch, request, facts.risk())
    view.print_explanation(explanation, policies, json=json)
    if not explanation.decision.permitted:
        sys.exit(NO)


def _labels(given: list[str] | None) -> dict[str, str] | None:
    if not given:
        return None
    pairs = [one.partition("=") for one in given]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise typer.BadParameter(f"{wrong[0]!r} is not NAME=VALUE", param_hint="--label")
    return {name: value for name, _, value in pairs}


def _documents(folder: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    from ztrooted.cli.policy_activate import read_folder  # noqa: PLC0415
    from ztrooted.policies import FILES  # noqa: PLC0415

    return read_folder(folder), {role: str(folder / name) for role, name in FILES.items()}


def _cases(path: Path) -> Any:
    from ztrooted import strict_toml  # noqa: PLC0415
    from ztrooted.policy_cases import parse_cases  # noqa: PLC0415

    remedy = f"write cases into {ready_made.CASES_FILE} beside the policies, or name their file with --cases"
    data = read_at_most(path, strict_toml.MAX_TOML, remedy)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(GateReason.POLICY_INVALID, f"{path} is not UTF-8") from error
    return parse_cases(data, str(path))
