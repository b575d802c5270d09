"""Records: one form of bytes for each, and nothing else is read as a record."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted import canonical, limits
from ztrooted.errors import GateError, ProofError
from ztrooted.reasons import GateReason
from ztrooted.records import TYPES, Link, Record, parse_record

SOME = Record(
    "authorization.renewed",
    1_780_000_000_000,
    {"claims": {"n": 3}, "kid": "k"},
    "auth-0001",
    Link(41, bytes.fromhex("ab" * 32)),
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_.", max_size=4), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.builds(
    Record,
    type=st.sampled_from(sorted(TYPES)),
    at=st.integers(0, 2**53 - 1),
    body=st.dictionaries(st.text("abc_.", max_size=4), VALUES, max_size=3),
    authorization=st.none() | st.text(max_size=12),
    prev=st.none() | st.builds(Link, st.integers(0, 2**53 - 1), st.binary(min_size=32, max_size=32)),
)


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(SOME.encode())
    change(value)
    return canonical.encode(value)


def put(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value.update(members)


def put_prev(**members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["prev"].update(members)


@given(RECORDS)
def test_what_is_written_is_read_back_and_written_again_alike(record: Record) -> None:
    data = record.encode()
    assert parse_record(data) == record
    assert parse_record(data).encode() == data


def test_the_bytes_of_a_record_are_fixed() -> None:
    """Leaf hashes rest on these bytes: a change of the encoding would be a fork of every lineage."""
    record = Record("gateway.stopped", 7, {"b": [1, None], "a": "é"}, None, Link(0, bytes(32)))
    expected = (
        '{"at":7,"authorization":null,"body":{"a":"é","b":[1,null]},"prev":{"index":0,"leaf":"' + "00" * 32 + '"},'
        '"type":"gateway.stopped","v":1}'
    )
    assert record.encode() == expected.encode()


MUTATIONS = {
    "another version": put(v=2),
    "version true": put(v=True),
    "version as text": put(v="1"),
    "unknown type": put(type="authorization.granted"),
    "type is null": put(type=None),
    "type is a list": put(type=["authorization.renewed"]),
    "type is an object": put(type={}),
    "time before the epoch": put(at=-1),
    "time as text": put(at="7"),
    "time is true": put(at=True),
    "time is null": put(at=None),
    "authorization is a number": put(authorization=5),
    "authorization is a list": put(authorization=[]),
    "body is a list": put(body=[]),
    "body is null": put(body=None),
    "an extra member": put(extra=1),
    "prev is text": put(prev="41"),
    "prev is false": put(prev=False),
    "prev is empty": put(prev={}),
    "index is negative": put_prev(index=-1),
    "index is true": put_prev(index=True),
    "index as text": put_prev(index="41"),
    "leaf is short": put_prev(leaf="ab" * 31),
    "leaf is long": put_prev(leaf="ab" * 33),
    "leaf is in upper case": put_prev(leaf="AB" * 32),
    "leaf has spaces": put_prev(leaf="ab " * 32),
    "leaf is no hexadecimal": put_prev(leaf="zz" * 32),
    "leaf is a number": put_prev(leaf=7),
    "leaf is null": put_prev(leaf=None),
    "prev has an extra member": put_prev(extra=1),
    "v is missing": lambda value: value.pop("v"),
    "type is missing": lambda value: value.pop("type"),
    "at is missing": lambda value: value.pop("at"),
    "authorization is missing": lambda value: value.pop("authorization"),
    "body is missing": lambda value: value.pop("body"),
    "prev is missing": lambda value: value.pop("prev"),
    "index is missing": lambda value: value["prev"].pop("index"),
    "leaf is missing": lambda value: value["prev"].pop("leaf"),
}


@pytest.mark.parametrize("change", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_every_other_content_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    assert parse_record(altered(lambda value: None)) == SOME  # only the change makes the difference
    with pytest.raises(ProofError) as refusal:
        parse_record(altered(change))
    assert refusal.value.reason is GateReason.LINEAGE_RECORD_MALFORMED


OTHER_ENCODINGS = {
    "spaces": json.dumps(json.loads(SOME.encode()), sort_keys=True).encode(),
    "another order": json.dumps(
        dict(reversed(json.loads(SOME.encode()).items())), separators=(",", ":"), ensure_ascii=False
    ).encode(),
    "a newline behind it": SOME.encode() + b"\n",
    "two documents": SOME.encode() * 2,
    "a duplicate member": SOME.encode().replace(b'"v":1', b'"v":1,"v":1'),
    "a fraction": SOME.encode().replace(b'"v":1', b'"v":1.0'),
    "an escaped letter": SOME.encode().replace(b'"kid"', b'"\\u006bid"'),
    "a byte order mark": b"\xef\xbb\xbf" + SOME.encode(),
    "another encoding": SOME.encode().decode().encode("utf-16"),
    "a list": b"[]",
    "null": b"null",
    "nothing": b"",
}


@pytest.mark.parametrize("data", OTHER_ENCODINGS.values(), ids=OTHER_ENCODINGS.keys())
def test_O14_only_the_one_encoding_is_a_record(data: bytes) -> None:
    with pytest.raises(ProofError) as refusal:
        parse_record(data)
    assert refusal.value.reason in {GateReason.CANONICAL_MALFORMED, GateReason.LINEAGE_RECORD_MALFORMED}


@given(st.data())
def test_no_changed_byte_gives_the_same_record(data: st.DataObject) -> None:
    encoded = bytearray(SOME.encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        read = parse_record(bytes(encoded))
    except ProofError:
        return
    assert read != SOME
    assert read.encode() == bytes(encoded)


def test_a_record_of_an_unknown_type_cannot_be_written() -> None:
    with pytest.raises(GateError) as refusal:
        Record("authorization.granted", 0, {}).encode()
    assert refusal.value.reason is GateReason.LINEAGE_RECORD_MALFORMED


def test_a_record_at_the_limit_is_written_and_read_and_one_byte_more_is_neither() -> None:
    empty = len(Record("gateway.stopped", 0, {"text": ""}).encode())
    largest = Record("gateway.stopped", 0, {"text": "x" * (limits.RECORD - empty)})
    assert parse_record(largest.encode()) == largest
    over = Record("gateway.stopped", 0, {"text": "x" * (limits.RECORD - empty + 1)})
    with pytest.raises(GateError) as refusal:
        over.encode()
    assert refusal.value.reason is GateReason.LINEAGE_RECORD_MALFORMED
    with pytest.raises(ProofError) as refusal:
        parse_record(largest.encode().replace(b'"text":"', b'"text":"x'))
    assert refusal.value.reason is GateReason.LINEAGE_RECORD_MALFORMED


@pytest.mark.parametrize("body", [{"f": 1.5}, {"b": b"bytes"}, {"é": 1}, {"n": 2**53}, {"s": "\ud800"}, {1: 2}])
def test_a_body_without_a_canonical_form_cannot_be_written(body: dict[str, Any]) -> None:
    with pytest.raises(ProofError) as refusal:
        Record("gateway.stopped", 0, body).encode()
    assert refusal.value.reason is GateReason.CANONICAL_MALFORMED
