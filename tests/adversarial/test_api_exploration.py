"""What an OpenAPI document leads a stranger to ask: never a failure of ours, never an answer that is not described.

schemathesis makes the questions, from where scripts/peers puts it. ``ZTROOTED_API_EXAMPLES`` says how many for each
address; a few are asked in every run, and an hour's worth by ``ZTROOTED_API_EXAMPLES=2000 scripts/test -k exploration``.
"""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess

ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("ZTROOTED_API_EXAMPLES", "1"))
UNEXPLORED = {
    "GET /v1/events",
    "GET /v1/executor/channel",
}  # tests/adversarial/test_feed.py and test_session.py ask those


async def explore(gate: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path, examples: int) -> dict[str, Any]:
    """What ``tests.support.api_explorer`` found."""
    made = await asyncio.to_thread(
        subprocess.run, [ROOT / "scripts/peers"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"scripts/peers could not install schemathesis: {made.stderr.strip()[-200:]}")
    grant = await executor.authorize()
    token = await gate.token("operator")
    baseline = (await gate.call("GET", "/v1/baselines", token=token)).json["baselines"][0]["baseline"]
    with executor.enrolled.client_certificate() as certificate:
        copies = [str(shutil.copy(one, tmp_path / name)) for one, name in zip(certificate, ("c", "k"), strict=True)]
        asked = {
            "url": gate.url,
            "ca": str(gate.ca),
            "document": (await gate.call("GET", "/v1/openapi.json")).json,
            "examples": examples,
            "seed": secrets.randbits(32),
            "tokens": {role: await gate.token(role, "flows") for role in ("orchestrator", "auditor", "operator")},
            "certificate": copies,
            "known": {
                "authorization": grant.authorization,
                "baseline": baseline,
                "decision": grant.authorization,
                "executor": executor.id,
                "executor_class": "default",
                "level": "0",
                "number": "000.p/1",
                "other": baseline,
            },
        }
        command = [ROOT / ".peers/bin/python", "-I", ROOT / "tests/support/api_explorer.py"]
        done = await asyncio.to_thread(
            subprocess.run, command, input=json.dumps(asked), capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "seed": asked["seed"], "document": asked["document"]}


@pytest.mark.timeout(120 + EXAMPLES * 60)
async def test_no_question_that_the_description_leads_to_is_answered_otherwise(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, tmp_path: Path
) -> None:
    found = await explore(gate, executor, tmp_path, EXAMPLES)
    assert not found["wrong"], "\n".join([f"seed {found['seed']}", *found["wrong"]])
    described = {f"{method.upper()} {path}" for path, item in found["document"]["paths"].items() for method in item}
    assert found["asked"].keys() == described - UNEXPLORED
    assert all(found["asked"].values())
    if EXAMPLES >= 200:  # then chance has led into each of them
        assert [name for name, counts in found["asked"].items() if not {"200", "201"} & counts.keys()] == []
