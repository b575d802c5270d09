"""``ztrooted policy activate`` and ``show``: the policies of a gateway, changed and seen."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ztrooted import limits
from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.files import read
from ztrooted.cli.output import NO, JsonFlag, counted, show, show_table, terminal
from ztrooted.clock import instant
from ztrooted.errors import EnvironmentProblem
from ztrooted.policies import FILES, Policies
from ztrooted.policy_models import PoliciesView, TrialView
from ztrooted.reasons import GateReason

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder with appraisal.toml, dispatch.cedar and entities.toml.")
]


def activate(
    folder: Folder,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: say which recorded decisions would be others.")
    ] = False,
    last: Annotated[
        int, typer.Option(min=1, max=limits.REPLAYED, help="With --dry-run: how many decisions to replay.")
    ] = 100,
    allow_rollback: Annotated[
        bool, typer.Option("--allow-rollback", help="Activate policies that were in force before and were replaced.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Put the policies of a folder in force, all three at once.

    Live authorizations are decided again under them at once, and every connected executor is challenged. With --dry-run
    nothing changes; the exit code is 1 if any recorded decision would be another.
    """
    documents = read_folder(folder)
    Policies.load(documents, {role: str(folder / name) for role, name in FILES.items()})  # names file and line
    texts = {role: data.decode() for role, data in documents.items()}

    async def ask() -> PoliciesView | TrialView:
        async with connect(gateway, ca, token_file) as client:
            if dry_run:
                return await client.try_policies(texts, last=last)
            return await client.activate_policies(texts, allow_rollback=allow_rollback)

    view = asyncio.run(ask())
    if isinstance(view, PoliciesView):
        show(view.model_dump(exclude={"documents"}), "", json=True) if json else _print_policies(view)
        return
    show(view.model_dump(), "", json=True) if json else _print_trial(view)
    if view.changed:
        sys.exit(NO)


def in_force(gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False) -> None:
    """Show which policies are in force, since when, and who activated them."""

    async def ask() -> PoliciesView:
        async with connect(gateway, ca, token_file) as client:
            return await client.policies()

    view = asyncio.run(ask())
    if json:
        show(view.model_dump(), "", json=True)
    else:
        _print_policies(view)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The three documents of a folder, by role. EnvironmentProblem for one that is not there."""
    found = {}
    for role, name in FILES.items():
        path = folder / name
        remedy = "a folder of policies has appraisal.toml, dispatch.cedar and entities.toml"
        found[role] = read(path, limits.POLICY, GateReason.REQUEST_TOO_LARGE, remedy)
        try:
            found[role].decode()
        except UnicodeDecodeError as error:
            raise EnvironmentProblem(GateReason.POLICY_INVALID, f"{path} is not UTF-8", "save it as UTF-8") from error
    return found


def _print_policies(view: PoliciesView) -> None:
    console = terminal()
    console.print(
        f"In force since {instant(view.activated_at)}, activated by {view.operator or 'the start of the gateway'}:"
    )
    for role in FILES:
        console.print(f"  {role:<10} {getattr(view, role)}")
    for warning in view.trusts_everything:
        console.print(f"[bold red]{escape(warning)}[/]")
    for authorization in view.revoked:
        console.print(f"  revoked: {authorization}")


def _print_trial(view: TrialView) -> None:
    rows = [
        (
            str(change.record),
            change.authorization,
            change.was,
            change.would_be,
            change.detail if change.reason is None else f"{change.detail} ({change.reason})",
        )
        for change in view.changed
    ]
    none = "Every decision would come out as it did."
    show_table(("record", "authorization", "was", "would be", "why"), rows, empty=none)
    console = terminal()
    replayed = counted(view.replayed, "decision")
    console.print(f"Replayed {replayed}; {len(rows)} would come out otherwise. Nothing was changed.")
    for why, count in view.skipped.items():
        console.print(f"Not replayed: {counted(count, 'decision')}: {escape(why)}")
