"""``ztrooted demo``: the whole story with real processes and software TPMs, on this machine."""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tpm.errors import DeviceError
from ztrooted.cli.output import JsonFlag, fail, show
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

# Of what a bundle proves, this is told; the rest is in --json and in `ztrooted audit verify`.
TOLD = ("checks", "outcome", "good_quotes", "largest_gap_ms", "allowed_gap_ms", "exposure_at_most_ms", "exit_status")


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Keep databases, bundles and anchors in this new folder.", metavar="DIR")
    ] = None,
    console: Annotated[
        bool, typer.Option("--console", help="Play it in a browser instead, act by act, until Ctrl-C.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Watch a machine prove itself, get authorized, run a job, drift and be stopped; then verify the proof offline.

    Exit code 0 only if each step was observed. Everything it starts ends with it.
    """
    from ztrooted.demo.stage import Stage, UnexpectedError  # noqa: PLC0415 -- needs the software TPM's tooling
    from ztrooted.demo.story import Story  # noqa: PLC0415

    folder = _folder(data)
    if console:
        _serve(folder, kept=data is not None, json=json)
        return
    shown = Console(stderr=True, highlight=False, quiet=json)
    shown.print(f"[bold]ztrooted demo[/] in {folder}\n")
    stage, began = Stage(folder), time.monotonic()
    story = Story(stage)
    steps: list[dict[str, Any]] = []
    problem: Exception | None = None
    try:
        for number, (name, sentence, act) in enumerate(story.steps(), 1):
            start = time.monotonic()
            with shown.status(f"{sentence} …"):
                observed = act()
            seconds = round(time.monotonic() - start, 2)
            steps.append({"step": name, "seconds": seconds, "observed": observed})
            shown.print(f"[green]{number:>2}[/]  [bold]{sentence}.[/] [dim]{seconds:.1f} s[/]")
            for key, value in observed.items():
                shown.print(f"      [dim]{key.replace('_', ' ')}:[/] {escape(_short(value))}")
    except (UnexpectedError, DeviceError, EnvironmentProblem) as error:
        problem = error
    finally:
        stage.close()
        story.close()
    if isinstance(problem, (DeviceError, EnvironmentProblem)):
        fail(problem, json=json)
    seconds = round(time.monotonic() - began, 1)
    result = {"ok": problem is None, "seconds": seconds, "data": str(folder), "steps": steps}
    if problem is not None:
        show(result | {"error": {"reason": "demo.unexpected", "detail": str(problem)}}, "", json=json)
        shown.print(f"\n[bold red]Not as it must be:[/] {escape(str(problem))}\nLogs are in {folder}.")
        sys.exit(1)
    show(result, _epilogue(folder, seconds, kept=data is not None), json=json)
    if data is None:
        shutil.rmtree(folder)


def _serve(folder: Path, *, kept: bool, json: bool) -> None:
    """Serve the demo's page until somebody ends it."""
    from ztrooted.demo.console import open_console  # noqa: PLC0415 -- needs the software TPM's tooling
    from ztrooted.demo.stage import Stage, UnexpectedError  # noqa: PLC0415

    stage = Stage(folder)
    try:
        link = open_console(stage)
        ca = folder / "gateway" / "tls" / "ca.pem"
        lines = (
            f"Open once, in a browser of this machine: {link}",
            f"It will warn of the certificate, whose CA is {ca}.",
            f"To sign in anywhere else of the console: the token in {folder / 'operator.token'}.",
            "Ctrl-C ends it, and everything that it started.",
        )
        show({"url": link, "ca": str(ca), "data": str(folder)}, "\n".join(lines), json=json)
        sys.stdout.flush()
        while True:
            stage.alive("gateway")
            time.sleep(1.0)
    except KeyboardInterrupt:
        pass
    except (DeviceError, EnvironmentProblem) as error:
        fail(error, json=json)
    except UnexpectedError as error:
        raise EnvironmentProblem(GateReason.ENVIRONMENT_DATA_FOLDER, str(error), f"the logs are in {folder}") from error
    finally:
        stage.close()
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(data: Path | None) -> Path:
    if data is None:
        return Path(tempfile.mkdtemp(prefix="ztrooted-demo-"))
    folder = data.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER, f"{folder} is not empty", "name a new folder with --data"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {value[name]}" for name in TOLD if name in value)
    return str(value)


def _epilogue(folder: Path, seconds: float, *, kept: bool) -> str:
    done = f"Every step was observed, in {seconds:g} s."
    if not kept:
        return f"{done} Run with --data DIR to keep the bundles and look at them."
    return (
        f"{done}\nVerify a bundle yourself:\n"
        f"  {sys.argv[0]} audit verify {folder}/bundle-train.json --anchors {folder}/anchors.toml"
    )
