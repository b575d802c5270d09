"""Signing in and out."""

import hmac
import secrets
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.addresses import source_of
from gateway.console.forms import FORM, page_after, redirect
from gateway.console.page import PEOPLE, Page, Viewer
from gateway.console.provider_pages import ProviderPages
from gateway.console.sessions import COOKIE, LOGIN_COOKIE, give_cookie, take_cookie
from ztrooted.errors import GateError
from ztrooted.explanations import explain
from ztrooted.jose import MAX_TOKEN
from ztrooted.reasons import GateReason, parse_reason

if TYPE_CHECKING:
    from gateway.console.app import Console


class LoginPages:
    """By a token of ours, by a configured identity provider, or by the certificate that the connection shows."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (
            Page("GET", "/console/login", self.ask, open=True),
            Page("POST", "/console/login", self.begin, open=True),
            Page("POST", "/console/logout", self.end, PEOPLE),
            *ProviderPages(console, self).pages,
        )

    async def ask(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Who is it?"""
        return self._form(request, viewer, request.query.get("next", ""))

    async def begin(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """A session, and on to the page that was asked for."""
        form = request[FORM]
        wanted = form.get("next", "")
        given, expected = form.get("form", ""), request.cookies.get(LOGIN_COOKIE, "")
        if not expected or not hmac.compare_digest(given.encode(), expected.encode("utf-8", "surrogatepass")):
            raise GateError(GateReason.AUTH_CROSS_SITE, "this form is not of this browser; open the page again")
        by_certificate = form.get("by") == "certificate"
        token = form.get("token", "").strip()
        try:
            if len(token) > MAX_TOKEN or (not token and not by_certificate):
                raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "there was no token in the form")
            cookie, _ = await self._console.sessions.begin(request, None if by_certificate else token)
        except GateError as error:
            return self.refuse(request, viewer, wanted, error)
        if viewer.session is not None:
            self._console.sessions.end(viewer.session)
        answer = redirect(page_after(wanted))
        give_cookie(answer, COOKIE, cookie)
        take_cookie(answer, LOGIN_COOKIE)
        return answer

    def refuse(self, request: web.Request, viewer: Viewer, wanted: str, error: GateError) -> web.StreamResponse:
        """Why nobody is signed in now, over a form to try again."""
        self._console.gateway.rates.unproved(source_of(request))
        return self._form(request, viewer, wanted, error)

    async def end(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """No session any more."""
        if viewer.session is not None:
            self._console.sessions.end(viewer.session)
        answer = redirect("/console/login")
        take_cookie(answer, COOKIE)
        return answer

    def _form(
        self, request: web.Request, viewer: Viewer, wanted: str, error: GateError | None = None
    ) -> web.StreamResponse:
        number = secrets.token_urlsafe(24)
        known = None if error is None else explain(parse_reason(error.reason))
        context = {
            "number": number,
            "wanted": page_after(wanted),
            "providers": sorted(self._console.gateway.providers.logins),
            "refusal": None
            if error is None or known is None
            else {"code": str(error.reason), "meaning": known.meaning, "detail": error.detail, "remedy": known.remedy},
        }
        status = 200 if known is None else known.status
        answer = self._console.respond(request, viewer, "login.html", context, status)
        give_cookie(answer, LOGIN_COOKIE, number)
        return answer
