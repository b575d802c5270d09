"""Answers that send a browser on, forms that come back, and the headers that every answer of the console bears."""

import asyncio
import hmac
import re
from urllib.parse import parse_qsl

from aiohttp import web

from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

FORM = web.RequestKey("ztrooted.form", dict)  # the fields of a form, once they were read
MAX_FORM = 64 << 10
FORM_S = 10.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), usb=()",
}
_NEXT = re.compile(r"/console/[A-Za-z0-9/_.~?=&%+:-]{0,1024}")


def redirect(url: str) -> web.Response:
    """Have the browser get another page (RFC 9110 §15.4.4)."""
    return web.Response(status=303, headers={**HEADERS, "Location": url, "Cache-Control": "no-store"})


def page_after(wanted: str) -> str:
    """Where to go after signing in: a page of the console, whatever somebody wrote into the address."""
    return wanted if _NEXT.fullmatch(wanted) and "//" not in wanted else "/console/"


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form, each once. GateError ``request.*`` for what no form of ours sends."""
    if request.content_type != "application/x-www-form-urlencoded" or request.headers.get("Content-Encoding"):
        raise GateError(GateReason.REQUEST_CONTENT_TYPE, "send a form: application/x-www-form-urlencoded")
    data = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for chunk in request.content.iter_chunked(MAX_FORM):
                data += chunk
                if len(data) > MAX_FORM:
                    raise GateError(GateReason.REQUEST_TOO_LARGE, f"the form is over {MAX_FORM} bytes")
    except TimeoutError:
        raise GateError(GateReason.REQUEST_TIMEOUT, f"the form did not arrive within {FORM_S:.0f} s") from None
    try:
        fields = parse_qsl(data.decode("ascii"), keep_blank_values=True, strict_parsing=bool(data), errors="strict")
    except ValueError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, "this is not a form") from error
    if len({name for name, _ in fields}) != len(fields):
        raise GateError(GateReason.REQUEST_MALFORMED, "a field of the form is there twice")
    return dict(fields)


def require_same_origin(request: web.Request) -> None:
    """GateError ``auth.cross_site`` for a form that a page of another origin sends (Fetch Metadata; RFC 6454 §7)."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site not in {None, "same-origin"} or origin != f"https://{request.host}":
        raise GateError(GateReason.AUTH_CROSS_SITE, "this form was not sent by a page of this gateway")


def require_form(given: str, expected: str) -> None:
    """GateError ``auth.cross_site`` unless a form brings the number that its page was given."""
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise GateError(GateReason.AUTH_CROSS_SITE, "this form is not of this session; open the page again")
