"""Mutators: they take an input apart, change a little of it, and put it together so that a parser still reads on.

A mutator takes a source of randomness, one input and a pool of others. All randomness comes from the source, so a seed
and a number name one input.
"""

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutator = Callable[[Random, bytes, Sequence[bytes]], bytes]

# What parsers mistake for something else: ends of ranges, signs, and sizes just beyond a maximum.
_WIDTHS = (1, 2, 4, 8)
_EDGES = tuple(
    sorted(
        {
            value & ((1 << 64) - 1)
            for bits in (0, 7, 8, 15, 16, 31, 32, 53, 63, 64)
            for value in (1 << bits, (1 << bits) - 1)
        }
    )
)
_NUMBERS = (
    *(b"0", b"1", b"-1", b"-0", b"00", b"1e400", b"0.5", b"1_0", b"9007199254740991", b"9007199254740992"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"9" * 400, "\u0663".encode()),
)
_DIGITS = re.compile(rb"[0-9]+")
_GROWN = 1 << 20


def mutate_bytes(tokens: Sequence[bytes] = ()) -> Mutator:
    """The mutator for bytes without known structure; ``tokens`` are words of the format."""
    words = (*tokens, b"\0", b"\xff" * 4, b"\n", b" ")

    def mutate(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
        value = bytearray(data)
        for _ in range(1 + int(random.expovariate(0.7))):
            _CHANGES[int(random.random() * len(_CHANGES))](random, value, pool, words)
        return bytes(value)

    return mutate


def _place(random: Random, value: bytearray) -> int:
    return int(random.random() * len(value))


def _span(random: Random, value: bytearray, longest: int = 64) -> tuple[int, int]:
    start = _place(random, value)
    return start, start + 1 + int(random.random() * longest)


def _flip(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    if value:
        value[_place(random, value)] ^= 1 << int(random.random() * 8)


def _byte(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    if value:
        value[_place(random, value)] = int(random.random() * 256)


def _integer(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    """Change an integer of some width and byte order: to an edge, or by a little, as a length that lies does."""
    width = random.choice(_WIDTHS)
    at, order = _place(random, value), random.choice(("big", "little"))
    field = value[at : at + width]
    if random.random() < 0.5:
        number = random.choice(_EDGES)
    else:
        number = int.from_bytes(field, order) + int(random.random() * 33) - 16  # type: ignore[arg-type]
    value[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, order)  # type: ignore[arg-type]


def _delete(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, end = _span(random, value)
    del value[start:end]


def _repeat(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, end = _span(random, value, 200)
    value[start:start] = value[start:end]


def _move(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, end = _span(random, value)
    taken = value[start:end]
    del value[start:end]
    at = _place(random, value)
    value[at:at] = taken


def _cut(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    del value[_place(random, value) :]


def _insert(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    at = _place(random, value)
    value[at:at] = random.randbytes(1 + int(random.random() * 8))


def _word(random: Random, value: bytearray, _pool: Sequence[bytes], words: Sequence[bytes]) -> None:
    at, word = _place(random, value), random.choice(words)
    value[at : at + random.choice((0, len(word)))] = word


def _number(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    """Change a decimal number somewhere behind a random place."""
    found = _DIGITS.search(value, _place(random, value))
    if found:
        value[found.start() : found.end()] = random.choice(_NUMBERS)


def _splice(random: Random, value: bytearray, pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    other = random.choice(pool) if pool else b""
    at = _place(random, value)
    value[at:] = other[int(random.random() * (len(other) + 1)) if random.random() < 0.5 else at :]


def _lines(random: Random, value: bytearray, _pool: Sequence[bytes], _words: Sequence[bytes]) -> None:
    """Drop, repeat or exchange whole lines."""
    lines = bytes(value).split(b"\n")
    one, other = int(random.random() * len(lines)), int(random.random() * len(lines))
    match int(random.random() * 3):
        case 0:
            del lines[one]
        case 1:
            lines.insert(one, lines[other])
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    value[:] = b"\n".join(lines)


_CHANGES: tuple[Callable[[Random, bytearray, Sequence[bytes], Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _byte, _integer, _integer, _integer, _delete, _repeat, _move),
    *(_cut, _insert, _word, _word, _number, _splice, _lines),
)


def mutate_length(random: Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Repeat a part until the input is large, at most a mebibyte: what is quadratic shows here."""
    start = int(random.random() * (len(data) + 1))
    part = data[start : start + 1 + int(random.random() * 256)] or b"\0"
    times = min(1 << int(random.random() * 18), (_GROWN - len(data)) // len(part))
    return data[:start] + part * max(times, 0) + data[start + len(part) * (random.random() < 0.5) :]


_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**53 - 1,
        2**53,
        0.5,
        "",
        "0",
        "\u00e9",
        "\0",
        "a" * 64,
        "00" * 32,
        "-",
        "9" * 5000,
    ),
    *([], {}, [[]], [{}], {"": None}, {"a": []}, ["x"], [None], "=", "/w==", "\x7f", 10**30, 1 << 31, 1 << 63),
)


def mutate_value(random: Random, value: Any, pool: Sequence[Any] = ()) -> Any:
    """A JSON value with one node replaced, removed, repeated, or nested: every member meets every type."""
    nodes: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict | list):
            for key in item if isinstance(item, dict) else range(len(item)):
                nodes.append((item, key))
                todo.append(item[key])
    if not nodes:
        return _copy(random.choice(_VALUES))
    parent, key = random.choice(nodes)
    match int(random.random() * 6):
        case 0 | 1:
            parent[key] = _copy(random.choice(_VALUES))
        case 2:
            parent[key] = _changed_leaf(random, parent[key])
        case 3:
            del parent[key]
        case 4:
            other, name = random.choice(nodes)
            parent[key] = _copy(other[name]) if isinstance(other, dict) or name < len(other) else None
        case _ if isinstance(parent, list):
            parent.insert(key, _copy(parent[key]))
        case _:
            parent[random.choice((f"{key}x", "", "\u00e9", "type", "v"))] = _copy(parent[key])
    return value


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _changed_leaf(random: Random, leaf: Any) -> Any:
    if isinstance(leaf, bool) or leaf is None:
        return not leaf
    if isinstance(leaf, int):
        return leaf + random.choice((-1, 1, 1000, -leaf, 2**53 - 1 - leaf))
    if isinstance(leaf, str) and leaf:
        at = int(random.random() * len(leaf))
        return random.choice(
            (leaf[:at], leaf + leaf, leaf[:at] + chr(int(random.random() * 256)) + leaf[at + 1 :], leaf.upper())
        )
    return [leaf]


def mutate_json(encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()) -> Mutator:
    """The mutator for JSON; ``encode`` writes the form that the parser wants. What is no JSON stays as it is."""

    def mutate(random: Random, data: bytes, _pool: Sequence[bytes]) -> bytes:
        try:
            value = json.loads(data)
        except ValueError:
            return data
        for _ in range(1 + int(random.expovariate(1.0))):
            value = mutate_value(random, value)
        return encode(value)

    return mutate


def canonical_json(value: Any) -> bytes:
    """Sorted and without spaces, whatever the value: the canonical form of what has one."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "surrogatepass")
