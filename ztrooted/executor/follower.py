"""A caller that follows its job's lease: it is told of each renewal, in order, and believes none that it can't verify.

So whoever had the job started holds a deadline of its own, and can end the job when this agent hangs.
"""

import asyncio
import time
from contextlib import suppress

from ztrooted.control_messages import ExecRenewed
from ztrooted.executor.control import Caller
from ztrooted.models import Issuer

MAX_UNREAD = 16  # renewals that wait for a caller which does not read; it misses the next one, and its job's lease ends


class Follower:
    """Tells one caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._waiting: asyncio.Queue[tuple[str, Issuer, float]] = asyncio.Queue(MAX_UNREAD)

    def renewed(self, token: str, issuer: Issuer, deadline: float) -> None:
        """There is a renewed artifact, whose lease ends at ``deadline`` of ``time.monotonic()``."""
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait((token, issuer, deadline))

    async def tell(self) -> None:
        """Pass on what there is and what comes, until the caller is gone."""
        with suppress(OSError):
            while True:
                token, issuer, deadline = await self._waiting.get()
                left_ms = max(0, int(1000 * (deadline - time.monotonic())))
                await self._caller.tell(ExecRenewed(artifact=token, issuer=issuer, left_ms=left_ms))
