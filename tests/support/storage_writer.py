"""A process that writes to a database and says, on its standard output, what it was told is durable; to be killed.

``python -m tests.support.storage_writer PATH`` reads one line per round from standard input: the seed. For each it forks a
child that writes until it is killed, and prints the child's number. The imports are paid for once.
"""

import asyncio
import os
import sys
from pathlib import Path
from random import Random

from gateway.storage import authorizations
from gateway.storage.database import Database
from tests.support.storage import requested
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

STEPS = (
    "policy.evaluated",
    "authorization.issued",
    "authorization.activated",
    "execution.started",
    "attestation.passed",
    "authorization.renewed",
    "authorization.renewed",
)
WRITERS = 8


async def write_for_ever(path: Path, seed: int) -> None:
    database = Database(path, on_failure=lambda: os._exit(3))

    async def one(number: int) -> None:
        random = Random(seed * 1000 + number)  # noqa: S311 -- repeatable
        made = 0
        while True:
            name = f"auth-{seed}-{number}-{made}"
            made += 1
            held = await database.write(lambda tx, name=name: authorizations.create(tx, requested(name), {}))
            say(held)
            for kind in STEPS:
                try:
                    held = await database.write(
                        lambda tx, kind=kind, held=held: authorizations.note(
                            tx, held, kind, 2, {"evidence": tx.blob(random.randbytes(random.randrange(3000)))}
                        )[0]
                    )
                except GateError:
                    break
                say(held)
                if random.random() < 0.1:
                    await database.write(
                        lambda tx, held=held: authorizations.revoke(tx, held, 3, GateReason.OPERATOR_REVOKED, "")
                    )

    await asyncio.gather(*(one(number) for number in range(WRITERS)))


def say(held: authorizations.Authorization) -> None:
    """One write system call, at once: a line is either said whole or not at all."""
    leaf = (held.last_leaf or b"").hex()
    os.write(1, f"durable {held.last_seq} {leaf} {held.id}\n".encode())


def main() -> None:
    path = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(write_for_ever(path, int(line)))
        os.write(1, f"child {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
