"""What ``ztrooted policy`` prints for people."""

import json as jsonlib
from collections import Counter
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ztrooted.inspect.plain import printable
from ztrooted.policies import Policies
from ztrooted.policy_cases import Result
from ztrooted.policy_check import Checked
from ztrooted.policy_explain import PolicyExplanation


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _print_json(value: Any) -> None:
    typer.echo(jsonlib.dumps(value, indent=2))


def _print_trust(console: Console, policies: Policies) -> None:
    for warning in policies.trusts_everything():
        console.print(f"[bold red]{escape(warning)}[/]")


def print_check(found: Checked, *, json: bool) -> None:
    """Errors, or what the documents contain."""
    if json:
        _print_json(found.encode())
        return
    console = _console()
    if found.policies is not None:
        table = Table("class", "best tier", "", box=None, pad_edge=False)
        for one in found.classes():
            table.add_row(escape(one["class"]), one["best_tier"], "only observes" if one["observes_only"] else "")
        console.print(table)
        console.print()
        table = Table("policy", "", "where", "what it says", box=None, pad_edge=False)
        for one in found.rules():
            table.add_row(*(escape(one[key]) for key in ("id", "effect", "where", "summary")))
        console.print(table)
        console.print(f"\n{len(found.policies.entities.groups)} groups, {len(found.policies.entities.pools)} pools")
        _print_trust(console, found.policies)
    for error in found.errors:
        console.print(f"[bold red]error:[/] {escape(error)}")
    if found.errors:
        console.print(f"[bold red]{len(found.errors)} error{'s' * (len(found.errors) > 1)}[/]")
    else:
        console.print("[bold green]these policies can be activated[/]")


def print_results(name: str, results: list[Result], policies: Policies, *, json: bool) -> None:
    """Failing cases first, each with its place; then the others, and the count."""
    failed = [one for one in results if not one.passed]
    passed = [one for one in results if one.passed]
    unused = untried(results, policies)
    if json:
        counts = {"passed": len(passed), "failed": len(failed)}
        _print_json({**counts, "untried_policies": unused, "cases": [one.encode() for one in [*failed, *passed]]})
        return
    console = _console()
    for one in failed:
        console.print(f"[bold red]FAIL[/] {escape(one.name)}\n     {escape(f'{name}:{one.line}: {one.detail}')}")
    for one in passed:
        by = f"  [dim]{escape(', '.join(one.by))}[/]" if one.by else ""
        console.print(f"[green]ok[/]   {escape(one.name)}{by}")
    if unused:
        console.print(f"[yellow]no case was decided by:[/] {escape(', '.join(unused))}")
    _print_trust(console, policies)
    style = "bold red" if failed else "bold green"
    console.print(f"[{style}]{len(passed)} passed, {len(failed)} failed[/]")


def untried(results: list[Result], policies: Policies) -> list[str]:
    """The policies that decided no case: nobody has seen what they do."""
    used = Counter(policy for one in results for policy in one.by)
    return [rule.id for rule in policies.dispatch.rules if not used[rule.id]]


def print_explanation(found: PolicyExplanation, policies: Policies, *, json: bool) -> None:
    """The answer, who gave it, and what it was asked about."""
    if json:
        _print_json({**found.encode(), "trusts_everything": list(policies.trusts_everything())})
        return
    console = _console()
    request, decision = found.request, found.decision
    console.print("[bold green]permit[/]" if decision.permitted else f"[bold red]deny[/] [dim]({decision.reason})[/]")
    console.print(escape(f"{request.action} by {request.orchestrator} on {request.executor}"))
    for error in decision.errors:
        console.print(f"[bold red]error:[/] {escape(error)}")
    for rule in found.deciding:
        console.print(f"\n{rule.effect} [bold]{escape(rule.id)}[/] [dim]{escape(f'{found.name}:{rule.line}')}[/]")
        for line in rule.statement.text.splitlines():
            console.print(f"    {escape(printable(line))}")
    if not found.deciding and not decision.errors:
        console.print("no permit matches, and the default is to deny" + (". The closest:" if found.closest else ""))
    for close in found.closest:
        where = f"{found.name}:{close.rule.line}"
        console.print(f"\npermit [bold]{escape(close.rule.id)}[/] [dim]{escape(where)}[/]")
        for part in close.failing:
            how = "is not so" if part.holds is False else "can't be told without what is before it"
            console.print(f"    [red]{how}:[/] {escape(part.text)}")
    console.print(f"\nrisk {found.score.total}")
    for one in found.score.parts:
        console.print(f"    {one.points:>3}  {escape(one.name)}: {escape(one.because)}")
    belongs = [("groups", request.groups), ("pools", request.pools)]
    for label, names in belongs:
        console.print(f"{label}: {escape(', '.join(names)) or 'none'}")
    told = {"labels": dict(request.labels), **dict(request.executor_attributes)}
    console.print(f"executor: {escape(jsonlib.dumps(told))}")
    console.print(f"context: {escape(jsonlib.dumps(dict(request.context)))}")
    _print_trust(console, policies)
