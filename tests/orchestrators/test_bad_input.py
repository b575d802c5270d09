"""What is wrong where work is handed out is shown where its users look, with reason and remedy, and nothing runs."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import Adapter, Wrong
from tests.orchestrators.adapters import ADAPTERS
from tests.support.agent_in_process import MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240, func_only=True)]


class Case(NamedTuple):
    """``token`` and ``life_ms`` make another token, by its role; ``reason`` and ``remedy`` are regular expressions."""

    reason: str
    remedy: str
    variables: Mapping[str, str] = MappingProxyType({})
    role: str = ""
    life_ms: int = 60_000
    clock_s: int = 0
    executor: str = "celery"


CASES = {
    "a setting is missing": Case(
        r"config\.missing: ZTROOTED_GATEWAY", "set it: the gateway's address", {"ZTROOTED_GATEWAY": ""}
    ),
    "the token has expired": Case(
        r"auth\.credential_invalid", "Get a new token from the operator", role="orchestrator", life_ms=1
    ),
    "the token has another role": Case(r"auth\.role", "Use a credential of the role that is named", role="auditor"),
    "the CA is another": Case(
        r"environment\.tls", "use the tls/ca.pem of that gateway", {"ZTROOTED_CA": "{folder}/roots.pem"}
    ),
    "the clock is ahead": Case(r"jws\.expired", "set this machine's clock right", clock_s=7200),
    "the clock is behind": Case(r"jws\.not_yet_valid", "set this machine's clock right", clock_s=-7200),
    "the executor is unknown": Case(
        r"dispatch\.executor_unknown", "or has to be added|Check the id, or enroll the machine", executor="elsewhere"
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(ADAPTERS))
async def adapter(request: pytest.FixtureRequest, shared_machine: MachineInProcess) -> AsyncIterator[Adapter]:
    if reason := ADAPTERS[request.param].absent():
        pytest.skip(reason)
    made = ADAPTERS[request.param](shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_it_is_shown_with_reason_and_remedy_and_nothing_runs(
    adapter: Adapter, shared_machine: MachineInProcess, case: Case, tmp_path: Path
) -> None:
    variables = {name: value.format(folder=shared_machine.folder) for name, value in case.variables.items()}
    if case.role:
        token = tmp_path / "token"
        token.write_text(await shared_machine.gate.token(case.role, life_ms=case.life_ms))
        token.chmod(0o600)
        variables["ZTROOTED_TOKEN_FILE"] = str(token)
    shown = await adapter.refusal(tmp_path / "file", Wrong(variables, case.clock_s, case.executor))
    assert not (tmp_path / "file").exists()
    assert re.search(case.reason, shown), shown
    assert re.search(case.remedy, shown), shown
