"""Entry point of ``ztrooted``: its own commands, and those that installed rooms add (the gateway's)."""

import sys
from importlib.metadata import entry_points

import typer

from tpm.errors import TpmError
from ztrooted.cli import audit, baseline, executor, explain, inspect, operate, orchestrate, orders, policy, witness
from ztrooted.cli.demo import demo
from ztrooted.cli.forget_log import forget_log
from ztrooted.cli.output import Version, fail
from ztrooted.cli.webhooks import webhooks
from ztrooted.errors import GateError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def about(version: Version = False) -> None:
    """A hardware-rooted attestation gateway: no job runs on a machine that can't prove, now, what it is."""


app.command("demo")(demo)
app.command("authorize")(orchestrate.authorize)
app.command("exec")(orchestrate.execute)
app.command("watch")(orchestrate.watch)
app.command("executors")(operate.executors)
app.command("label")(operate.label)
app.command("revoke")(orders.revoke)
app.command("quarantine")(orders.quarantine)
app.command("release")(orders.release)
app.command("quarantined")(orders.quarantined)
app.command("explain")(explain.explain)
app.command("result")(operate.result)
app.command("webhooks")(webhooks)
app.command("forget-log")(forget_log)
app.add_typer(executor.app, name="executor")
app.add_typer(baseline.app, name="baseline")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(inspect.app, name="inspect")
app.add_typer(witness.app, name="witness")


def main() -> None:
    """Run the command line. Never shows a traceback for something a person can mend."""
    for command in entry_points(group="ztrooted.commands"):
        app.add_typer(command.load(), name=command.name)
    try:
        app()
    except (GateError, TpmError) as error:
        ours = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv  # the rest is a job's command line
        fail(error, json="--json" in ours)
