"""JSON that two readers could read differently is refused; everything else is read like anywhere."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pace import at_most
from ztrooted import strict_json
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason


def refuse(detail: str) -> GateError:
    return GateError(GateReason.REQUEST_MALFORMED, detail)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"])), lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner), max_leaves=15))  # fmt: skip # noqa: E501
def test_unambiguous_json_is_read_as_by_the_standard_library(value: Any) -> None:
    data = json.dumps(value).encode()
    assert strict_json.parse(data, refuse) == json.loads(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a":1,"a":1}', "same name"),
        (b'{"a":{"b":1,"b":2}}', "same name"),
        (b'{"a":1,"\\u0061":2}', "same name"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e400", "too large"),
        (b"-1e400", "too large"),
        (b"9007199254740992", "53 bits"),
        (b"-" + b"9" * 5000, "53 bits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b"\xff", "UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"{}{}", "Extra data"),
        (b"{} x", "Extra data"),
        (b"", "Expecting value"),
        (b"[" * 34 + b"]" * 34, "deeper"),
        (b"[" * 1_000_000, "deeper"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b'"' + b"x" * (1 << 20) + b'"', "bytes of JSON"),
    ],
)
def test_ambiguous_json_is_refused(data: bytes, words: str) -> None:
    with at_most(1), pytest.raises(GateError, match=words):
        strict_json.parse(data, refuse)


def test_surrogate_pairs_in_escapes_are_characters() -> None:
    assert strict_json.parse(b'"\\ud83d\\ude02"', refuse) == "\U0001f602"


def test_depth_counts_arrays_and_objects() -> None:
    assert strict_json.parse(b'[{"a":[]}]', refuse, depth=3) == [{"a": []}]
    with pytest.raises(GateError, match="deeper than 2"):
        strict_json.parse(b'[{"a":[]}]', refuse, depth=2)
