"""One connection to one gateway, whatever is asked over it: HTTP, its bounds, and what the gateway's log was."""

import asyncio
import io
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from ztrooted.baseline_models import BaselineList
from ztrooted.checkpoint import Checkpoint, parse_checkpoint
from ztrooted.client.answers import ANSWER, Reachable, address, refusal, stranger, tls_context
from ztrooted.errors import GateError, ProofError
from ztrooted.log_memory import HEADER, ConsistencyView, LogMemory, memory_file, parse_head
from ztrooted.models import Model, parse_json
from ztrooted.note import parse_note
from ztrooted.operator_models import QuarantineList
from ztrooted.reasons import GateReason
from ztrooted.tracing import trace_headers

M = TypeVar("M", bound=Model)
P = TypeVar("P", BaselineList, QuarantineList)

TIMEOUT_S = 30.0  # a dispatch waits for a quote, which the policy bounds; nothing else takes a second
PROOF = "/v1/log/consistency"
PROOF_S = 60.0  # between two proofs that a client asks for by itself; smaller and forked logs are noticed at once
OPEN = frozenset({"/v1/enrollments", "/v1/gateway/attestation"})  # what anybody may ask names no checkpoint


class Connection:
    """A connection to one gateway. Use it as an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        ca: Path,
        token: str | None = None,
        certificate: tuple[str, str] | None = None,
        state: Path | None = None,
    ) -> None:
        """With ``state``, a folder, what is seen of the gateway's log is remembered there (``ztrooted.log_memory``)."""
        self.url = address(url)
        self._known = token is not None or certificate is not None  # to others a gateway says nothing of its log
        self._remembered = state is not None
        self.memory = LogMemory(self.url, None if state is None else memory_file(state, ca))
        self._proving = asyncio.Lock()
        self.tls = tls_context(ca, certificate)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=aiohttp.TCPConnector(ssl=self.tls),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """The underlying session; RuntimeError outside of the context."""
        if self._http is None:
            raise RuntimeError("use the client as an async context manager")
        return self._http

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[M],
        body: Model | bytes | None = None,
        *,
        maximum: int = ANSWER,
        key: str | None = None,
    ) -> M:
        headers = None if key is None else {"Idempotency-Key": key}
        data = await self._bytes(method, path, body, maximum=maximum, headers=headers)
        try:
            parsed: M = parse_json(answer, data, maximum=maximum)
        except GateError as error:
            raise stranger(self.url, f"its answer can't be understood: {error.detail}") from error
        return parsed

    async def _pages(self, path: str, answer: type[P]) -> list[P]:
        """Every page of a list."""
        pages, cursors = [await self._call("GET", path, answer)], set[str]()
        while (cursor := pages[-1].next) is not None:
            if cursor in cursors:
                raise stranger(self.url, "its pages go round in a circle")
            cursors.add(cursor)
            pages.append(await self._call("GET", f"{path}?cursor={cursor}", answer))
        return pages

    async def _bytes(
        self,
        method: str,
        path: str,
        body: Model | bytes | None = None,
        *,
        maximum: int = ANSWER,
        headers: dict[str, str] | None = None,
        media: str = "application/json",
    ) -> bytes:
        before = self.memory.highest()
        async with self._request(method, path, body, headers=headers) as response:
            told = self._hear(response, before)
            if response.status not in {200, 201}:
                raise await refusal(response, self.url)
            if response.content_type != media:
                raise stranger(self.url, f"it answers with {response.content_type}, not {media}")
            data = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > maximum:
                    raise GateError(GateReason.REQUEST_TOO_LARGE, f"the gateway's answer is over {maximum} bytes")
        if not path.startswith(PROOF):
            await self._settle(told)
        return bytes(data)

    def _hear(self, response: aiohttp.ClientResponse, before: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint that an answer names, if it does not contradict what was known ``before`` the question.

        ProofError ``checkpoint.*`` where it does. Where we remember, an answer without one is no answer.
        """
        text = response.headers.get(HEADER)
        if text is None:
            if self._remembered and self._known and response.status < 300 and response.url.path not in OPEN:
                raise stranger(self.url, "its answer does not say what the newest checkpoint of its log is")
            return None
        told = self._parse(text)
        self.memory.hear(told, before)
        return told

    def _parse(self, text: str) -> Checkpoint:
        try:
            return parse_head(text)
        except ProofError as error:
            raise stranger(self.url, f"it names a checkpoint that is none: {error.detail}") from error

    async def _settle(self, told: Checkpoint | None) -> None:
        """Have the gateway prove that a larger log begins with the one remembered; now and then, not each time."""
        if told is None:
            return
        async with self._proving:
            seen, proved_at = self.memory.seen(told.origin), self.memory.proved_at
            if seen == told and not self.memory.placed(told.origin):  # known from another address
                self.memory.prove(told, [])
                return
            if seen is not None and (
                told.size <= seen.size or (proved_at is not None and time.monotonic() - proved_at < PROOF_S)
            ):
                return
            if seen is None:
                self.memory.prove(told, [])
            else:
                await self._prove(seen, told)

    async def prove_log(self) -> Checkpoint:
        """Have the gateway prove now that its newest checkpoint begins with the one remembered, and remember it.

        ProofError ``checkpoint.*`` where it is not that log any more.
        """
        before = self.memory.highest()
        async with self._proving:
            seen = None if before is None else self.memory.seen(before.origin)
            return await self._prove(seen, None)

    async def _prove(self, seen: Checkpoint | None, told: Checkpoint | None) -> Checkpoint:
        """Ask for the proof from ``seen`` to ``told``, or to the newest."""
        start = seen.size if seen is not None and seen.size else 1
        path = f"{PROOF}?from={start}" + ("" if told is None else f"&to={told.size}")
        answer = await self.consistency(path)
        new = told or parse_checkpoint(parse_note(answer.checkpoint.encode()).text)
        if (answer.from_size, answer.to_size) != (start, new.size):
            raise stranger(self.url, "it proves something else than was asked for")
        seen = self.memory.seen(new.origin)
        if seen is not None and seen.size not in {0, start}:  # we know this log, and did not know that it is here
            return await self._prove(seen, new)
        self.memory.prove(new, [bytes.fromhex(one) for one in answer.hashes])
        return new

    async def consistency(self, path: str) -> ConsistencyView:
        """A proof of consistency, by its path and query; not verified here."""
        return await self._call("GET", path, ConsistencyView)

    def _request(
        self,
        method: str,
        path: str,
        body: Model | bytes | None = None,
        *,
        timeout: aiohttp.ClientTimeout | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Reachable":
        raw = body.model_dump_json().encode() if isinstance(body, Model) else body
        # A stream, since large bytes would hold up the event loop.
        data = raw if raw is None or len(raw) < 1 << 16 else io.BytesIO(raw)
        sent = trace_headers() if body is None else {**trace_headers(), "Content-Type": "application/json"}
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        # A gateway sends nobody elsewhere, and a token is for nobody else.
        options["allow_redirects"] = False
        request = self.http.request(method, self.url + path, data=data, headers=sent | (headers or {}), **options)
        return Reachable(request, self.url)
