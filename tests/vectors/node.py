"""The second verifier, run by Node.js: many cases in one process."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.errors import EnvironmentProblem
from ztrooted.verify import Report, verify_bundle

HERE = Path(__file__).parent
VERIFIER = HERE.parents[1] / "gateway" / "console" / "verifier"


def node() -> str:
    """Where it is. scripts/setup installs it, and without it nothing here says that anything holds."""
    found = shutil.which("node")
    assert found, "node is not installed: run scripts/setup"
    return found


def judged(cases: Iterable[tuple[bytes, bytes]], module: Path = VERIFIER / "verify.js") -> list[dict[str, Any]]:
    """The second verifier's report of each (bundle, anchors)."""
    lines = [json.dumps({"bundle": _text(bundle), "anchors": _text(anchors)}) + "\n" for bundle, anchors in cases]
    return run("judge.mjs", module.as_uri(), lines)


def called(module: str, calls: Iterable[tuple[str, list[Any]]]) -> list[Any]:
    """What functions of a module of the verifier answer: ``{"value": …}`` or ``{"reason": code}``. Bytes go as bytes."""
    lines = [json.dumps({"name": name, "arguments": _tagged(arguments)}) + "\n" for name, arguments in calls]
    return run("call.mjs", (VERIFIER / module).as_uri(), lines)


def run(driver: str, argument: str, lines: list[str]) -> list[Any]:
    """What a script of this folder answers, a JSON text a line for each of the lines it is given."""
    done = subprocess.run(
        [node(), str(HERE / driver), argument], input="".join(lines), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(lines), done.stderr
    return answers


def _tagged(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": _text(value)}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    return {name: _tagged(item) for name, item in value.items()} if isinstance(value, dict) else value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def first_report(bundle: bytes, anchors: bytes) -> Report | None:
    """What Python finds, or None where the anchors can't be used."""
    try:
        return verify_bundle(bundle, _anchors(anchors))
    except EnvironmentProblem:
        return None


def _anchors(data: bytes) -> Anchors:
    return parse_anchors(data, "anchors")


def failure(report: dict[str, Any]) -> tuple[str | None, str | None]:
    """Name and reason of the check that failed, of an encoded report of either verifier."""
    return next(((one["name"], one["reason"]) for one in report["checks"] if one["status"] == "fail"), (None, None))


def require_no_wrong_pass(first: dict[str, Any], second: dict[str, Any], case: str) -> None:
    """What Python fails, the second verifier does not pass; what it calls verified is; and they have the same plan."""
    named = [[(one["number"], one["name"]) for one in report["checks"]] for report in (first, second)]
    assert named[0] == named[1], case
    for one, other in zip(first["checks"], second["checks"], strict=True):
        assert not (one["status"] == "fail" and other["status"] == "pass"), f"{case}: {one} was passed"
    assert first["verified"] or second["word"] != "verified", case
