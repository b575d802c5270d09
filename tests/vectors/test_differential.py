"""The two verifiers over changed bundles; see ``tests.vectors.differential``."""

import os
import random

import pytest

from gateway.anchors import anchors_file
from tests.adversarial.test_bundle import drift_away, export, run_job
from tests.adversarial.test_chain_bundles import chain
from tests.adversarial.test_chains import POLICY
from tests.support.executor import ScriptedExecutor, executor, executors
from tests.support.forger import Forger
from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.vectors.differential import Comparison, mutants

__all__ = ["executor", "executors", "gate"]

COUNT = int(os.environ.get("ZTROOTED_DIFFERENTIAL", "60"))


@pytest.mark.timeout(120 + COUNT)
async def test_the_second_verifier_passes_no_check_that_python_fails(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    gate.set_dispatch_policy(POLICY)
    await gate.restart()
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        *_, leaf = await chain(executor, channel, renewals=1)
        granted = await run_job(executor, channel, renewals=1)
        drifted = await drift_away(executor, channel)
        bundles = [await export(gate, one) for one in (granted, leaf, drifted)]
    seed = int(os.environ.get("ZTROOTED_SEED", random.randrange(1 << 30)))  # noqa: S311
    chosen = random.Random(seed)  # noqa: S311
    forgers = [lambda bundle=bundle: Forger(bundle, gate) for bundle in bundles]
    comparison = Comparison(anchors_file(gate.gateway.config).encode())
    try:
        comparison.compare(await mutants(chosen.choice(bundles), forgers, COUNT, chosen))
    finally:
        print(f"seed {seed}: {comparison.tried} tried; {dict(comparison.outcomes)}; failed {dict(comparison.failed)}")
        print(*sorted(set(comparison.stricter)), sep="\n")
    assert comparison.tried == COUNT
    assert comparison.outcomes["same"] > COUNT / 2
