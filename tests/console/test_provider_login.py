"""Signing in at an identity provider: the whole way in a browser, and everything that somebody may put in that way.

The provider serves real TLS under another name than the gateway, and checks what RFC 6749, RFC 7636 and OpenID Connect Core
have it check.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway import provider_http
from gateway.config import load_config
from gateway.config_view import check
from gateway.console.provider_pages import FLOW_COOKIE, FLOW_S, MAX_FLOWS_OF_ONE
from gateway.console.sessions import COOKIE
from gateway.provider_login import AGAIN_S, MAX_EXCHANGES
from tests.console.test_sessions import Browser
from tests.support.browser import Browse, Watched, picture
from tests.support.gateway_in_process import HOST, Answer, GatewayInProcess
from tests.support.identities import AUDIENCE, LoginServer, restart_with
from ztrooted import limits
from ztrooted.errors import EnvironmentProblem

START = "/console/login/login"
CROSS, INVALID, UNAVAILABLE = "auth.cross_site", "auth.credential_invalid", "auth.provider_unavailable"
Change = Callable[[LoginServer], Any]


@pytest.fixture
async def server(gate: GatewayInProcess, tmp_path: Path) -> AsyncIterator[LoginServer]:
    """A provider, at which people sign in for this gateway."""
    made = LoginServer(tmp_path)
    runner = await made.start()
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    file = gate.data / "gateway.toml"
    text, replaced = re.subn(r"(?m)^listen_port = .*$", f"listen_port = {port}", file.read_text())
    assert replaced == 1
    file.write_text(text)
    await restart_with(gate, made.settings(f"https://{HOST}:{port}{START}/callback"))
    yield made
    await runner.cleanup()


@pytest.fixture
def visitor(gate: GatewayInProcess, server: LoginServer) -> Browser:
    return Browser(gate)


async def off(visitor: Browser, wanted: str = "/console/executors") -> dict[str, str]:
    """Begin, and what the provider is asked."""
    answer = await visitor.get(f"{START}?next={wanted}")
    assert answer.status == 303, answer
    return dict(parse_qsl(urlsplit(answer.headers["Location"]).query))


async def back(visitor: Browser, address: str) -> Answer:
    """As a browser comes back: from another site."""
    parts = urlsplit(address)
    return await visitor.get(f"{parts.path}?{parts.query}", **{"Sec-Fetch-Site": "cross-site"})


def refused(answer: Answer, code: str) -> bool:
    return f"<code>{code}</code>".encode() in answer.data and not [one for one in answer.cookies if COOKIE + "=" in one]


async def test_who_signs_in_there_has_a_session_here_as_long_as_the_token_lives(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer
) -> None:
    asked = await off(visitor)
    assert (asked["redirect_uri"], asked["scope"]) == (f"{gate.url}{START}/callback", "openid")
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = await back(visitor, server.agree(asked))
    assert answer.status == 200, answer
    assert b'http-equiv="refresh" content="0; url=/console/executors"' in answer.data
    assert "no-store" in answer.headers["Cache-Control"]
    (session,) = (one.lower() for one in answer.cookies if one.startswith(COOKIE + "="))
    assert "samesite=strict" in session
    page = await visitor.get("/console/executors")
    assert page.status == 200
    assert b"login:olivia" in page.data
    (token,) = server.issued
    assert (await gate.call("GET", "/v1/tokens", token=token)).code == INVALID, "it is for a client, not for the API"
    gate.clock.passed_s += 600 + limits.CLOCK_LEEWAY_S
    assert not await visitor.signed_in()


async def test_its_cookie_is_sent_with_a_navigation_and_hidden_from_scripts(
    visitor: Browser, server: LoginServer
) -> None:
    answer = await visitor.get(START)
    (line,) = answer.cookies
    name, *attributes = (one.strip().lower() for one in line.split(";"))
    assert name.startswith(FLOW_COOKIE.lower() + "=")
    assert set(attributes) == {"secure", "httponly", "path=/", "samesite=lax", f"max-age={FLOW_S}"}


async def test_an_answer_counts_once_and_in_the_browser_that_asked(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer
) -> None:
    asked, other = await off(visitor), Browser(gate)
    address = server.agree(asked)
    assert refused(await back(other, address), CROSS), "no cookie"
    theirs = await off(other)
    assert refused(await back(other, address), CROSS), "a cookie of another sign-in"
    # Their own code in this browser: the verifier is not the one that it was asked for with (RFC 7636 §4.6).
    code = dict(parse_qsl(urlsplit(server.agree(theirs)).query))["code"]
    mixed = re.sub(r"code=[^&]*", f"code={code}", address)
    assert refused(await back(visitor, mixed), INVALID)
    assert refused(await back(visitor, address), CROSS), "that sign-in is over"
    address = server.agree(await off(visitor))
    assert (await back(visitor, address)).status == 200
    assert refused(await back(visitor, address), CROSS), "the same again"
    again = await off(visitor)
    used = dict(parse_qsl(urlsplit(address).query))["code"]
    renewed = re.sub(r"code=[^&]*", f"code={used}", server.agree(again))
    assert refused(await back(visitor, renewed), INVALID), "a code that was used"
    late = server.agree(await off(visitor))
    gate.clock.passed_s += FLOW_S
    assert refused(await back(visitor, late), CROSS), "too late"


ATTACKS: list[tuple[str, Change, str]] = [
    ("another issuer", lambda one: one.answer.update(iss="https://elsewhere.example"), INVALID),
    ("nearly the issuer", lambda one: one.answer.update(iss=one.issuer + "/"), INVALID),
    ("no issuer", lambda one: one.answer.update(iss=None), INVALID),
    ("no state", lambda one: one.answer.update(state=None), CROSS),
    ("an error", lambda one: one.answer.update(code=None, error="access_denied"), INVALID),
    ("an error with a code", lambda one: one.answer.update(error="<b>"), INVALID),
    ("another nonce", lambda one: one.token.update(nonce="another"), INVALID),
    ("no nonce", lambda one: one.token.update(nonce=None), INVALID),
    ("the API's audience", lambda one: one.token.update(aud=AUDIENCE), INVALID),
    ("another client, too", lambda one: one.token.update(aud=[one.client, "another"]), INVALID),
    ("asked for by another", lambda one: one.token.update(azp="another"), INVALID),
    ("a token of another issuer", lambda one: one.token.update(iss="https://elsewhere.example"), INVALID),
    ("a token that is over", lambda one: one.token.update(exp=1), INVALID),
    ("a token by another key", lambda one: setattr(one, "audience_key", one.other_key), INVALID),
    ("no grant", lambda one: one.token.update(groups=[]), "auth.role"),
    ("a server's error", lambda one: setattr(one, "status", 500), UNAVAILABLE),
    ("a redirect", lambda one: setattr(one, "status", 307), INVALID),
]


async def test_what_is_not_as_it_was_asked_for_begins_no_session(visitor: Browser, server: LoginServer) -> None:
    for name, change, code in ATTACKS:
        server.answer, server.token, server.audience_key, server.status = {}, {}, None, 200
        asked = await off(visitor)
        change(server)
        answer = await back(visitor, server.agree(asked))
        assert refused(answer, code), (name, answer.data)
        assert b"<b>" not in answer.data
        assert not await visitor.signed_in(), name
    server.answer, server.token, server.audience_key, server.status = {}, {}, None, 200
    twice = server.agree(await off(visitor)) + "&iss=another"
    assert refused(await back(visitor, twice), INVALID)
    assert (await back(visitor, server.agree(await off(visitor)))).status == 200, "and without any of it one signs in"


async def test_a_provider_that_says_something_else_of_itself_is_not_gone_to(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer
) -> None:
    for metadata in (
        {"issuer": "https://elsewhere.example"},
        {"authorization_endpoint": "http://localhost/authorize"},
        {"token_endpoint": "http://localhost/token"},
        {"token_endpoint": None},
        {"authorization_endpoint": "https://somebody@localhost/authorize"},
        {"authorization_endpoint": "https://localhost/authorize\r\nSet-Cookie: a=b"},
        {"padding": "x" * (256 << 10)},
    ):
        server.metadata, before = metadata, len(server.requests)
        for _ in range(3):
            assert refused(await visitor.get(START), UNAVAILABLE), metadata
        assert len(server.requests) == before + 1, "that it is asked for again costs the provider nothing"
        gate.clock.passed_s += AGAIN_S
    server.metadata = {}
    assert (await visitor.get(START)).status == 303


@pytest.mark.parametrize("where", ["/.well-known/openid-configuration", "/token"])
async def test_one_that_never_answers_is_not_waited_for(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_http, "FETCH_S", 0.3)
    server.hangs = where
    async with asyncio.timeout(60):
        if where == "/token":
            visitors = [Browser(gate) for _ in range(MAX_EXCHANGES + 3)]
            addresses = [server.agree(await off(one)) for one in visitors]
            came = asyncio.gather(*[back(one, address) for one, address in zip(visitors, addresses, strict=True)])
            answers = await came
        else:
            answers = [await visitor.get(START)]
    assert all(refused(one, UNAVAILABLE) for one in answers)
    assert len(server.requests) <= MAX_EXCHANGES + 1
    assert (await visitor.sign_in(await gate.token("operator"))).status == 303, "others sign in as ever"


async def test_it_leads_to_our_own_pages(visitor: Browser, server: LoginServer) -> None:
    for wanted in ("https://elsewhere.example/", "//elsewhere.example/", "/console//elsewhere", "/v1/docs"):
        answer = await back(visitor, server.agree(await off(visitor, wanted)))
        assert b'content="0; url=/console/"' in answer.data, wanted
        assert b"elsewhere" not in answer.data


async def test_another_site_begins_none_and_another_name_of_ours_neither(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer
) -> None:
    asked = await off(visitor)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Host": f"other:{gate.port}"}):
        assert refused(await visitor.get(START, **headers), CROSS)
    assert (await visitor.get("/console/login/nobody")).status == 404
    assert (await back(visitor, server.agree(asked))).status == 200, "the one that had begun goes on"


async def test_an_answer_is_of_the_provider_that_was_asked(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer
) -> None:
    """Two of them, and one that has the other's answers brought to its own address, or the other way round."""
    uri = f"{gate.url}{START}/callback"
    evil = server.settings(uri.replace("/login/callback", "/evil/callback")).replace('"login"', '"evil"')
    await restart_with(gate, server.settings(uri) + evil.replace(server.issuer, server.issuer + "/evil"))
    address = server.agree(await off(visitor))
    assert refused(await back(visitor, address.replace("/login/callback", "/evil/callback")), CROSS)
    assert (await back(visitor, address)).status == 200


async def test_a_stranger_who_begins_many_ends_their_own(
    gate: GatewayInProcess, visitor: Browser, server: LoginServer
) -> None:
    first, second = Browser(gate), Browser(gate)
    addresses = [server.agree(await off(one)) for one in (first, second)]
    for _ in range(MAX_FLOWS_OF_ONE - 1):
        await visitor.get(START)
    assert refused(await back(first, addresses[0]), CROSS)
    assert (await back(second, addresses[1])).status == 200


async def test_a_client_that_is_not_pinned_is_refused_in_the_configuration(
    gate: GatewayInProcess, server: LoginServer
) -> None:
    file = gate.data / "gateway.toml"
    text = file.read_text()
    for old, new in (
        ('client_id = "console"', ""),
        ("/console/login/login/callback", "/console/login/callback"),
        ("/login/callback", "/login/callback?a=b"),
        ('redirect_uri = "https', 'redirect_uri = "http'),
        ('issuer = "https', 'issuer = "http'),
        ("client_id =", 'scope = "profile"\nclient_id ='),
    ):
        assert old in text
        file.write_text(text.replace(old, new))
        with pytest.raises(EnvironmentProblem) as problem:
            load_config(gate.data)
        assert str(problem.value.reason) == "config.invalid", old
    file.write_text(text)
    (server.folder / "client.secret").chmod(0o644)
    with pytest.raises(EnvironmentProblem) as problem:
        check(load_config(gate.data))
    assert str(problem.value.reason) == "environment.key_file"


async def test_signing_in_by_clicks(
    gate: GatewayInProcess, server: LoginServer, browse: Browse, watched: Watched
) -> None:
    """Without scripts, too: nothing of it needs any."""
    watched.expected = [f"asked {server.issuer}"]
    for options in ({}, {"java_script_enabled": False}):
        page = await browse(**options)
        await page.goto(gate.url + "/console/executors")
        if not options:
            await picture(page, "login")
        await page.get_by_role("link", name="Sign in with login").click()
        await page.get_by_role("button", name="Sign in as Olivia").click()
        await page.wait_for_url(gate.url + "/console/executors")
        assert "login:olivia" in await page.get_by_role("banner").inner_text()
    page = await browse()
    await page.goto(gate.url + START)
    assert page.url.startswith(server.issuer)
