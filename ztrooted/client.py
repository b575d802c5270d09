"""The gateway's HTTP API from Python, for orchestrators, auditors, operators and the executor agent.

Every way in which an answer can fail to arrive or to be understood ends as an error, and an error is never permission.
"""

import asyncio
import io
import re
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from ztrooted import limits
from ztrooted.baseline_models import ApprovalRequest, BaselineList, BaselineView, CaptureRequest
from ztrooted.checkpoint import Checkpoint, parse_checkpoint
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.gateway_attestation import GatewayAttestation
from ztrooted.log_memory import HEADER, ConsistencyView, LogMemory, memory_file, parse_head
from ztrooted.models import (
    ActivationRequest,
    AuthorizationList,
    AuthorizationView,
    DispatchRequest,
    Enrolled,
    EnrollmentChallenge,
    EnrollmentRequest,
    ExecutorPage,
    ExecutorView,
    Grant,
    LabelsRequest,
    Model,
    Problem,
    compose,
    parse_json,
)
from ztrooted.note import parse_note
from ztrooted.operator_models import (
    OrderRequest,
    OrderView,
    Quarantined,
    QuarantineList,
    RetirementRequest,
    RetirementView,
    WebhookList,
    WebhookView,
)
from ztrooted.policy_models import ActivationOfPolicies, PoliciesView, TrialOfPolicies, TrialView
from ztrooted.reasons import GateReason, Reason, parse_reason
from ztrooted.records import Record, parse_record
from ztrooted.reference import MAXIMUM as BASELINE
from ztrooted.tracing import trace_headers

M = TypeVar("M", bound=Model)
P = TypeVar("P", BaselineList, QuarantineList)

TIMEOUT_S = 30.0  # a dispatch waits for a quote, which the policy bounds; nothing else takes a second
ANSWER = 1 << 20
RECORD = 4 << 20  # a dispatch's request is the largest, with its job described up to the maximum
LOG_FILE = 256 * (2 + 0xFFFF)  # a bundle of 256 entries, each as long as its length can say
POLICIES = 8 << 20  # three documents, or a thousand changes
FEED = "text/event-stream"
CHECKPOINT = b": checkpoint "  # a comment of the feed
PROOF = "/v1/log/consistency"
PROOF_S = 60.0  # between two proofs that a client asks for by itself; smaller and forked logs are noticed at once
OPEN = frozenset({"/v1/enrollments", "/v1/gateway/attestation"})  # what anybody may ask names no checkpoint


class Refused(GateError):  # noqa: N818 -- it is an answer
    """The gateway said no. ``authorization`` names the recorded denial where there is one.

    ``retry_after_s``: in how many seconds it is worth another try, where the gateway said so.
    """

    def __init__(
        self, reason: Reason, detail: str, remedy: str, authorization: str | None, retry_after_s: int = 0
    ) -> None:
        super().__init__(reason, detail, remedy)
        self.authorization = authorization
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One record of the event feed; ``seq`` is its index in the lineage. Resume with ``seq + 1``."""

    seq: int
    type: str
    record: Record


class GatewayClient:
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
            raise RuntimeError("use GatewayClient as an async context manager")
        return self._http

    # --- orchestrators -------------------------------------------------------------------------------------------
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

    async def events(self, start: int = 0) -> AsyncIterator[FeedEvent]:
        """The feed from record ``start`` on, for ever; ends when the gateway hangs up."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        before = self.memory.highest()
        async with self._request("GET", f"/v1/events?from={start}", timeout=timeout) as response:
            before = self._hear(response, before) or before
            if response.status != 200:
                raise await _refusal(response, self.url)
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

    # --- auditors and operators ----------------------------------------------------------------------------------
    async def bundle(self, authorization: str) -> bytes:
        """Everything that proves one authorization."""
        return await self._bytes("GET", f"/v1/authorizations/{authorization}/bundle", maximum=limits.BUNDLE)

    async def log_file(self, path: str) -> bytes:
        """A file of the log as C2SP tlog-tiles has them: ``checkpoint``, or a tile."""
        media = "text/plain" if path == "checkpoint" else "application/octet-stream"
        return await self._bytes("GET", f"/log/{path}", maximum=LOG_FILE, media=media)

    async def executors(self) -> list[ExecutorView]:
        """All executors, by id; asked for page by page."""
        found: list[ExecutorView] = []
        after = ""
        while True:
            page = await self._call("GET", f"/v1/executors?after={after}", ExecutorPage)
            found += page.executors
            if page.next is None:
                return found
            if page.next <= after:
                raise stranger(self.url, "its pages go round in a circle")
            after = page.next

    async def capture_baseline(self, executor: str) -> BaselineView:
        """Propose an executor's present state as the baseline of its class."""
        return await self._call("POST", "/v1/baselines", BaselineView, compose(CaptureRequest, executor=executor))

    async def propose_baseline(self, data: bytes, executor_class: str) -> BaselineView:
        """Propose a baseline, as canonical bytes, for a class."""
        path = f"/v1/classes/{quote(executor_class, safe='')}/baselines"
        return await self._call("POST", path, BaselineView, data)

    async def approve_baseline(self, baseline: str, *, expires_in_s: int | None = None) -> BaselineView:
        """Put a proposed baseline in force, for ever or for a time."""
        asked = compose(ApprovalRequest, expires_in_s=expires_in_s)
        return await self._call("POST", f"/v1/baselines/{quote(baseline, safe='')}/approval", BaselineView, asked)

    async def baselines(self) -> list[BaselineView]:
        """The baselines, the latest proposal first."""
        return [one for page in await self._pages("/v1/baselines", BaselineList) for one in page.baselines]

    async def baseline(self, baseline: str) -> bytes:
        """A baseline's exact bytes."""
        return await self._bytes("GET", f"/v1/baselines/{quote(baseline, safe='')}", maximum=BASELINE)

    async def policies(self) -> PoliciesView:
        """The policies in force."""
        return await self._call("GET", "/v1/policies", PoliciesView, maximum=POLICIES)

    async def activate_policies(self, documents: dict[str, str], *, allow_rollback: bool = False) -> PoliciesView:
        """Put documents in force, by role."""
        asked = compose(ActivationOfPolicies, **documents, allow_rollback=allow_rollback)
        return await self._call("POST", "/v1/policies", PoliciesView, asked, maximum=POLICIES)

    async def try_policies(self, documents: dict[str, str], *, last: int) -> TrialView:
        """The last recorded decisions under other documents. Nothing changes."""
        asked = compose(TrialOfPolicies, **documents, last=last)
        return await self._call("POST", "/v1/policies/trial", TrialView, asked, maximum=POLICIES)

    async def decision(self, decision: str) -> bytes:
        """A decision file, by authorization, executor or number of a record."""
        return await self._bytes("GET", f"/v1/decisions/{quote(decision, safe='')}", maximum=limits.BUNDLE)

    async def label(self, executor: str, labels: dict[str, str]) -> None:
        """Replace an executor's labels."""
        await self._bytes("PUT", f"/v1/executors/{executor}/labels", compose(LabelsRequest, labels=labels))

    async def webhooks(self) -> list[WebhookView]:
        """How each webhook stands."""
        return (await self._call("GET", "/v1/webhooks", WebhookList)).webhooks

    async def revoke(self, authorization: str, reason: str = "no reason given") -> AuthorizationView:
        """End an authorization."""
        await self.order("revocations", "authorization", authorization, reason)
        return await self.authorization(authorization)

    async def order(
        self, what: Literal["revocations", "quarantines", "releases"], kind: str, name: str, reason: str
    ) -> OrderView:
        """Give an operator's order about an authorization, executor, orchestrator or class."""
        asked = compose(OrderRequest, subject={"kind": kind, "id": name}, reason=reason)
        return await self._call("POST", f"/v1/{what}", OrderView, asked)

    async def retire(self, executor: str, reason: str, *, successor: str | None = None) -> RetirementView:
        """Take an executor out of service for good; ``successor`` is the id of who comes in its place."""
        asked = compose(RetirementRequest, reason=reason, successor=successor)
        path = f"/v1/executors/{quote(executor, safe='')}/retirement"
        return await self._call("POST", path, RetirementView, asked)

    async def quarantined(self) -> list[Quarantined]:
        """Who is in quarantine."""
        return [one for page in await self._pages("/v1/quarantines", QuarantineList) for one in page.quarantined]

    # --- executors -----------------------------------------------------------------------------------------------
    async def enroll(self, request: EnrollmentRequest) -> EnrollmentChallenge:
        """First half of an enrollment."""
        return await self._call("POST", "/v1/enrollments", EnrollmentChallenge, request)

    async def attestation(self, nonce: bytes) -> GatewayAttestation:
        """What the gateway says of its own machine, for a nonce of 16 to 64 random bytes. It is not verified here."""
        path = f"/v1/gateway/attestation?nonce={nonce.hex()}"
        return await self._call("GET", path, GatewayAttestation, maximum=2 * limits.EVENT_LOG)

    async def activate(self, enrollment: str, request: ActivationRequest) -> Enrolled:
        """Second half."""
        return await self._call("POST", f"/v1/enrollments/{enrollment}/activation", Enrolled, request)

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
                raise await _refusal(response, self.url)
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
    ) -> "_Reachable":
        raw = body.model_dump_json().encode() if isinstance(body, Model) else body
        # A stream, since large bytes would hold up the event loop.
        data = raw if raw is None or len(raw) < 1 << 16 else io.BytesIO(raw)
        sent = trace_headers() if body is None else {**trace_headers(), "Content-Type": "application/json"}
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        # A gateway sends nobody elsewhere, and a token is for nobody else.
        options["allow_redirects"] = False
        request = self.http.request(method, self.url + path, data=data, headers=sent | (headers or {}), **options)
        return _Reachable(request, self.url)


class _Reachable:
    """A request in progress whose network failures become one clear error."""

    def __init__(self, request: Any, url: str) -> None:
        self._request = request
        self._url = url

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._request.__aenter__()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(self._url, error) from error
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._request.__aexit__(kind, error, trace)
        if isinstance(error, (aiohttp.ClientError, TimeoutError)) and not isinstance(error, asyncio.CancelledError):
            raise unreachable(self._url, error) from error


def address(url: str) -> str:
    """A gateway's address in the form that paths are added to. EnvironmentProblem for one without TLS.

    A bearer token, and what is taken for permission, must never travel in clear.
    """
    try:
        parts = urlsplit(url)
        fits = url.lower().startswith("https://") and bool(parts.hostname) and url.isprintable() and " " not in url
        fits = fits and parts.port != 0 and parts.username is None and not parts.query and not parts.fragment
    except ValueError:  # brackets or a port that are none
        fits = False
    if not fits:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"{url!r} is not the address of a gateway: it has to be https:// and a host, so that nothing goes in clear",
            "write it as https://host:port; 'ztrooted gateway serve' logs it when it starts",
        )
    return url.rstrip("/")


def unreachable(url: str, error: BaseException) -> EnvironmentProblem:
    """No answer from the gateway: that is a no."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS,
            f"the gateway at {url} has a certificate we don't trust: {error.certificate_error}",
            "use the tls/ca.pem of that gateway's data folder",
        )
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE,
        f"no answer from the gateway at {url}: {_why(error)}",
        "check the address, and that the gateway is running",
    )


def stranger(url: str, found: str) -> EnvironmentProblem:
    """Somebody answers there who does not talk as a gateway does."""
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_NOT_A_GATEWAY,
        f"what answers at {url} is not a ztrooted gateway, or not of this version: {found}",
        "check the address; between you and a gateway there may be nothing that answers for it",
    )


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):  # it has no text of its own, or aiohttp's, which names a timeout of a kind
        return "it took too long to answer"
    return str(error) or type(error).__name__


def tls_context(ca: Path, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """TLS 1.3 with exactly the CA in ``ca`` trusted. EnvironmentProblem when the file can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(*certificate)
    except (OSError, ssl.SSLError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS,
            f"the CA certificate {ca} can't be used: {error}",
            "copy tls/ca.pem from the gateway's data folder",
        ) from error
    return context


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to what a record may have: aiohttp's own reader refuses those over its buffer."""
    begun = b""
    async for piece in content.iter_any():
        *whole, begun = (begun + piece).split(b"\n")
        for line in whole:
            yield line
        if len(begun) > RECORD:
            raise GateError(GateReason.REQUEST_TOO_LARGE, f"the event feed sent a line of over {RECORD} bytes")


async def _refusal(response: aiohttp.ClientResponse, url: str) -> GateError:
    """A problem document as an error; anything else is an error too."""
    data = await response.content.read(ANSWER)
    try:
        problem: Problem = parse_json(Problem, data)
        reason = parse_reason(problem.code)
    except (GateError, KeyError):
        return stranger(url, f"it answers with status {response.status} and no problem document")
    after = response.headers.get("Retry-After", "")
    retry_after_s = int(after) if re.fullmatch("[0-9]{1,6}", after) else 0
    return Refused(reason, problem.detail, problem.remedy, problem.authorization, retry_after_s)
