"""What orchestrators ask: dispatches, what became of them, the event feed."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp

from ztrooted.client.answers import refusal, stranger
from ztrooted.client.connection import Connection
from ztrooted.errors import GateError
from ztrooted.models import AuthorizationList, AuthorizationView, DispatchRequest, Grant, Issuer, IssuerList
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

RECORD = 4 << 20  # a dispatch's request is the largest, with its job described up to the maximum
FEED = "text/event-stream"
CHECKPOINT = b": checkpoint "  # a comment of the feed


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One record of the event feed; ``seq`` is its index in the lineage. Resume with ``seq + 1``."""

    seq: int
    type: str
    record: Record


class OrchestratorCalls(Connection):
    """Before a dispatch, while it runs, and after."""

    async def authorize(self, request: DispatchRequest, *, key: str | None = None) -> Grant:
        """Ask for permission to run one job on one executor. ``Refused`` with the reason when the answer is no.

        Asked again with the same ``key``, 16 random characters or more, the answer is the same one, and nothing is done.
        """
        return await self._call("POST", "/v1/dispatches", Grant, request, key=key)

    async def authorization(self, authorization: str) -> AuthorizationView:
        """Where one authorization stands."""
        return await self._call("GET", f"/v1/authorizations/{authorization}", AuthorizationView)

    async def children(self, authorization: str) -> list[AuthorizationView]:
        """What was authorized under one authorization, in order."""
        path = f"/v1/authorizations/{authorization}/children"
        return (await self._call("GET", path, AuthorizationList)).authorizations

    async def events(self, start: int = 0) -> AsyncGenerator[FeedEvent, None]:
        """The feed from record ``start`` on, for ever; ends when the gateway hangs up."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        before = self.memory.highest()
        async with self._request("GET", f"/v1/events?from={start}", timeout=timeout) as response:
            before = self._hear(response, before) or before
            if response.status != 200:
                raise await refusal(response, self.url)
            if response.content_type != FEED:
                raise stranger(self.url, f"it answers with {response.content_type}, which is no event feed")
            await self._settle(before)
            seq, kind = -1, ""
            async for line in _lines(response.content):
                if line.startswith(b"id: "):
                    if not line[4:].isdigit():
                        raise stranger(self.url, "it numbers its events otherwise")
                    seq = int(line[4:])
                elif line.startswith(b"event: "):
                    kind = line[7:].decode("ascii", "replace")
                elif line.startswith(b"data: "):
                    yield FeedEvent(seq, kind, parse_record(line[6:]))
                elif line.startswith(CHECKPOINT):
                    told = self._parse(line.removeprefix(CHECKPOINT).decode("ascii", "replace"))
                    self.memory.hear(told, before)
                    before = told  # what comes on one stream is in order
                    await self._settle(told)

    async def result(self, executor: str, *, profile: str | None = None, nonce: str | None = None) -> str:
        """An executor's last verdict as a signed EAR token."""
        accept = "application/eat+jwt" + (f'; eat_profile="{profile}"' if profile else "")
        query = f"?nonce={quote(nonce, safe='')}" if nonce else ""
        path = f"/v1/executors/{executor}/result{query}"
        data = await self._bytes("GET", path, headers={"Accept": accept}, media="application/eat+jwt")
        return data.decode("ascii", "replace")

    async def issuers(self) -> list[Issuer]:
        """How the log key introduced the issuing keys in use. Not verified here: ``ztrooted.ticket`` does, by anchors."""
        return (await self._call("GET", "/v1/issuers", IssuerList)).issuers


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to what a record may have: aiohttp's own reader refuses those over its buffer."""
    begun = b""
    async for piece in content.iter_any():
        *whole, begun = (begun + piece).split(b"\n")
        for line in whole:
            yield line
        if len(begun) > RECORD:
            raise GateError(GateReason.REQUEST_TOO_LARGE, f"the event feed sent a line of over {RECORD} bytes")
