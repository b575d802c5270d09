"""Sessions: begun with a credential, ended with it, and of use to nobody who was not given them."""

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from gateway.auth import token_id
from gateway.console.sessions import COOKIE, LOGIN_COOKIE, MAX_IDLE_S, MAX_LIFE_MS, MAX_SESSIONS_OF_ONE
from tests.support.gateway_in_process import Answer, GatewayInProcess
from tests.support.identities import People, spiffe

FORM_TYPE = "application/x-www-form-urlencoded"


class Browser:
    """As much of a browser as sessions need: cookies, an origin, forms."""

    def __init__(self, gate: GatewayInProcess) -> None:
        self.gate = gate
        self.cookies: dict[str, str] = {}
        self.certificate: tuple[str, str] | None = None
        self.headers = {"Accept": "text/html", "Origin": gate.url, "Sec-Fetch-Site": "same-origin"}

    async def get(self, path: str, **headers: str) -> Answer:
        return self._keep(
            await self.gate.call("GET", path, headers={**self._sent(), **headers}, certificate=self.certificate)
        )

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        sent = {**self._sent(), "Content-Type": FORM_TYPE, **headers}
        body = urlencode(fields).encode()
        return self._keep(await self.gate.call("POST", path, body=body, headers=sent, certificate=self.certificate))

    def _sent(self) -> dict[str, str]:
        return {**self.headers, "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    def _keep(self, answer: Answer) -> Answer:
        for line in answer.cookies:
            name, _, rest = line.partition("=")
            self.cookies[name] = rest.partition(";")[0]
        return answer

    async def sign_in(self, token: str, **fields: str) -> Answer:
        number = number_of(await self.get("/console/login"))
        return await self.post("/console/login", {"form": number, "next": "/console/", "token": token, **fields})

    async def signed_in(self) -> bool:
        return (await self.get("/console/")).status == 200


def number_of(answer: Answer) -> str:
    """Of the last form, which is the page's own."""
    found = re.findall(rb'name="form" value="([^"]+)"', answer.data)
    assert found, answer
    return str(found[-1].decode())


@pytest.fixture
def visitor(gate: GatewayInProcess) -> Browser:
    return Browser(gate)


async def test_without_a_session_nothing_is_shown(gate: GatewayInProcess, visitor: Browser) -> None:
    answer = await visitor.get("/console/")
    assert (answer.status, answer.headers["Location"]) == (303, "/console/login?next=%2Fconsole%2F")
    answer = await visitor.get("/console/", **{"X-Ztrooted-Part": "live", "Accept": "*/*"})
    assert (answer.status, answer.code) == (401, "auth.credential_missing")
    assert (await visitor.get("/console/events", Accept="text/event-stream")).status == 401


@pytest.mark.parametrize("role", ["operator", "auditor", "orchestrator"])
async def test_a_token_of_any_role_begins_one(gate: GatewayInProcess, visitor: Browser, role: str) -> None:
    answer = await visitor.sign_in(await gate.token(role, "somebody"))
    assert (answer.status, answer.headers["Location"]) == (303, "/console/")
    (line,) = (one for one in answer.cookies if one.startswith(f"{COOKIE}="))
    attributes = {one.strip().lower() for one in line.split(";")[1:]}
    assert attributes == {"secure", "httponly", "path=/", "samesite=strict"}
    page = await visitor.get("/console/")
    assert page.status == 200
    assert b"somebody" in page.data
    assert page.headers["Cache-Control"] == "no-store"
    assert visitor.cookies[COOKIE].encode() not in page.data


async def test_a_session_is_no_credential_of_the_API(gate: GatewayInProcess, visitor: Browser) -> None:
    """Or any page could have a browser order something: the API knows no forms' numbers."""
    await visitor.sign_in(await gate.token("operator"))
    assert (await visitor.get("/v1/tokens")).code == "auth.credential_missing"


async def test_what_is_no_credential_begins_none(gate: GatewayInProcess, visitor: Browser) -> None:
    for token, code in (("zt-unknown", b"invalid"), ("a.b.c", b"invalid"), ("", b"missing")):
        answer = await visitor.sign_in(token)
        assert answer.status == 401
        assert b"<code>auth.credential_" + code in answer.data
        assert COOKIE not in visitor.cookies
    answer = await visitor.sign_in("", by="certificate")
    assert answer.status == 401


async def test_a_certificate_begins_one_and_each_request_has_to_show_it(gate: GatewayInProcess, tmp_path: Path) -> None:
    people, file = People(tmp_path), gate.data / "gateway.toml"
    file.write_text(f'client_ca = "{people.file}"\n' + file.read_text())
    await gate.restart()
    visitor = Browser(gate)
    olivia, again = (people.certificate([spiffe("operator/olivia")]) for _ in range(2))
    for shown in (None, again):
        visitor.certificate = olivia
        answer = await visitor.sign_in("", by="certificate")
        assert (answer.status, answer.headers["Location"]) == (303, "/console/")
        page = await visitor.get("/console/")
        assert page.status == 200
        assert b"olivia" in page.data
        visitor.certificate = shown
        assert not await visitor.signed_in()
        visitor.certificate = olivia
        assert not await visitor.signed_in(), "it was over when another was shown"


async def test_it_ends_with_its_token(gate: GatewayInProcess, visitor: Browser) -> None:
    token = await gate.token("auditor", "anna")
    await visitor.sign_in(token)
    assert await visitor.signed_in()
    answer = await gate.call("DELETE", f"/v1/tokens/{token_id(token)}", token=await gate.token("operator"))
    assert answer.status == 200
    assert not await visitor.signed_in()


@pytest.mark.parametrize("seconds", [MAX_IDLE_S + 1, MAX_LIFE_MS / 1000 + 1])
async def test_it_ends_with_time(gate: GatewayInProcess, visitor: Browser, seconds: float) -> None:
    await visitor.sign_in(await gate.token("auditor"))
    for _ in range(int(seconds // (MAX_IDLE_S - 60))):
        gate.clock.passed_s += MAX_IDLE_S - 60
        assert await visitor.signed_in()
        seconds -= MAX_IDLE_S - 60
        if gate.clock.passed_s > MAX_LIFE_MS / 1000 - MAX_IDLE_S:
            break
    gate.clock.passed_s += max(seconds, MAX_IDLE_S + 1)
    assert not await visitor.signed_in()


async def test_signing_out_ends_it_on_this_side(gate: GatewayInProcess, visitor: Browser) -> None:
    await visitor.sign_in(await gate.token("auditor"))
    kept = visitor.cookies[COOKIE]
    number = number_of(await visitor.get("/console/"))
    assert (await visitor.post("/console/logout", {"form": number})).status == 303
    visitor.cookies[COOKIE] = kept
    assert not await visitor.signed_in()


async def test_a_new_session_replaces_the_one_before(gate: GatewayInProcess, visitor: Browser) -> None:
    """Nobody keeps a session that another is signed in with: the cookie of before is of no use."""
    await visitor.sign_in(await gate.token("auditor"))
    kept = visitor.cookies[COOKIE]
    await visitor.sign_in(await gate.token("operator"))
    assert visitor.cookies[COOKIE] != kept
    visitor.cookies[COOKIE] = kept
    assert not await visitor.signed_in()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_form_of_another_origin_does_nothing(
    gate: GatewayInProcess, visitor: Browser, headers: dict[str, str]
) -> None:
    await visitor.sign_in(await gate.token("auditor"))
    number = number_of(await visitor.get("/console/"))
    answer = await visitor.post("/console/logout", {"form": number}, **headers, Accept="application/json")
    assert (answer.status, answer.code) == (403, "auth.cross_site")
    assert await visitor.signed_in()


@pytest.mark.parametrize("number", ["", "another", None])
async def test_a_form_without_its_number_does_nothing(
    gate: GatewayInProcess, visitor: Browser, number: str | None
) -> None:
    await visitor.sign_in(await gate.token("auditor"))
    fields = {} if number is None else {"form": number}
    answer = await visitor.post("/console/logout", fields, Accept="application/json")
    assert (answer.status, answer.code) == (403, "auth.cross_site")
    assert await visitor.signed_in()


async def test_the_form_to_sign_in_is_of_one_browser(gate: GatewayInProcess, visitor: Browser) -> None:
    """Or somebody could have another's browser sign in as themselves, and see what is done there."""
    number, token = number_of(await Browser(gate).get("/console/login")), await gate.token("auditor")
    answer = await visitor.post("/console/login", {"form": number, "token": token})
    assert answer.status == 403
    await visitor.get("/console/login")
    answer = await visitor.post("/console/login", {"form": number, "token": token})
    assert answer.status == 403
    assert COOKIE not in visitor.cookies
    assert LOGIN_COOKIE in visitor.cookies


@pytest.mark.parametrize(
    "wanted", ["https://elsewhere.example/", "//elsewhere.example/", "/console//elsewhere", "/v1/docs", "javascript:x"]
)
async def test_signing_in_leads_to_our_own_pages(gate: GatewayInProcess, visitor: Browser, wanted: str) -> None:
    answer = await visitor.sign_in(await gate.token("auditor"), next=wanted)
    assert answer.headers["Location"] == "/console/"


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"{}", "application/json", "request.content_type"),
        (b"a=1&a=2", FORM_TYPE, "request.malformed"),
        (b"a=%ff", FORM_TYPE, "request.malformed"),
        (b"nothing", FORM_TYPE, "request.malformed"),
        (b"a=" + bytes(1 << 17), FORM_TYPE, "request.too_large"),
    ],
)
async def test_what_is_no_form_is_refused(
    gate: GatewayInProcess, visitor: Browser, body: bytes, kind: str, code: str
) -> None:
    headers = {"Origin": gate.url, "Content-Type": kind}
    answer = await gate.call("POST", "/console/login", body=body, headers=headers)
    assert (answer.code, COOKIE in answer.headers.get("Set-Cookie", "")) == (code, False)


async def test_somebody_has_a_bounded_number_of_them(gate: GatewayInProcess, visitor: Browser) -> None:
    token = await gate.token("auditor")
    visitors = [Browser(gate) for _ in range(MAX_SESSIONS_OF_ONE + 1)]
    for one in visitors:
        await one.sign_in(token)
    assert [await one.signed_in() for one in visitors] == [False] + [True] * MAX_SESSIONS_OF_ONE


async def test_a_restart_knows_none_of_before(gate: GatewayInProcess, visitor: Browser) -> None:
    await visitor.sign_in(await gate.token("auditor"))
    await gate.restart()
    assert not await visitor.signed_in()


async def test_the_public_sees_what_it_may_and_signs_nothing(gate: GatewayInProcess, visitor: Browser) -> None:
    assert (await visitor.get("/console/")).status == 303
    file = gate.data / "gateway.toml"
    file.write_text("console_public = true\n" + file.read_text())
    await gate.restart()
    page = await visitor.get("/console/")
    assert page.status == 200
    assert b'method="post"' not in page.data
    answer = await visitor.post("/console/logout", {"form": ""}, Accept="application/json")
    assert (answer.status, answer.code) == (401, "auth.credential_missing")


async def test_every_answer_bears_the_policy_and_no_page_loads_from_elsewhere(
    gate: GatewayInProcess, visitor: Browser
) -> None:
    await visitor.sign_in(await gate.token("operator"))
    for path in ("/console/", "/console/login", "/console/nowhere", "/console/executors/none"):
        answer = await visitor.get(path)
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"].startswith("text/html")
        assert not re.search(rb"<script(?![^>]*src=)|\sstyle=|\son[a-z]+=|<style", answer.data), path
        links = re.findall(rb'(?:src|href|action)="([^"]*)"', answer.data)
        assert links
        assert all(link.startswith((b"/console/", b"#", b"?")) for link in links), links


async def test_files_are_kept_for_ever_under_their_digest(gate: GatewayInProcess, visitor: Browser) -> None:
    page = await visitor.get("/console/login")
    (path,) = set(re.findall(r'href="([^"]+\.css)"', page.data.decode()))
    answer = await visitor.get(path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in answer.headers["Cache-Control"]
    for other in (path.replace("static/", "static/0"), path + ".map", path.replace("console.css", "../app.py")):
        assert (await visitor.get(other)).status == 404


async def test_the_first_page_is_small(gate: GatewayInProcess, visitor: Browser) -> None:
    """With its style, its script and its picture, as they are sent."""
    await visitor.sign_in(await gate.token("operator"))
    page = await visitor.get("/console/")
    files = set(re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page.data.decode()))
    size = len(page.data) + sum([len((await visitor.get(one)).data) for one in files])
    assert len(files) == 3
    assert size < 100_000
