"""Mutations as data: what is done to a bundle, as docs/bundle-format.md describes it for anybody's verifier.

A list of operations turns one bundle into another. All but ``bytes`` are made on its JSON, which then is written
canonically; after them come those on the bytes of the file::

    {"op": "replace", "path": ["records", 3, "index"], "value": 4}
    {"op": "add", "path": ["artifacts", 1], "value": "…"}          into a list before that place, or a member
    {"op": "remove", "path": ["blobs", "…"]}
    {"op": "splice", "path": ["records", 3, "record"], "at": 17, "remove": 2, "insert": "…"}   characters of a text
    {"op": "rehash"}                                               links and proofs follow from the records
    {"op": "bytes", "at": 0, "remove": 0, "insert": "efbbbf"}      a negative place counts from the end
"""

import copy
import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from ztrooted import canonical, merkle

Operation = dict[str, Any]
Value = Any


def apply(bundle: bytes, operations: list[Operation]) -> bytes:
    """The bytes of the mutated bundle."""
    on_json = [one for one in operations if one["op"] != "bytes"]
    data = bundle
    if on_json:
        value = copy.deepcopy(json.loads(bundle))
        for one in on_json:
            _rehash(value["records"]) if one["op"] == "rehash" else _change(value, one)
        data = canonical.encode(value)
    for one in operations:
        if one["op"] == "bytes":
            at = one["at"] if one["at"] >= 0 else len(data) + one["at"]
            data = data[:at] + bytes.fromhex(one["insert"]) + data[at + one["remove"] :]
    return data


def _rehash(entries: list[Value]) -> None:
    """The records are the whole log: ``index`` is their place, ``prev`` the one before of the same authorization."""
    tree = merkle.Tree()
    nodes: dict[tuple[int, int], bytes] = {}
    last: dict[str, Value] = {}
    for index, entry in enumerate(entries):
        record = json.loads(entry["record"])
        story = record["authorization"]
        record["prev"] = last.get(story) if story else None
        entry |= {"index": index, "record": canonical.encode(record).decode()}
        leaf = merkle.leaf_hash(entry["record"].encode())
        if story:
            last[story] = {"index": index, "leaf": leaf.hex()}
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}
    for index, entry in enumerate(entries):
        proof = merkle.inclusion_proof(tree.size, index, lambda level, at: nodes[level, at])
        entry["proof"] = [item.hex() for item in proof]


def _change(value: Value, one: Operation) -> None:
    *parents, name = one["path"]
    for parent in parents:
        value = value[parent]
    match one["op"]:
        case "replace":
            value[name] = one["value"]
        case "add" if isinstance(value, list):
            value.insert(name, one["value"])
        case "add":
            value[name] = one["value"]
        case "remove":
            del value[name]
        case "splice":
            text = value[name]
            value[name] = text[: one["at"]] + one["insert"] + text[one["at"] + one["remove"] :]


def difference(before: Value, after: Value, path: tuple[str | int, ...] = ()) -> list[Operation]:
    """Operations on JSON that make ``after`` of ``before``."""
    if type(before) is type(after) and before == after:
        return []
    where = list(path)
    if isinstance(before, dict) and isinstance(after, dict):
        found = [{"op": "remove", "path": [*where, name]} for name in sorted(before.keys() - after.keys())]
        found += [
            {"op": "add", "path": [*where, name], "value": after[name]} for name in sorted(after.keys() - before.keys())
        ]
        for name in sorted(before.keys() & after.keys()):
            found += difference(before[name], after[name], (*path, name))
        return found
    if isinstance(before, list) and isinstance(after, list):
        return _list_difference(before, after, path)
    if isinstance(before, str) and isinstance(after, str):
        return [_splice(before, after, where)]
    return [{"op": "replace", "path": where, "value": after}]


def _list_difference(before: list[Value], after: list[Value], path: tuple[str | int, ...]) -> list[Operation]:
    common = min(len(before), len(after))
    found: list[Operation] = [{"op": "remove", "path": [*path, common]} for _ in before[common:]]
    for at in range(common):
        found += difference(before[at], after[at], (*path, at))
    return found + [{"op": "add", "path": [*path, at], "value": after[at]} for at in range(common, len(after))]


def _splice(before: str, after: str, path: list[str | int]) -> Operation:
    """One splice; characters that both begin or end with stay."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    insert = after[start : len(after) - end]
    return {"op": "splice", "path": path, "at": start, "remove": len(before) - end - start, "insert": insert}


def rehashed_difference(before: Value, after: Value) -> list[Operation]:
    """The same for two bundles that are whole logs; it ends with ``rehash``."""
    old, new = ([_alone(entry) for entry in value["records"]] for value in (before, after))
    found: list[Operation] = []
    for kind, a, b, c, d in reversed(SequenceMatcher(None, old, new, autojunk=False).get_opcodes()):
        if kind != "equal":
            found += _records_difference(before["records"], old[a:b], new[c:d], a)
    rest = [{name: item for name, item in value.items() if name != "records"} for value in (before, after)]
    return [*found, {"op": "rehash"}, *difference(*rest)]


def _records_difference(entries: list[Value], old: list[str], new: list[str], at: int) -> Iterator[Operation]:
    common = min(len(old), len(new))
    for _ in old[common:]:
        yield {"op": "remove", "path": ["records", at + common]}
    for number, record in enumerate(new[common:], at + common):
        yield {"op": "add", "path": ["records", number], "value": {"index": 0, "proof": [], "record": record}}
    for number, record in enumerate(new[:common], at):
        text = entries[number]["record"]
        linked = canonical.encode(json.loads(record) | {"prev": json.loads(text)["prev"]}).decode()
        if text != linked:
            yield _splice(text, linked, ["records", number, "record"])


def _alone(entry: Value) -> str:
    """A record's text without its link."""
    return canonical.encode(json.loads(entry["record"]) | {"prev": None}).decode()
