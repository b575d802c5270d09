"""TOML within bounds: what our files hold is read, what would take the process along is refused."""

import pytest

from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason
from ztrooted.strict_toml import MAX_KEY_PARTS, MAX_LINE, MAX_LINES, MAX_TOML, parse


def refuse(detail: str) -> PolicyError:
    return PolicyError(GateReason.POLICY_INVALID, detail)


def read(text: str) -> object:
    return parse(text.encode(), refuse)


def test_toml_is_read() -> None:
    assert read("a = 1\n[b.c]\n\"d e\" = ['x', 2.5, true]\n") == {"a": 1, "b": {"c": {"d e": ["x", 2.5, True]}}}


REFUSED = {
    "not TOML": ("a: 1", "not TOML"),
    "deep arrays": ("a = " + "[" * 10_000, "nested too deep"),
    "deep tables": ("a = " + "{a=" * 3_000, "nested too deep"),
    "a number int() will not read": ("a = " + "1" * 5_000, "not TOML"),
    "too large": ("#" * 1000 + ("\n" + "#" * 1000) * (MAX_TOML // 1000), "too large"),
    "a long line": ("#" * (MAX_LINE + 1), "too large"),
    "many lines": ("\n" * MAX_LINES, "too large"),
    "a bare key of many parts": ("a" + ".a" * MAX_KEY_PARTS + " = 1", "more than 16 parts"),
    "a quoted key of many parts": ('"a"' + ' . "a"' * MAX_KEY_PARTS + " = 1", "more than 16 parts"),
    "one of literals": ("'a'" + ".'a'" * MAX_KEY_PARTS + " = 1", "more than 16 parts"),
    "one in a header": ("[a" + ".a" * MAX_KEY_PARTS + "]", "more than 16 parts"),
    "one in an inline table": ("x = {y = {a" + "\t.\ta" * MAX_KEY_PARTS + " = 1}}", "more than 16 parts"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_no_file_of_ours_holds_is_refused(text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        read(text)


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(PolicyError, match="not TOML"):
        parse(b"a = '\xff'", refuse)


def test_the_bounds_themselves_are_allowed() -> None:
    key = "a" + ".a" * (MAX_KEY_PARTS - 1)
    assert read(f"{key} = 1")
    assert read(f"[{key}]") is not None
    assert read("#" * MAX_LINE) == {}
    assert read("\n" * (MAX_LINES - 1)) == {}
    with pytest.raises(PolicyError, match="too large"):
        parse(b"a = 1", refuse, maximum=4)


def test_dots_in_text_and_comments_are_no_keys() -> None:
    """Domain names, identifiers and ellipses."""
    assert read("a = '1.3.6.1.4.1.11129.2.1.21' # and so on ....................\n")
