"""Entry point of ``ztrooted``: its own commands, and those that installed rooms add (the gateway's).

Only what the command line names is imported: a command of a tenth of a second would wait a second for all the others.
"""

import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points

import typer

from tpm.errors import TpmError
from ztrooted.cli.output import Version, fail
from ztrooted.errors import GateError

# In the order in which help lists them: first single commands, then groups of them.
_COMMANDS = {
    "demo": "ztrooted.cli.demo:demo",
    "authorize": "ztrooted.cli.orchestrate:authorize",
    "exec": "ztrooted.cli.orchestrate:execute",
    "watch": "ztrooted.cli.orchestrate:watch",
    "executors": "ztrooted.cli.operate:executors",
    "label": "ztrooted.cli.operate:label",
    "revoke": "ztrooted.cli.orders:revoke",
    "quarantine": "ztrooted.cli.orders:quarantine",
    "release": "ztrooted.cli.orders:release",
    "quarantined": "ztrooted.cli.orders:quarantined",
    "explain": "ztrooted.cli.explain:explain",
    "result": "ztrooted.cli.operate:result",
    "webhooks": "ztrooted.cli.webhooks:webhooks",
    "doctor": "ztrooted.cli.doctor:doctor",
    "forget-log": "ztrooted.cli.forget_log:forget_log",
}
_GROUPS = {
    "executor": "ztrooted.cli.executor:app",
    "baseline": "ztrooted.cli.baseline:app",
    "policy": "ztrooted.cli.policy:app",
    "audit": "ztrooted.cli.audit:app",
    "inspect": "ztrooted.cli.inspect:app",
    "witness": "ztrooted.cli.witness:app",
}


def command_line(named: Collection[str] = ()) -> typer.Typer:
    """The command line with the commands that are ``named``; with all of them where none of those is a command."""
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback()(about)
    groups = [EntryPoint(name, place, "ztrooted.commands") for name, place in _GROUPS.items()]
    groups += entry_points(group="ztrooted.commands")
    commands = [EntryPoint(name, place, "ztrooted.commands") for name, place in _COMMANDS.items()]
    known = {one.name for one in (*commands, *groups)}
    wanted = known & set(named) or known
    for one in commands:
        if one.name in wanted:
            app.command(one.name)(one.load())
    for one in groups:
        if one.name in wanted:
            app.add_typer(one.load(), name=one.name)
    return app


def about(version: Version = False) -> None:
    """A hardware-rooted attestation gateway: no job runs on a machine that can't prove, now, what it is."""


def main() -> None:
    """Run the command line. Never shows a traceback for something a person can mend."""
    try:
        command_line(sys.argv[1:2])()
    except (GateError, TpmError) as error:
        ours = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv  # the rest is a job's command line
        fail(error, json="--json" in ours)
