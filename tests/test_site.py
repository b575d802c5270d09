"""The documentation as a site: a strict build of every page, and nothing in it is loaded from elsewhere."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.snippets import ROOT

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. Building it is the test of links, anchors and orphans: any warning ends it."""
    made = subprocess.run([ROOT / "scripts" / "apart", "site"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"scripts/apart could not install Sphinx: {made.stderr.strip()[-200:]}")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run([ROOT / "scripts" / "site", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).exists()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    class Loaded(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found = dict(attrs).get(LOADING.get(tag, "")) or ""
            assert not re.match(r"(https?:)?//", found), f"{page.name}: {found}"

    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        Loaded().feed(page.read_text(encoding="utf-8"))
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(['\"]?|@import\s+['\"])(https?:)?//", style.read_text(encoding="utf-8")), style


def test_what_leads_nowhere_ends_the_build(site: Path, tmp_path: Path) -> None:
    """The strictness itself: a broken link, a broken anchor, a page that none leads to."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".site").symlink_to(ROOT / ".site")
    for name in ("site", "apart", "site.lock"):
        (tmp_path / "scripts" / name).symlink_to(ROOT / "scripts" / name)
    (tmp_path / "docs" / "conf.py").symlink_to(ROOT / "docs" / "conf.py")
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](b.md) [c](#nowhere)\n")
    (tmp_path / "docs" / "orphan.md").write_text("# O\n")
    script = (ROOT / "scripts" / "site").read_text()
    (tmp_path / "scripts" / "site").unlink()
    (tmp_path / "scripts" / "site").write_text(script)
    built = subprocess.run(
        ["bash", tmp_path / "scripts" / "site", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert built.returncode != 0
    for told in ("'b.md'", "nowhere", "orphan.md"):
        assert told in built.stderr, built.stderr
