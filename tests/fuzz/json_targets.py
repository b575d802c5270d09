"""JSON in its two strict forms, and what is written in the canonical one: records and baselines."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tests.fuzz.corpus_seeds import files
from tests.fuzz.mutation import canonical_json, mutate_bytes, mutate_json
from tests.fuzz.target import Target
from tests.support.tokens import claims_dict
from tpm.ima_rules import AllowList
from ztrooted import canonical, strict_json
from ztrooted.errors import GateError, ProofError
from ztrooted.reasons import GateReason
from ztrooted.records import Link, Record, parse_record
from ztrooted.reference import Baseline, parse_baseline

JSON_TOKENS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"1E1",
        b"-0",
        b"0.0",
    ),
    *(
        b'"\\ud800"',
        b'\\udc00"',
        b"\\u0000",
        b"\xef\xbb\xbf",
        b'"a":1,"a":1',
        b"9007199254740993",
        b"\\u00e9",
        b"\xed\xa0\x80",
    ),
)
mutate_json_text = mutate_bytes(JSON_TOKENS)
CANONICAL = mutate_json(canonical_json)
VALUE: dict[str, Any] = {
    "a": [1, -1, 0, True, None, "\u00e9\u4e16\U0001f600", '\n\t\\"', [], {}],
    "b": {"c": {"d": [[[]]]}, "e": 9007199254740991},
}


def refuse(detail: str) -> GateError:
    """What the strict reader is given to refuse with."""
    return ProofError(GateReason.CANONICAL_MALFORMED, detail)


def run_strict_json(data: bytes) -> None:
    """What is accepted means the same to the lenient reader, and has no second meaning: no member is there twice."""
    value = strict_json.parse(data, refuse)
    assert value == json.loads(data)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    json.loads(data, object_pairs_hook=once)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def run_canonical(data: bytes) -> None:
    """What is accepted is written back byte by byte, and equals what another writer makes of it."""
    value = canonical.decode(data)
    assert canonical.encode(value) == data
    assert canonical_json(value) == data


def json_seeds() -> Sequence[bytes]:
    made = [
        canonical_json(VALUE),
        json.dumps(VALUE, indent=1).encode(),
        b"[]",
        b'"x"',
        b"0",
        canonical_json(claims_dict()),
    ]
    return [*made, *files("lineage/jcs", ".json")]


@cache
def json_bombs() -> Mapping[str, bytes]:
    """Nesting, many members, long numbers, long strings, escapes."""
    return {
        "arrays": b"[" * (1 << 20),
        "closed_arrays": b"[" * 500_000 + b"]" * 500_000,
        "objects": b'{"a":' * 200_000,
        "nested_32": (b"[" * 32 + b"]" * 32 + b",") * 16_000,
        "digits": b"1" * (1 << 20),
        "numbers": b"[" + b"1," * 520_000 + b"1]",
        "fraction": b"0." + b"1" * ((1 << 20) - 2),
        "exponent": b"1e" + b"9" * 1_000_000,
        "empties": b"[" + b"[]," * 349_000 + b"[]]",
        "members": b"{" + b",".join(b'"%d":0' % number for number in range(90_000)) + b"}",
        "objects_flat": b"[" + b'{"a":{}},' * 116_000 + b"0]",
        "strings": b"[" + b'"",' * 349_000 + b'""]',
        "escapes": b'"' + b"\\u0000" * 174_000 + b'"',
        "surrogates": b'"' + b"\\ud83d\\ude00" * 87_000 + b'"',
        "quotes": b'"' * (1 << 20),
        "backslashes": b'"' + b"\\" * ((1 << 20) - 2) + b'"',
        "spaces": b" " * (1 << 20),
        "key": b'{"' + b"k" * 1_000_000 + b'":0}',
    }


# --- records and baselines
def run_record(data: bytes) -> None:
    """What is accepted is written back byte by byte."""
    assert parse_record(data).encode() == data


def records() -> Sequence[bytes]:
    link = Link(6, bytes(32))
    return [
        Record("dispatch.requested", 1_800_000_000_000, {"job": {"argv": ["x"]}, "n": 1}, "au-0123456789").encode(),
        Record("attestation.passed", 1_800_000_000_000, {}, "au-0123456789", link).encode(),
        Record("gateway.started", 0, {"identity": {"ak": "00"}}).encode(),
    ]


def run_baseline(data: bytes) -> None:
    """What is accepted is written back byte by byte, and its allow-list can be used."""
    baseline = parse_baseline(data)
    assert baseline.encode() == data
    try:
        AllowList(baseline.ima)
    except ValueError as error:
        raise AssertionError(f"accepted, and no rules can be made of it: {error}") from error


def baselines() -> Sequence[bytes]:
    files_ = {"/bin/a": frozenset({"sha256:" + "ab" * 32}), "/bin/caf\u00e9 %": frozenset({"sha256:" + "cd" * 32})}
    broken = {os.fsdecode(b"/bin/\xff"): frozenset({"sha512:" + "ab" * 64, "sha256:" + "01" * 32})}
    return [
        Baseline("sha256", {0: bytes(32), 23: bytes(32)}, files_, "ex-1", 1_800_000_000_000).encode(),
        Baseline("sha384", {7: bytes(48)}, {}, "ex-1", 0).encode(),
        Baseline("sha256", {}, broken, "", 1).encode(),
    ]


@cache
def baseline_bombs() -> Mapping[str, bytes]:
    """As many files as fit, and what any JSON may be."""
    many = {f"/b/{number}": frozenset({"sha256:" + "ab" * 32}) for number in range(11_000)}
    return {"files": Baseline("sha256", {}, many, "", 1).encode(), **json_bombs()}


TARGETS = (
    Target("strict_json", run_strict_json, json_seeds, (mutate_json_text, mutate_json()), json_bombs),
    Target("canonical", run_canonical, json_seeds, (mutate_json_text, CANONICAL), json_bombs),
    Target("record", run_record, records, (CANONICAL, mutate_json_text), json_bombs),
    Target("baseline", run_baseline, baselines, (CANONICAL, mutate_json_text), baseline_bombs),
)
