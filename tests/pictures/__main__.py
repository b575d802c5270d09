"""``scripts/screenshots [DIR]``: pictures of the console, of a demo that is played for them by clicks in a real browser."""

import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

from tests.support.browser import CHROMIUM, OPTIONS
from tests.support.demo_console import demo
from ztrooted.demo.player import Act

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SIZE = {"width": 1200, "height": 780}
ACT_MS = 180_000


def press(page: Page, act: Act) -> None:
    """Press the button of an act, and wait until it was played."""
    page.get_by_role("button", name=act.capitalize()).click()
    page.locator(f'.act.done[data-key="{act}"]').wait_for(timeout=ACT_MS)


def take(page: Page, folder: Path, name: str) -> None:
    """A picture in each theme, of what a window shows."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.wait_for_timeout(300)  # whatever moves has come to rest
        page.screenshot(path=folder / f"{name}-{scheme}.png")


def play(page: Page, link: str, folder: Path) -> None:
    """The story, with a picture of each surface where there is most to be seen."""
    root = "{0.scheme}://{0.netloc}".format(urlsplit(link))
    page.goto(link)
    for act in (Act.BOOT, Act.AUTHORIZE, Act.RUN, Act.TAMPER):
        press(page, act)
    page.get_by_text("verified, 15 checks").wait_for()
    authorization = page.locator("[aria-labelledby=job] code").first.get_attribute("title")
    take(page, folder, "demo")
    anchors = page.request.get(f"{root}/console/demo/anchors.toml").body()
    page.goto(f"{root}/console/viewer?authorization={authorization}")
    page.set_input_files("#viewer-anchors", {"name": "anchors.toml", "mimeType": "application/toml", "buffer": anchors})
    page.locator("#viewer[data-verdict]").wait_for()
    page.locator("ol.checks > li").first.wait_for()
    page.locator('[data-part="verdict"]').scroll_into_view_if_needed()
    take(page, folder, "proofs")
    page.goto(f"{root}/console/demo")
    for act in (Act.BOOT, Act.AUTHORIZE, Act.RUN):
        press(page, act)
    for name, path in (("governance", "/console/"), ("health", "/console/health")):
        page.goto(root + path)
        page.wait_for_selector("#live-state.on")
        take(page, folder, name)
    lineage = page.get_by_role("navigation").get_by_role("link", name="Lineage")
    if lineage.count():
        page.goto(f"{root}/console/lineage/{authorization}")
        take(page, folder, "lineage")


def main() -> int:
    """0 once all pictures are taken."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, demo(Path(data)) as link, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport=SIZE, ignore_https_errors=True)  # type: ignore[arg-type]
        page.set_default_timeout(30_000)
        play(page, link, folder)
        browser.close()
    for picture in sorted(folder.glob("*.png")):
        print(f"{picture.name}: {picture.stat().st_size // 1000} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
