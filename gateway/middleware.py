"""Every answer has one shape: the result, or an RFC 9457 problem document with a reason code and an instance id."""

import json
import secrets
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from gateway.addresses import source_of
from gateway.rates import RateExceededError, Rates
from tpm.errors import EvidenceError
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.explanations import explain
from ztrooted.models import Problem
from ztrooted.reasons import GateReason, Reason, parse_reason

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RATES = web.AppKey("ztrooted.rates", Rates)  # of the application

_BY_STATUS: dict[int, Reason] = {
    404: GateReason.REQUEST_NOT_FOUND,
    405: GateReason.REQUEST_METHOD,
    413: GateReason.REQUEST_TOO_LARGE,
}


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn refusals into problem documents. What nobody foresaw is a denial too, without a word about its inside.

    Whatever is logged while this request is answered bears its ``instance``, the tasks that it started included.
    """
    instance = secrets.token_hex(8)
    with structlog.contextvars.bound_contextvars(instance=instance):
        began = time.monotonic()
        answer = await _answer(request, handler, instance)
        took_ms = round((time.monotonic() - began) * 1000, 3)
        log.debug("answered", method=request.method, path=request.path, status=answer.status, ms=took_ms)
        return answer


async def _answer(request: web.Request, handler: Handler, instance: str) -> web.StreamResponse:
    try:
        return await handler(request)
    except RateExceededError as error:
        return too_often(request, error, instance)
    except (GateError, EvidenceError) as error:
        reason = parse_reason(error.reason)
        log.info("refused", instance=instance, path=request.path, code=reason, detail=error.detail)
        authorization = getattr(error, "authorization", None)
        return problem(reason, error.detail, instance, getattr(error, "remedy", ""), authorization)
    except web.HTTPException as error:
        try:  # there is no such address, or no such method: nobody looked at who asks
            request.app[RATES].unproved(source_of(request))
        except RateExceededError as exceeded:
            return too_often(request, exceeded, instance)
        return refused(request, error, instance)
    except Exception:  # one of the two places: whatever went wrong, the answer is no
        log.exception("internal error", instance=instance, path=request.path)
        return problem(GateReason.INTERNAL_ERROR, "this is a defect of the gateway; its log has more", instance)


def refused(request: web.BaseRequest, error: web.HTTPException, instance: str | None = None) -> web.Response:
    """What aiohttp refuses by itself, as a problem document that names the reason of that status."""
    otherwise = GateReason.REQUEST_MALFORMED if error.status < 500 else GateReason.INTERNAL_ERROR
    reason, named = _BY_STATUS.get(error.status, otherwise), instance or secrets.token_hex(8)
    log.info("refused", instance=named, path=request.path, code=reason)
    answer = problem(reason, error.reason, named, status=error.status)
    if "Allow" in error.headers:  # RFC 9110 §15.5.6
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def too_often(request: web.BaseRequest, error: RateExceededError, instance: str) -> web.Response:
    """A refusal by rate. It has no line of the log for itself, and costs as little as may be.

    Of somebody who has nothing left no large body is read any more, so their connection may break before they have it.
    """
    answer = problem(GateReason.REQUEST_RATE, error.detail, instance)
    answer.headers["Retry-After"] = str(error.retry_after_s)
    if error.hang_up:
        answer.force_close()
        if (request.content_length or 0) > limits.PIECE or request.headers.get("Transfer-Encoding"):
            request.protocol.leave_unread()  # type: ignore[attr-defined]  # every connection of ours can
    return answer


def problem(
    reason: Reason,
    detail: str,
    instance: str,
    remedy: str = "",
    authorization: str | None = None,
    *,
    status: int | None = None,
) -> web.Response:
    """One problem document."""
    known = explain(reason)
    body = Problem(
        type=f"urn:ztrooted:reason:{reason}",
        title=known.meaning,
        status=status or known.status,
        detail=detail[:4096],
        code=str(reason),
        instance=f"urn:ztrooted:log:{instance}",
        remedy=remedy or known.remedy,
        authorization=authorization,
    )
    headers = {"Cache-Control": "no-store"}
    if body.status == 401:  # RFC 9110 §11.6.1
        headers["WWW-Authenticate"] = 'Bearer realm="ztrooted"'
    return web.Response(
        text=json.dumps(body.model_dump(exclude_none=True)),
        status=body.status,
        content_type="application/problem+json",
        headers=headers,
    )
