"""The canonical form: one way to write each value, equal to RFC 8785 where both apply."""

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import corpus
from ztrooted import canonical, limits
from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
)
_KEYS = st.text(st.characters(max_codepoint=127))
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner), max_leaves=20)


def refused(call: Any, *args: Any, **options: Any) -> ProofError:
    with pytest.raises(ProofError) as caught:
        call(*args, **options)
    assert caught.value.reason is GateReason.CANONICAL_MALFORMED
    return caught.value


@given(_VALUES)
def test_every_value_comes_back_from_its_bytes(value: Any) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(_VALUES)
def test_other_writers_spacing_and_order_are_refused(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))):
        data = text.encode()
        if data != canonical.encode(value):
            refused(canonical.decode, data)


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except ProofError:
        return
    assert canonical.encode(value) == data


def test_the_form_is_what_is_documented() -> None:
    value = {"b": [1, -1, True, None], "a": 'é"\\/\n\x01\x7f\u2028', "B": {}}
    assert canonical.encode(value) == '{"B":{},"a":"é\\"\\\\/\\n\\u0001\x7f\u2028","b":[1,-1,true,null]}'.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b" 1", b"1 ", b"1\n", b"-0", b"01", b"1.0", b"1e2", b"NaN", b"Infinity", b"1e400", b"1 2", b"{}{}",
        b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'{"b":1,"a":2}', b'{"a": 1}', b'{"\xc3\xa9":1}', b"[1,]", b"{'a':1}",
        b'"\\u0041"', b'"\\/"', b'"\\u001F"', b'"\\u000a"', b'"\\ud800"', b'"\\uD83D\\uDE02"', b'"\x01"', b'"\xff"',
        b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", "1".encode("utf-16"), b"9007199254740992", b"-9007199254740992",
        b"1" * 5000, b"[" * 33 + b"]" * 33, b"[" * 100_000, b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_anything_else_than_the_form_is_refused(data: bytes) -> None:
    refused(canonical.decode, data)


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), 2**53, -(2**53), b"bytes", {1: 2}, {"é": 1}, {None: 1}, {1, 2}, "\ud800", ["\udfff"], object()],
)
def test_values_outside_the_subset_are_refused(value: Any) -> None:
    refused(canonical.encode, value)


def test_nesting_is_bounded_on_both_sides() -> None:
    value: Any = "x"
    for _ in range(limits.JSON_DEPTH):
        value = [value]
    assert canonical.decode(canonical.encode(value)) == value
    refused(canonical.encode, [value])


def test_a_self_referring_value_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    refused(canonical.encode, value)


def test_size_is_bounded() -> None:
    data = canonical.encode("x" * 100)
    assert canonical.decode(data, maximum=len(data)) == "x" * 100
    refused(canonical.decode, data, maximum=len(data) - 1)


def test_normalisation_is_not_applied() -> None:
    composed, decomposed = "é", unicodedata.normalize("NFD", "é")
    assert canonical.digest(composed) != canonical.digest(decomposed)
    assert canonical.decode(canonical.encode(decomposed)) == decomposed


def test_the_digest_is_plain_hexadecimal_of_the_bytes() -> None:
    assert canonical.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_rfc_8785_vectors_agree_wherever_they_are_within_our_subset() -> None:
    folder = corpus.folder("lineage") / "jcs"
    within = 0
    for path in sorted((folder / "output").iterdir()):
        expected = path.read_bytes().rstrip(b"\n")
        source = json.loads((folder / "input" / path.name).read_bytes(), parse_float=_whole)
        try:
            assert canonical.encode(source) == expected, path.name
        except ProofError:
            refused(canonical.decode, expected)
            continue
        assert canonical.decode(expected) == source
        within += 1
    assert within >= 2


def test_rfc_8785_hexadecimal_forms_are_read_back_to_the_byte() -> None:
    folder = corpus.folder("lineage") / "jcs" / "outhex"
    for path in sorted(folder.iterdir()):
        data = bytes.fromhex(path.read_text())
        try:
            value = canonical.decode(data)
        except ProofError:
            value = json.loads(data)
            assert any(not name.isascii() for name in _names(value)) or _has_float(value), path.name
        else:
            assert canonical.encode(value) == data


def _whole(text: str) -> Any:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _names(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(name for item in value.values() for name in _names(item))]
    return [name for item in value for name in _names(item)] if isinstance(value, list) else []


def _has_float(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, float) or (isinstance(value, int) and abs(value) >= 2**53) or any(map(_has_float, inner))
