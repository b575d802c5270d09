"""The proof viewer as a file: one page whose own policy permits its script and its style, and nothing else."""

import base64
import hashlib
import re
import shutil
from pathlib import Path

import pytest

from gateway.console import saved
from tests.support.commands import run


def _policy(page: str) -> dict[str, str]:
    (found,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    return {name: rest for name, _, rest in (one.strip().partition(" ") for one in found.split(";"))}


def _source(page: str, tag: str) -> str:
    (text,) = re.findall(rf"<{tag}(?: type=\"module\")?>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_its_policy_permits_what_is_in_it_and_nothing_else() -> None:
    page = saved.saved_viewer()
    policy = _policy(page)
    assert policy == {
        "default-src": "'none'",
        "script-src": _source(page, "script"),
        "style-src": _source(page, "style"),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    head, _, rest = page.partition("<script")
    assert not re.search(r"\b(?:src|href|style|on\w+)=", head + rest.rpartition("</script>")[2])


def test_a_module_that_does_not_fit_into_one_script_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(saved.HERE, tmp_path / "console")
    monkeypatch.setattr(saved, "HERE", tmp_path / "console")
    module = tmp_path / "console" / "static" / "viewer" / "words.js"
    for line in (
        "export default 1;",
        'import "./dom.js";',
        'const later = () => import("./dom.js");',
        "const end = '</script>';",
    ):
        module.write_text(f"{line}\n")
        with pytest.raises(ValueError, match=r"one script|would end"):
            saved.saved_viewer()


def test_the_command_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "viewer.html"
    done = run("viewer", "--save", str(file))
    assert done.returncode == 0, done.stderr
    assert file.read_text() == saved.saved_viewer()
    assert str(file) in done.stdout
