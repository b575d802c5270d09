"""What an answer can be besides what was asked for: a refusal with its reason, no answer, or a stranger's.

::

    Refused               the gateway said no
    ├── Denied            a dispatch was decided, and the answer is no; ``authorization`` names the recorded denial
    ├── Unauthenticated   who asks is not known, or may not ask this (``auth.*``)
    └── Unavailable       nothing was decided: the gateway can't, at the moment; the same may be asked again

Everything else that can go wrong is an EnvironmentProblem. All of them mean no.
"""

import asyncio
import re
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.models import Problem, parse_json
from ztrooted.reasons import GateReason, Reason, parse_reason

ANSWER = 1 << 20
# The gateway says that it can't decide now; under the same Idempotency-Key the question may be put again.
PASSING = frozenset({429, 503})


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


class Denied(Refused):
    """A dispatch was decided, the answer is no, and that is on record. Asking again is another dispatch."""


class Unauthenticated(Refused):
    """The token or certificate is missing, over, or of somebody who may not ask this."""


class Unavailable(Refused):
    """Nothing was decided, and nothing is on record."""


class Reachable:
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


async def refusal(response: aiohttp.ClientResponse, url: str) -> GateError:
    """A problem document as an error; anything else is an error too."""
    data = await response.content.read(ANSWER)
    try:
        problem: Problem = parse_json(Problem, data)
        reason = parse_reason(problem.code)
    except (GateError, KeyError):
        return stranger(url, f"it answers with status {response.status} and no problem document")
    after = response.headers.get("Retry-After", "")
    retry_after_s = int(after) if re.fullmatch("[0-9]{1,6}", after) else 0
    kind = _kind(response.status, reason, problem)
    return kind(reason, problem.detail, problem.remedy, problem.authorization, retry_after_s)


def _kind(status: int, reason: Reason, problem: Problem) -> type[Refused]:
    if problem.authorization is not None:
        return Denied
    if str(reason).startswith("auth."):
        return Unauthenticated
    if status in PASSING or reason == GateReason.REQUEST_KEY_IN_USE:
        return Unavailable
    return Refused
