"""Every block of the documentation is run or says why not, and what is no command is read by what it is meant for."""

import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from gateway.config import load_config
from tests.support.snippets import BY_HAND, LAB, OPERATIONS, PAGES, QUICK_START, ROOT, blocks, runnable
from ztrooted.anchors import parse_anchors
from ztrooted.models import Problem, parse_json
from ztrooted.policy import DispatchPolicy
from ztrooted.policy_cases import parse_cases

LANGUAGES = {"sh", "toml", "json", "cedar", "python", "ini", "text", "{toctree}"}
CONFIGURATION = """format = "ztrooted-gateway/1"
trust_domain = "example.org"
tpm = "device:/dev/tpmrm0"
"""
ANCHORS = ROOT / "tests" / "vectors" / "data" / "anchors.toml"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def shown(language: str) -> list[object]:
    """Every block of a language, as a parameter named by page and line."""
    return [
        pytest.param(page, one.text, id=f"{page.name}:{one.line}")
        for page in PAGES
        for one in blocks(page)
        if one.language == language
    ]


@each_page
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block that is indented instead would be run by nobody."""
    assert {one.language for one in blocks(page)} <= LANGUAGES
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert "```" not in outside
    assert not re.search(r"(?<!:)\n\n {4}\S", outside)


@each_page
def test_every_block_for_a_shell_is_run_or_says_why_not(page: Path) -> None:
    name = str(page.relative_to(ROOT))
    listed = name in {*LAB, OPERATIONS, BY_HAND, QUICK_START}
    assert bool(runnable(name)) is listed, "tests/support/snippets.py has the list of pages whose blocks are run"
    marks = len(re.findall(r"<!-- not run", page.read_text()))
    assert marks == sum(one.not_run is not None for one in blocks(page)), "a mark stands right above its block"
    for one in blocks(page):
        assert one.not_run is None or one.language in {"sh", "python", "ini"}


@pytest.mark.parametrize(("page", "text"), shown("toml"))
def test_what_is_shown_as_TOML_is_read_by_its_reader(page: Path, text: str, tmp_path: Path) -> None:
    if "ztrooted-cases/1" in text:
        assert parse_cases(text.encode(), page.name).cases
    elif text.startswith("witnesses = ["):
        assert len(parse_anchors((text + ANCHORS.read_text()).encode(), page.name).witnesses) == 2
    else:
        (tmp_path / "gateway.toml").write_text(CONFIGURATION + text)
        config = load_config(tmp_path)
        assert set(tomllib.loads(text)) <= config.model_fields_set


@pytest.mark.parametrize(("page", "text"), shown("ini"))
def test_what_is_shown_as_INI_is_read(page: Path, text: str) -> None:
    parser = ConfigParser(interpolation=None)
    parser.read_string(text, page.name)
    assert parser.sections()


@pytest.mark.parametrize(("page", "text"), shown("cedar"))
def test_what_is_shown_as_Cedar_is_a_policy(page: Path, text: str) -> None:
    DispatchPolicy(text.encode(), page.name)


@pytest.mark.parametrize(("page", "text"), shown("json"))
def test_what_is_shown_as_JSON_is_an_answer(page: Path, text: str) -> None:
    problem = parse_json(Problem, text.encode())
    assert problem.type.endswith(problem.code)


@pytest.mark.parametrize(("page", "text"), shown("python"))
def test_what_is_shown_as_Python_compiles(page: Path, text: str) -> None:
    compile(text, page.name, "exec")
