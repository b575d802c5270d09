"""``python -m tests.support.faulty_gateway DATA``: the real service as a process of its own, with faults on demand.

Some faults can't be caused from outside: a clock that somebody sets (it is everybody's), a task that dies, a gateway that
is not what it was initialised as. A file ``fault`` in the data folder asks for one, by a word of ``FAULTS``; what follows is
the gateway's own doing. The file is gone once the fault is there.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gateway.serving
from gateway.app import Gateway
from gateway.config import GatewayConfig, load_config
from gateway.serving import serve
from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from ztrooted.clock import SystemClock
from ztrooted.logs import configure

FILE = "fault"
LOOK_S = 0.02
MOVED_S = 30.0


class Died(Exception):  # noqa: N818 -- what a defect of ours would raise
    """The fault of a part that is to die."""


class SetClock(SystemClock):
    """A wall clock that somebody may set."""

    def __init__(self) -> None:
        self.set_s = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + round(self.set_s * 1000)


def dies(*_: object) -> object:
    """Stands for a part of the gateway from now on."""
    raise Died


class FaultyGateway(Gateway):
    """A gateway that looks for the file."""

    def __init__(self, config: GatewayConfig) -> None:
        self.wall = SetClock()
        super().__init__(config, clock=self.wall)

    async def start(self) -> None:
        await super().start()
        self.tasks.start(self._look())

    async def _look(self) -> None:
        path = self.config.data / FILE
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(FileNotFoundError):
                fault = path.read_text()
                FAULTS[fault](self)
                path.unlink()

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall.set_s += seconds

    def kill_sweeper(self) -> None:
        """The task that watches every deadline meets a defect."""
        self.deadlines._run_due = dies  # type: ignore[assignment, method-assign]

    def kill_writer(self) -> None:
        """The thread that writes the database meets a defect."""
        self.tasks.start(self.database.write(dies))

    def kill_checkpointer(self) -> None:
        """The task that seals the lineage meets a defect."""
        self.checkpointer.seal = dies  # type: ignore[assignment, method-assign]

    def drift(self) -> None:
        """Something is measured into the gateway's own PCR 4: it is not what it was initialised as."""
        device = self.signer._device
        digests = {bank: bytes(DIGEST_SIZE[BANK_BY_NAME[bank]]) for bank in device.banks()}
        self.signer._thread.submit(device.extend, 4, digests).result()


FAULTS: dict[str, Callable[[FaultyGateway], None]] = {
    "clock back": lambda gateway: gateway.set_clock(-MOVED_S),
    "clock forward": lambda gateway: gateway.set_clock(MOVED_S),
    "sweeper": FaultyGateway.kill_sweeper,
    "writer": FaultyGateway.kill_writer,
    "checkpointer": FaultyGateway.kill_checkpointer,
    "drift": FaultyGateway.drift,
}


def main() -> int:
    """Serve a data folder on the port that is asked for."""
    configure(verbose=False)
    gateway.serving.Gateway = FaultyGateway  # type: ignore[assignment,attr-defined]
    return asyncio.run(serve(load_config(Path(sys.argv[1]), listen_port=int(sys.argv[2]))))


if __name__ == "__main__":
    sys.exit(main())
