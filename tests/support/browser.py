"""A real browser for tests: Debian's Chromium, started once, driven by Playwright's library, which downloads none.

    async def test_something(gate, browse):
        page = await browse("operator")            # signed in
        await page.goto(gate.url + "/console/")
        await accessible(page)
        await picture(page, "overview")

Each page has a context (cookies, storage) of its own. Whatever it writes to its console as an error, and whatever it asks
of anybody but the gateway, fails the test that opened it.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

from tests.support.gateway_in_process import GatewayInProcess

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PICTURES = Path(os.environ.get("ZTROOTED_PICTURES", Path(__file__).parents[2] / "build" / "pictures"))
AXE = Path(AXE_FILE_PATH).read_text() + "\n;undefined"
# Of what the standard says and somebody who can't use a page would say, too (WCAG 2.2, levels A and AA).
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
]
WIDE, SMALL = {"width": 1280, "height": 860}, {"width": 360, "height": 740}

Browse: TypeAlias = Callable[..., Awaitable[Page]]


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """The address of a Chromium that runs as long as the tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: scripts/browser installs Debian's")
    with tempfile.TemporaryDirectory(prefix="ztrooted-browser-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield f"http://127.0.0.1:{_port(process, Path(profile) / 'DevToolsActivePort')}"
            finally:
                process.terminate()


def _port(process: "subprocess.Popen[bytes]", file: Path) -> int:
    """Where it listens: it writes that down."""
    for _ in range(1200):
        assert process.poll() is None, "Chromium ended at once"
        if file.exists() and (lines := file.read_text().splitlines()):
            with socket.create_connection(("127.0.0.1", int(lines[0])), timeout=5):
                return int(lines[0])
        time.sleep(0.05)
    raise TimeoutError("Chromium does not start")


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """The same browser, from this test's event loop."""
    async with async_playwright() as playwright:
        connected = await playwright.chromium.connect_over_cdp(chromium)
        yield connected
        await connected.close()


class Watched:
    """What pages did that they may not."""

    def __init__(self, url: Callable[[], str]) -> None:
        self.url = url  # of the only server that they may ask
        self.errors: list[str] = []
        self.expected: list[str] = []  # parts of errors that a test causes itself

    def watch(self, page: Page) -> None:
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(f"{message.type}: {message.text} ({message.location})")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url(), "data:", "blob:", "about:")):
            self.errors.append(f"asked {request.url}")

    def unexpected(self) -> list[str]:
        return [one for one in self.errors if not any(part in one for part in self.expected)]


@pytest.fixture
async def watched(gate: GatewayInProcess) -> Watched:
    """What is held against pages at the end of ``browse``; a test that causes an error says so in ``expected``."""
    return Watched(lambda: gate.url)


@pytest.fixture
async def browse(gate: GatewayInProcess, browser: Browser, watched: Watched) -> AsyncIterator[Browse]:
    """Open a page, signed in as a role, or as nobody. Options are those of a Playwright context."""
    async with AsyncExitStack() as opened:

        async def open_page(role: str | None = None, name: str | None = None, **options: Any) -> Page:
            context = await new_context(browser, **options)
            opened.push_async_callback(context.close)
            page = await context.new_page()
            watched.watch(page)
            if role is not None:
                await sign_in(page, gate.url, await gate.token(role, name))
            return page

        yield open_page
    assert not watched.unexpected(), watched.unexpected()


async def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """A context that takes the gateway's own certificate, and does not wait for animations."""
    wanted = {"ignore_https_errors": True, "reduced_motion": "reduce", "viewport": WIDE, **options}
    context = await browser.new_context(**wanted)
    context.set_default_timeout(15_000)
    return context


async def sign_in(page: Page, url: str, token: str, *, to: str = "/console/") -> None:
    """As somebody does who has a token."""
    await page.goto(f"{url}/console/login?next={to}")
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.wait_for_url(url + to)


async def live(page: Page) -> None:
    """Wait until the page follows the gateway."""
    await page.wait_for_selector("#live-state.on")


async def accessible(page: Page) -> None:
    """AssertionError with what axe-core finds, each with the element."""
    if not await page.evaluate("() => 'axe' in window"):
        # By the debugger's own way: the page's policy lets no script in, and is not to be loosened for a test.
        await page.evaluate(AXE)
    found = await page.evaluate(
        "async (rules) => (await axe.run({runOnly: {type: 'tag', values: rules}})).violations", RULES
    )
    told = [f"{one['id']}: {one['help']}: {node['html'][:160]}" for one in found for node in one["nodes"][:3]]
    assert told == [], json.dumps(told, indent=1)


async def fits(page: Page) -> None:
    """AssertionError where a page is wider than its window: nobody likes to scroll sideways."""
    wide = await page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], f"{page.url} is {wide[0]} wide in a window of {wide[1]}"


async def picture(page: Page, name: str) -> None:
    """Keep how a page looks, light and dark, wide and small; each has to fit and be usable."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        await accessible(page)
        await page.screenshot(path=PICTURES / f"{name}-{scheme}.png", full_page=True)
    await page.set_viewport_size(SMALL)  # type: ignore[arg-type]
    await fits(page)
    await accessible(page)
    await page.screenshot(path=PICTURES / f"{name}-small.png", full_page=True)
    await page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    await page.emulate_media(color_scheme="light")
