"""Executors whose machines are taken out of service, and who comes in their place. It is for good.

An executor's id follows from its TPM, so a machine with another TPM is another executor. What can be passed on is what an
operator gave the old one: its labels, by which policies know it. Old bundles verify as before, and name who ran the job.
"""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.channel import Channels
from gateway.orders import Order, Orders
from gateway.replies import NOTHING, Keep
from gateway.storage import authorizations, executors, retirements
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from gateway.storage.retirements import Retirement
from ztrooted.errors import GateError
from ztrooted.operator_models import RetirementView
from ztrooted.reasons import GateReason
from ztrooted.records import Record

PARTING_S = 5.0  # for an executor to say that its jobs are dead, before it is hung up on; killing them takes a moment


@dataclass(frozen=True, slots=True)
class Retired:
    """What came of it: ``labels`` are those that the successor has now, where there is one and there were any."""

    view: RetirementView
    revoked: tuple[Authorization, ...]


class Retirements:
    """Takes executors out of service."""

    def __init__(self, database: Database, orders: Orders, channels: Channels) -> None:
        self._database = database
        self._orders = orders
        self._channels = channels

    async def retire(self, order: Order, successor: str | None, keep: Keep = NOTHING) -> Retired:
        """End what an executor runs, and have it never come again; what is done already stays as it was done.

        A successor may be named later, once. GateError ``operator.successor`` for one that can't be it.
        """
        name = order.subject.id

        def commit(tx: Transaction) -> Retired:
            known = retirements.find(tx.connection, name)
            if known is not None and successor in {None, known.successor}:
                done = Retired(RetirementView(executor=name, successor=known.successor, revoked=[], labels={}), ())
            else:
                done = self._retire(tx, order, successor, known)
            keep.answer(tx, 200, done.view)
            return done

        return await self._database.write(commit)

    def _retire(self, tx: Transaction, order: Order, successor: str | None, known: Retirement | None) -> Retired:
        name = order.subject.id
        if successor is not None:
            _require_possible(tx.connection, name, successor, known)
        retired = Retirement(name, successor, order.operator, order.reason, order.now_ms)
        retirements.store(tx, retired)
        revoked = self._orders.end(
            tx, replace(order, code=GateReason.OPERATOR_RETIRED), "executor.retired", {"successor": successor}
        )
        labels = executors.labels_of(tx.connection, name)
        passed: Mapping[str, str] = {}
        if successor is not None and labels:
            executors.set_labels(tx, successor, passed := dict(labels))
            body = {"executor": successor, "labels": passed, "operator": order.operator}
            tx.append(Record("executor.labelled", order.now_ms, body))
        view = RetirementView(
            executor=name, successor=successor, revoked=[one.id for one in revoked], labels=dict(passed)
        )
        return Retired(view, tuple(revoked))

    async def part(self, executor: str) -> None:
        """Hang up on who was retired: once its jobs have ended, or at the latest after ``PARTING_S``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_S):
                while authorizations.unfinished(self._database.reading, executor):
                    await self._database.wait_for_commit()
        await self._channels.end(executor, GateReason.ENROLL_RETIRED)


def _require_possible(connection: sqlite3.Connection, executor: str, successor: str, known: Retirement | None) -> None:
    """GateError ``operator.successor`` where an executor can't come in the place of another."""
    if known is not None and known.successor is not None:
        why = f"{known.operator} put {known.successor} in its place before"
    elif successor == executor:
        why = "nobody comes in his own place"
    elif retirements.find(connection, successor) is not None:
        why = f"{successor} is retired itself"
    else:
        return
    raise GateError(GateReason.OPERATOR_SUCCESSOR, f"{successor} can't come in the place of {executor}: {why}")
