"""The documentation is about this code: what it names exists, its commands are commands, and its lists are complete."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import ztrooted.cli.main
from gateway.config import GatewayConfig
from tests.support.snippets import PAGES, ROOT, blocks
from ztrooted.audit_plan import PLAN
from ztrooted.reasons import all_reasons
from ztrooted.records import TYPES

HANDWRITTEN = [page for page in PAGES if page.name not in {"reasons.md", "configuration.md"}]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
each_handwritten = pytest.mark.parametrize("page", HANDWRITTEN, ids=lambda page: str(page.relative_to(ROOT)))

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# A path in the tree, or a test in it. "ztrooted/quote/v1" and the like are names in formats.
IN_THE_TREE = re.compile(
    r"(?:tpm|ztrooted|gateway|tests|scripts|docs)/(?![\w-]+/v\d$)[\w./*-]*(?:::\w+(?:(?:\.|::)\w+)?)?"
)


def code_of(page: Path) -> list[str]:
    """Everything that a page shows as code: spans, and lines of blocks for a shell."""
    text = FENCE.sub("", page.read_text())
    return CODE.findall(text) + [
        line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()
    ]


def anchors_of(page: Path) -> set[str]:
    """The fragments that headings of a page can be reached by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if fragment:
            assert fragment in anchors_of(found), target


@each_page
def test_paths_and_tests_that_are_named_exist(page: Path) -> None:
    for code in code_of(page):
        for named in IN_THE_TREE.findall(code) if IN_THE_TREE.match(code) else ():
            path, _, test = named.rstrip(".").partition("::")
            assert list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists(), named
            if test:
                assert test in names_of(ROOT / path), named


@cache
def names_of(path: Path) -> frozenset[str]:
    """The functions, classes and methods (``Class.method``; of tests ``Class::test``) of a module."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (*functions, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [inner.name for inner in node.body if isinstance(inner, functions)]
            found |= {f"{node.name}{mark}{name}" for name in methods for mark in (".", "::")}
    return frozenset(found)


def promises() -> list[Any]:
    """The rows of the audit guide: promise, code, test."""
    guide = (ROOT / "docs" / "audit-guide.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.*?) ?\| (.+) \|$", guide, re.MULTILINE)
    return [pytest.param(code, test, id=said) for said, code, test in rows if code not in {"code", "---"}]


@pytest.mark.parametrize(("code", "test"), promises())
def test_each_promise_names_its_code_and_a_test(code: str, test: str) -> None:
    """Code by file and symbol, a test by its id or a whole file of them; that they exist, another test sees."""
    for named in CODE.findall(code):
        assert re.fullmatch(
            r"(tpm|ztrooted|gateway)/[\w/]+\.py::[\w.]+|tests/[\w/]+\.py|gateway/console/\S+\.js", named
        )
    assert "`" in code or not code  # other people's libraries have none of ours
    tests = [named for named in CODE.findall(test) if re.search(r"/test_\w+\.py", named)]
    assert tests
    for named in tests:
        path, _, function = named.partition("::")
        names = [function] if function else names_of(ROOT / path)
        assert any(one.rpartition("::")[2].startswith("test_") for one in names), named


@cache
def command_line() -> Any:
    """``ztrooted`` with the commands that the gateway adds; a group has ``commands``, every command ``params``."""
    return typer.main.get_command(ztrooted.cli.main.command_line())


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words behind ``ztrooted`` of each command that a page shows."""
    for code in code_of(page):
        if (found := re.match(r"(?:\.venv/bin/)?ztrooted (?!\d)(.+)", code)) is not None:
            yield shlex.split(found[1], comments=True)


def check_command(words: list[str]) -> None:
    """Each subcommand exists ("a|b" and "…" as in prose), and so does each option up to "--"."""
    command = command_line()
    words = words[: words.index("--")] if "--" in words else words
    while getattr(command, "commands", None) and words and words[0] != "…":
        names = words.pop(0).split("|")
        for name in names:
            assert name in command.commands, name
        command = command.commands[names[0]]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known | {"--help"}, word


@each_page
def test_commands_that_are_shown_are_commands(page: Path) -> None:
    for words in commands_of(page):
        check_command(words)


def test_a_wrong_command_would_be_noticed() -> None:
    for wrong in ("gateway start DATA", "audit verify BUNDLE --trust ANCHORS", "approve"):
        with pytest.raises(AssertionError):
            check_command(wrong.split())


def test_the_readme_shows_commands_of_every_role() -> None:
    shown = {words[0] for words in commands_of(ROOT / "README.md")}
    assert {"gateway", "baseline", "executor", "authorize", "exec", "watch", "audit"} <= shown


def test_scripts_that_the_readme_names_can_be_run() -> None:
    named = set(re.findall(r"scripts/(\w+)", (ROOT / "README.md").read_text())) - {"DIR"}
    assert {"demo", "test"} <= named
    for name in named:
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111, name


def test_the_index_of_decisions_is_complete() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    pages = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index) == pages
    assert [page[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        title = (ROOT / "docs" / "adr" / page).read_text().splitlines()[0]
        assert title == f"# {page[:4]}. {index_title(index, page)}"


def index_title(index: str, page: str) -> str:
    """What the index calls a page."""
    found = re.search(rf"\[{page[:4]}\]\({re.escape(page)}\) \| (.+) \|", index)
    assert found is not None, page
    return found[1]


def test_the_checks_of_a_bundle_are_told_as_they_are() -> None:
    """Number and name of each check: in the module's text, in its plan, and in the page for other implementers."""
    source = (ROOT / "ztrooted" / "verify.py").read_text()
    told = re.findall(r"^ ?(\d+)\. ``(\w+)``:", source, re.MULTILINE)
    planned = re.findall(r'^        \("(\w+)", [\w.]+\),$', source, re.MULTILINE)
    paged = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "docs" / "bundle-format.md").read_text(), re.MULTILINE)
    assert told == paged == [(str(number), name) for number, name in enumerate(planned, 1)]
    words = " ".join(source.split('"""')[1].split())
    for number, (name, what) in enumerate(PLAN, 1):
        assert f"{number}. ``{name}``: {what}." in words
    assert planned == [name for name, _ in PLAN]


def test_the_table_of_limits_is_what_the_script_writes() -> None:
    """Run scripts/docs after a change of a maximum."""
    written = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--stdout-limits"], check=True, capture_output=True, timeout=30
    ).stdout.decode()
    assert written in (ROOT / "docs" / "limits.md").read_text()


def test_the_page_of_settings_is_what_the_script_writes() -> None:
    """Run scripts/docs after a change of a setting."""
    written = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--stdout-configuration"],
        check=True,
        capture_output=True,
        timeout=30,
    ).stdout.decode()
    assert (ROOT / "docs" / "configuration.md").read_text() == written
    for name in set(GatewayConfig.model_fields) - {"data"}:
        assert f"| `{name}` |" in written


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@each_handwritten
def test_reason_codes_that_are_named_exist(page: Path) -> None:
    codes = {str(reason) for reason in all_reasons()}
    families = {code.partition(".")[0] for code in codes}
    for code in CODE.findall(FENCE.sub("", page.read_text())):
        family, _, detail = code.partition(".")
        if family in families and re.fullmatch(r"[a-z_]+", detail) and detail not in {"py", "cedar"}:
            assert code in codes | TYPES, code


# What belongs to whoever works on the project and where, and to nobody who reads it.
PRIVATE = {
    "a folder of one machine": r"(?<![\w.\"'])/(?:work|workspace|Users)/\w",
    "a package index": r"--(?:extra-)?index-url|--trusted-host|--find-links[ =]|https?://\S+/simple\b",
    "a ticket": r"(?i)\b(?:issue|ticket|task) ?(?:no\. ?)?#?\d+\b",
}


@pytest.mark.parametrize("what", PRIVATE)
def test_nothing_private_is_in_the_tree(what: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(PRIVATE[what])
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            found = pattern.search(path.read_text(errors="replace"))
            assert found is None, f"{name}: {found and found[0]}"


def test_the_matrix_of_failures_is_complete() -> None:
    """Every test that is marked ``fail_closed`` has its row, and every row its test."""
    marked = set()
    for path in sorted((ROOT / "tests" / "e2e").glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                "fail_closed" in ast.unparse(one) for one in node.decorator_list
            ):
                marked.add((path.name, node.name))
    rows = re.findall(r"\[`(\w+)`\]\(\.\./tests/e2e/(\w+\.py)\)", (ROOT / "docs" / "fail-closed.md").read_text())
    assert marked == {(file, name) for name, file in rows}, "scripts/fail-closed writes the page"
    assert len(marked) > 20
