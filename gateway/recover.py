"""Going on from a database that the TPM's counter does not know: explicit, by name, and in the log for ever."""

from contextlib import suppress

from gateway.app import DATABASE
from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig
from gateway.signer import Signer
from gateway.storage import authorizations, lineage
from gateway.storage.database import Database, Transaction
from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.models import Model, Name, compose
from ztrooted.operator_models import Why
from ztrooted.reasons import GateReason
from ztrooted.records import Record


class Accountable(Model):
    """Who does this, and why."""

    operator: Name
    reason: Why


async def recover(config: GatewayConfig, *, operator: str, reason: str) -> dict[str, object]:
    """Make this database the one that the TPM stands for; what was done, for people.

    The record ``gateway.recovered`` says what the counter was and what the database knew of it, so whoever holds a
    checkpoint of the history that is given up here finds out why it does not fit. UsageProblem where nothing is wrong;
    EnvironmentProblem where nothing helps: the records themselves are damaged, or the TPM is an older one than the database.
    """
    asked = compose(Accountable, operator=operator, reason=reason)
    signer = Signer(config)
    try:
        database = Database(
            config.data / DATABASE, on_failure=lambda: None, trusted=signer.identity.trusts(config.origin)
        )
    except EnvironmentProblem:
        signer.close()
        raise
    try:
        authorizations.check(database.reading)
        return await _recover(config, signer, database, asked)
    finally:
        await database.close()
        signer.close()


async def _recover(config: GatewayConfig, signer: Signer, database: Database, asked: Accountable) -> dict[str, object]:
    clock = SystemClock()
    checkpointer = Checkpointer(config, database, clock, signer)
    anchors = checkpointer.anchors
    anchored, restored = anchors.counter, False
    try:
        value = signer.counter()
    except EnvironmentProblem:  # it was deleted; one that is defined anew starts above every value it had
        signer.restore_counter()
        value, restored = signer.counter(), True
    if value < anchored:
        raise EnvironmentProblem(
            GateReason.LINEAGE_ROLLED_BACK,
            f"the TPM's counter is {value}, and the newest anchor in the database is {anchored}: the TPM's own state is an"
            " older one",
            "bring back the TPM's newest state, or initialise a new gateway",
        )
    with suppress(EnvironmentProblem):
        anchors.compare(value)
        if not restored:
            raise UsageProblem(
                GateReason.LINEAGE_ROLLED_BACK,
                f"there is nothing to recover: the counter is {value}, and the database fits it",
                "start the gateway",
            )
    body = {
        "counter": str(value),
        "anchored": str(anchored),
        "counter_restored": restored,
        **asked.model_dump(),
    }
    record = Record("gateway.recovered", clock.now_ms(), body)

    def store(tx: Transaction) -> None:
        tx.append(record)

    await database.write(store)
    anchors.accept(value)
    size, _ = await checkpointer.seal(anchor=True)
    return {**body, "records": lineage.size(database.reading), "size": size, "now": str(anchors.counter)}
