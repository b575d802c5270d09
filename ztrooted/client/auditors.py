"""What auditors ask: bundles, the log, decisions."""

from urllib.parse import quote

from ztrooted import limits
from ztrooted.client.connection import Connection

LOG_FILE = 256 * (2 + 0xFFFF)  # a bundle of 256 entries, each as long as its length can say


class AuditorCalls(Connection):
    """Bytes that are verified elsewhere, offline."""

    async def bundle(self, authorization: str) -> bytes:
        """Everything that proves one authorization."""
        return await self._bytes("GET", f"/v1/authorizations/{authorization}/bundle", maximum=limits.BUNDLE)

    async def log_file(self, path: str) -> bytes:
        """A file of the log as C2SP tlog-tiles has them: ``checkpoint``, or a tile."""
        media = "text/plain" if path == "checkpoint" else "application/octet-stream"
        return await self._bytes("GET", f"/log/{path}", maximum=LOG_FILE, media=media)

    async def decision(self, decision: str) -> bytes:
        """A decision file, by authorization, executor or number of a record."""
        return await self._bytes("GET", f"/v1/decisions/{quote(decision, safe='')}", maximum=limits.BUNDLE)
