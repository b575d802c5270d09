"""The lineage: durable appends, proofs, and how long a million records keep somebody waiting.

``ZTROOTED_RECORDS`` makes it smaller; the targets are for a million.
"""

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from gateway.app import Gateway
from gateway.config import load_config
from gateway.fsck import fsck
from gateway.storage import lineage
from gateway.storage.database import Database, Transaction
from gateway.storage.lineage import Reader
from tests.bench import bundle
from tests.bench.measure import Row
from tests.support.gateway_process import GatewayProcess
from ztrooted import merkle
from ztrooted.records import Record

RECORDS = int(os.environ.get("ZTROOTED_RECORDS", "1000000"))
WRITERS = 64
SECONDS = 4.0
DELAY_S = 0.2


def rows(*, records: int = RECORDS, seconds: float = SECONDS) -> Iterator[Row]:
    """Each row with its own reference."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, raw = asyncio.run(_append(folder / "ours.db", seconds)), _raw(folder / "raw.db", seconds)
        ratio = ours / raw
        yield Row(
            "append_64_writers", ours, "1/s", "raw SQLite group commit", raw, ratio, ">= 15,000 or ratio >= 0.6",
            ours >= 15_000 or ratio >= 0.6, ours,
        )  # fmt: skip
        gateway = GatewayProcess(folder)
        asyncio.run(_fill(gateway, records))
        for row, limit, value in asyncio.run(_million(gateway, records)):
            yield Row(
                row,
                value,
                row.rpartition("_")[2],
                "its limit",
                limit,
                limit / value,
                f"<= {limit:g}",
                value <= limit,
                value,
            )
    yield from bundle.rows()


def _record(number: int) -> Record:
    body = {
        "purpose": "runtime",
        "executor": f"ex-{number % 1000:032x}",
        "nonce": f"{number:064x}",
        "detail": "x" * 300,
    }
    return Record("executor.trust_changed", 1_790_000_000_000 + number, body)


async def _append(path: Path, seconds: float) -> float:
    """Records by second, from writers each of which waits until its own is durable."""
    database = Database(path, on_failure=lambda: None)
    done = 0

    async def write(until: float) -> None:
        nonlocal done
        while time.monotonic() < until:
            appended = await database.write(partial(Transaction.append, record=_record(done)))
            assert appended.index < appended.size
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(write(began + seconds) for _ in range(WRITERS)))
    took = time.monotonic() - began
    await database.close()
    return done / took


def _raw(path: Path, seconds: float) -> float:
    """What SQLite alone does: the same bytes, as many in a commit, nothing derived from them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE records(seq INTEGER PRIMARY KEY, leaf BLOB, bytes BLOB)")
        done, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(WRITERS):
                data = _record(done).encode()
                connection.execute("INSERT INTO records VALUES (?, ?, ?)", (done, merkle.leaf_hash(data), data))
                done += 1
            connection.execute("COMMIT")
        return done / (time.monotonic() - began)


async def _fill(process: GatewayProcess, records: int) -> None:
    """A gateway that has been at work for long: its own records, many more, and a checkpoint over them."""
    gateway = Gateway(load_config(process.data))
    await gateway.start()

    def append(tx: Transaction, first: int) -> None:
        for number in range(first, min(first + 5000, records)):
            tx.append(_record(number))

    for first in range(0, records, 5000):
        await gateway.database.write(partial(append, first=first))
    await gateway.close()


async def _million(process: GatewayProcess, records: int) -> list[tuple[str, float, float]]:
    """(row, limit, value) of what is asked of that lineage."""
    began = time.monotonic()
    gateway = Gateway(load_config(process.data))
    await gateway.start()
    start_s = time.monotonic() - began
    proof_ms = 1000 * _proofs(gateway, records)
    blocked_ms = 1000 * await _blocked(gateway)
    await gateway.close()
    began = time.monotonic()
    count, findings = fsck(load_config(process.data))
    assert not list(findings)
    assert count > records
    return [
        ("inclusion_proof_1e6_ms", 0.5, proof_ms),
        ("fsck_1e6_s", 60.0, time.monotonic() - began),
        ("start_1e6_s", 2.0, start_s),
        ("append_while_sealing_ms", DELAY_S * 1000 / 2, blocked_ms),
    ]


def _proofs(gateway: Gateway, records: int) -> float:
    """Seconds for one inclusion proof, the median of many."""
    reader, size = Reader(gateway.database.reading), lineage.size(gateway.database.reading)
    took = []
    for number in range(1000):
        index = (number * 7919 * 131) % records
        began = time.perf_counter()
        merkle.inclusion_proof(size, index, reader.read)
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


async def _blocked(gateway: Gateway) -> float:
    """The longest that an append took while the TPM needed ``DELAY_S`` for each answer."""
    device, slow = gateway.signer._device, []
    for name in ("sign_with_log_key", "quote", "counter", "increment_counter", "certify_counter"):
        answer = getattr(device, name)

        def late(*arguments: object, answer=answer, **options: object) -> object:  # type: ignore[no-untyped-def]
            time.sleep(DELAY_S)
            return answer(*arguments, **options)

        setattr(device, name, late)
    sealing = asyncio.create_task(gateway.checkpointer.seal(anchor=True))
    number = 0
    while not sealing.done() or not number:
        record, number = _record(number), number + 1
        began = time.monotonic()
        await gateway.database.write(partial(Transaction.append, record=record))
        slow.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    await sealing
    return max(slow)
