"""Options of the command line that describe a job."""

import pytest
import typer

from ztrooted.cli.job_options import options, passed

HERE = {"HOME": "/root", "TERM": "xterm", "EMPTY": ""}


def test_a_variable_that_is_passed_on_has_its_value_from_here() -> None:
    assert passed(["A=1"], ["HOME", "EMPTY"], HERE) == ["HOME=/root", "EMPTY=", "A=1"]
    assert passed(None, None, HERE) == []


def test_a_value_that_is_given_wins() -> None:
    assert passed(["HOME=/tmp"], ["HOME"], HERE)[-1] == "HOME=/tmp"


@pytest.mark.parametrize("name", ["MISSING", "", "HOME=/tmp"])
def test_what_is_not_there_is_not_passed_on(name: str) -> None:
    with pytest.raises(typer.BadParameter, match="no variable"):
        passed(None, [name], HERE)


def test_nothing_asked_for_is_nothing() -> None:
    assert options(None, None, None, None) == {}


@pytest.mark.parametrize(
    ("text", "user"), [("0", "0:0"), ("1000", "1000:1000"), ("1000:100", "1000:100"), ("007:08", "7:8")]
)
def test_a_user(text: str, user: str) -> None:
    assert options(text, None, None, None) == {"user": user}


@pytest.mark.parametrize("text", ["", "root", "1000:", ":1", "1:2:3", "-1", "1000:users", "٣"])
def test_what_is_no_user(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options(text, None, None, None)


@pytest.mark.parametrize(
    ("text", "size"), [("1048576", 1 << 20), ("512M", 512 << 20), ("2g", 2 << 30), ("3GiB", 3 << 30), ("4kB", 4096)]
)
def test_a_size(text: str, size: int) -> None:
    assert options(None, text, 3, 4) == {"memory": size, "pids": 3, "cpu": 4}


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1 G", "10%", "1X"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options(None, text, None, None)
