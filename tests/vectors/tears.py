"""What somebody without any key can do to a genuine bundle, as operations (``tests.vectors.operations``)."""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tests.vectors.operations import Operation, difference

Tear = tuple[str, list[Operation]]
# An ASN.1 SEQUENCE whose length is written in two bytes where one is enough, and an INTEGER with a needless zero.
_LONG_LENGTH, _PADDED = "long_length", "padded"


def tears(bundle: bytes, older: bytes) -> Iterator[Tear]:
    """All of them; ``older`` is the same bundle at an earlier checkpoint."""
    value = json.loads(bundle)
    yield from _file(bundle, value)
    yield from _members(value)
    yield from _checkpoint(value, json.loads(older))
    yield from _inclusion(value)
    yield from _artifacts(value)


def _file(bundle: bytes, value: Any) -> Iterator[Tear]:
    yield "empty_file", [{"op": "bytes", "at": 0, "remove": len(bundle), "insert": ""}]
    yield "byte_order_mark", [{"op": "bytes", "at": 0, "remove": 0, "insert": "efbbbf"}]
    yield "space_behind", [{"op": "bytes", "at": -1, "remove": 0, "insert": "20"}]
    yield "newline_at_the_end", [{"op": "bytes", "at": len(bundle), "remove": 0, "insert": "0a"}]
    yield "cut_short", [{"op": "bytes", "at": -9, "remove": 9, "insert": ""}]
    yield (
        "no_utf8",
        [{"op": "bytes", "at": bundle.index(b'"bundle') if b'"bundle' in bundle else 20, "remove": 1, "insert": "ff"}],
    )
    yield "member_twice", [{"op": "bytes", "at": 1, "remove": 0, "insert": b'"artifacts":[],'.hex()}]
    yield (
        "escape_that_is_not_needed",
        [{"op": "bytes", "at": bundle.index(b"artifacts"), "remove": 1, "insert": b"\\u0061".hex()}],
    )
    at = bundle.index(b'"index":') + 8
    for name, number in {
        "float": b"1.5",
        "exponent": b"1e0",
        "leading_zero": b"01",
        "too_large": b"9007199254740992",
    }.items():
        yield (
            f"index_{name}",
            [{"op": "bytes", "at": at, "remove": len(str(value["records"][0]["index"])), "insert": number.hex()}],
        )
    yield (
        "nested_too_deep",
        [{"op": "bytes", "at": 1, "remove": 0, "insert": (b'"a":' + b"[" * 40 + b"]" * 40 + b",").hex()}],
    )


def packed_tears(packed: bytes) -> Iterator[Tear]:
    """What is done to a packed bundle."""
    yield "packed_with_a_name", [{"op": "bytes", "at": 3, "remove": 1, "insert": "08"}]
    yield "packed_and_cut_short", [{"op": "bytes", "at": -9, "remove": 9, "insert": ""}]
    yield "packed_with_a_byte_behind", [{"op": "bytes", "at": len(packed), "remove": 0, "insert": "00"}]
    yield "packed_with_another_checksum", [{"op": "bytes", "at": -8, "remove": 1, "insert": f"{packed[-8] ^ 1:02x}"}]
    yield "packed_and_damaged", [{"op": "bytes", "at": 500, "remove": 1, "insert": f"{packed[500] ^ 1:02x}"}]


def _members(value: Any) -> Iterator[Tear]:
    blob = min(value["blobs"])
    text = value["blobs"][blob]
    raw = base64.b64decode(text)
    changed = base64.b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()
    yield "another_format", [{"op": "replace", "path": ["format"], "value": "ztrooted-bundle/2"}]
    yield "member_missing", [{"op": "remove", "path": ["ima"]}]
    yield "member_unknown", [{"op": "add", "path": ["extra"], "value": None}]
    yield "another_origin", [{"op": "replace", "path": ["origin"], "value": "other.test/lineage"}]
    yield "another_authorization", [{"op": "replace", "path": ["authorization"], "value": "0" * 32}]
    yield "blob_changed", [{"op": "replace", "path": ["blobs", blob], "value": changed}]
    yield "blob_of_no_text", [{"op": "replace", "path": ["blobs", blob], "value": 1}]
    yield "blob_of_loose_base64", [{"op": "replace", "path": ["blobs", blob], "value": text + "\n"}]
    yield (
        "blob_that_nothing_names",
        [
            {
                "op": "add",
                "path": ["blobs", hashlib.sha256(b"extra").hexdigest()],
                "value": base64.b64encode(b"extra").decode(),
            }
        ],
    )
    needed = json.loads(value["records"][-1]["record"])["authorization"]
    assert needed
    attest = next(
        json.loads(one["record"])["body"]["manifest"]["attest"]
        for one in value["records"]
        if json.loads(one["record"])["type"] == "attestation.passed"
    )
    yield "quote_missing", [{"op": "remove", "path": ["blobs", attest]}]
    yield (
        "policy_missing",
        [
            {
                "op": "remove",
                "path": [
                    "blobs",
                    next(
                        json.loads(one["record"])["body"]["appraisal"]
                        for one in value["records"]
                        if json.loads(one["record"])["type"] == "policy.activated"
                    ),
                ],
            }
        ],
    )
    yield (
        "records_swapped",
        difference(value, {**value, "records": [value["records"][1], value["records"][0], *value["records"][2:]]}),
    )
    yield (
        "hash_in_capitals",
        [{"op": "replace", "path": ["records", 0, "proof", 0], "value": value["records"][0]["proof"][0].upper()}],
    )
    yield "record_with_a_note", [{"op": "add", "path": ["records", 0, "note"], "value": ""}]
    yield "measurements_doubled", [{"op": "add", "path": ["ima", 0], "value": value["ima"][0]}]
    yield (
        "measurements_missing",
        [{"op": "remove", "path": ["ima", len(value["ima"]) - 1]}, *_orphan(value, value["ima"][-1])],
    )


def _orphan(value: Any, digest: str) -> list[Operation]:
    """Remove a blob that only a list named."""
    records = "".join(one["record"] for one in value["records"])
    return [] if f'"{digest}"' in records else [{"op": "remove", "path": ["blobs", digest]}]


def _checkpoint(value: Any, older: Any) -> Iterator[Tear]:
    text, _, block = value["checkpoint"].partition("\n\n")
    origin, size, root = text.split("\n")
    lines = block.split("\n")[:-1]
    kinds = {"log_key": 0, "seal": 1}

    def note(head: list[str], signatures: list[str]) -> list[Operation]:
        made = "\n".join(head) + "\n\n" + "".join(line + "\n" for line in signatures)
        return [{"op": "replace", "path": ["checkpoint"], "value": made}]

    def changed(line: str, at: int) -> str:
        start, encoded = line.rsplit(" ", 1)
        raw = bytearray(base64.b64decode(encoded))
        raw[at] ^= 1
        return f"{start} {base64.b64encode(raw).decode()}"

    head = [origin, size, root]
    yield "note_of_another_size", note([origin, str(int(size) + 1), root], lines)
    yield "note_with_a_leading_zero", note([origin, "0" + size, root], lines)
    yield "note_with_another_root", note([origin, size, base64.b64encode(bytes(32)).decode()], lines)
    yield "note_with_a_line_more", note([*head, "extension"], lines)
    yield "note_with_a_tab", note([origin, size, root + "\t"], lines)
    yield "note_of_another_origin", note(["other.test/lineage", size, root], lines)
    yield "note_without_signatures", [{"op": "replace", "path": ["checkpoint"], "value": text + "\n"}]
    for name, at in kinds.items():
        yield f"note_without_{name}", note(head, [line for number, line in enumerate(lines) if number != at])
        yield (
            f"note_{name}_changed",
            note(head, [changed(line, -1) if number == at else line for number, line in enumerate(lines)]),
        )
        yield (
            f"note_{name}_of_another_key",
            note(head, [changed(line, 0) if number == at else line for number, line in enumerate(lines)]),
        )
        yield f"note_{name}_twice", note(head, [*lines, lines[at]])
    yield "note_with_a_wrong_dash", note(head, [lines[0].replace("—", "-"), *lines[1:]])
    yield "note_signature_of_loose_base64", note(head, [lines[0].replace(" ", "  "), *lines[1:]])
    name, encoded = lines[0].rsplit(" ", 1)
    raw = base64.b64decode(encoded)
    der = raw[4:]
    first = der[3]
    for kind, wrong in {
        _LONG_LENGTH: der[:1] + b"\x81" + der[1:],
        _PADDED: b"\x30" + bytes([der[1] + 1]) + b"\x02" + bytes([first + 1]) + b"\0" + der[4:],
        "byte_behind": der + b"\0",
    }.items():
        yield f"note_signature_{kind}", note(head, [f"{name} {base64.b64encode(raw[:4] + wrong).decode()}", *lines[1:]])
    seal = base64.b64decode(lines[1].rsplit(" ", 1)[1])
    start = 4 + len(b"ztrooted.tpm-quote/v1\n")
    for part, at in {"type": 5, "size": start + 1, "magic": start + 2, "kind": start + 7, "nonce": start + 46}.items():
        wrong = bytearray(seal)
        wrong[at] ^= 1
        yield (
            f"seal_{part}_changed",
            note(head, [lines[0], lines[1].rsplit(" ", 1)[0] + " " + base64.b64encode(wrong).decode(), *lines[2:]]),
        )
    yield (
        "seal_with_a_byte_more",
        note(head, [lines[0], lines[1].rsplit(" ", 1)[0] + " " + base64.b64encode(seal + b"\0").decode(), *lines[2:]]),
    )
    for number, line in enumerate(lines[2:], 2):  # of an anchor: what the counter was
        others = [*lines[:number], *lines[number + 1 :]]
        yield f"line_{number}_changed", note(head, [*others, changed(line, -1)])
        yield f"line_{number}_with_another_value", note(head, [*others, changed(line, 150)])
        yield f"line_{number}_twice", note(head, [*lines, line])
        yield f"line_{number}_missing", note(head, others)
    then = older["checkpoint"].partition("\n\n")[2].split("\n")[:-1]
    yield "seal_of_an_older_checkpoint", note(head, [lines[0], then[1], *lines[2:]])
    yield "an_older_checkpoint", [{"op": "replace", "path": ["checkpoint"], "value": older["checkpoint"]}]


def _inclusion(value: Any) -> Iterator[Tear]:
    path = ["records", 2]
    proof, record, index = (value["records"][2][name] for name in ("proof", "record", "index"))
    turned = f"{int(proof[0][0], 16) ^ 1:x}" + proof[0][1:]
    yield "hash_changed", [{"op": "replace", "path": [*path, "proof", 0], "value": turned}]
    yield "hash_missing", [{"op": "remove", "path": [*path, "proof", 0]}]
    yield "hash_too_many", [{"op": "add", "path": [*path, "proof", 0], "value": proof[0]}]
    yield "hash_too_short", [{"op": "replace", "path": [*path, "proof", 0], "value": proof[0][:-2]}]
    yield (
        "proof_of_another_record",
        [{"op": "replace", "path": [*path, "proof"], "value": value["records"][1]["proof"]}],
    )
    yield (
        "record_at_another_index",
        [{"op": "replace", "path": ["records", len(value["records"]) - 1, "index"], "value": index + 1000}],
    )
    at = record.index('"at":') + 5
    digit = "1" if record[at + 12] != "1" else "2"
    yield "record_changed", [{"op": "splice", "path": [*path, "record"], "at": at + 12, "remove": 1, "insert": digit}]
    yield "record_missing", [{"op": "remove", "path": ["records", 0]}]
    yield "story_without_its_end", [{"op": "remove", "path": ["records", len(value["records"]) - 1]}]
    yield (
        "no_records",
        [
            {"op": "replace", "path": ["records"], "value": []},
            *(
                {"op": "remove", "path": ["blobs", digest]}
                for digest in value["blobs"]
                if digest not in (*value["artifacts"], *value["ima"])
            ),
        ],
    )


def _artifacts(value: Any) -> Iterator[Tear]:
    last = len(value["artifacts"]) - 1
    digest = value["artifacts"][last]
    token = base64.b64decode(value["blobs"][digest]).decode()
    header, payload, signature = token.split(".")

    def instead(made: str) -> list[Operation]:
        new = hashlib.sha256(made.encode()).hexdigest()
        return [
            {"op": "replace", "path": ["artifacts", last], "value": new},
            {"op": "remove", "path": ["blobs", digest]},
            {"op": "add", "path": ["blobs", new], "value": base64.b64encode(made.encode()).decode()},
        ]

    def encoded(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()

    known = json.loads(base64.urlsafe_b64decode(header + "=="))
    for name, changed in {
        "of_no_algorithm": {**known, "alg": "none"},
        "of_another_type": {**known, "typ": "JWT"},
        "with_a_critical_member": {**known, "crit": ["exp"]},
        "with_its_own_key": {**known, "jwk": {}},
        "of_an_unknown_key": {**known, "kid": "A" * 43},
        "of_no_key": {name: item for name, item in known.items() if name != "kid"},
    }.items():
        yield f"artifact_{name}", instead(f"{encoded(json.dumps(changed))}.{payload}.{signature}")
    twice = base64.urlsafe_b64decode(header + "==").decode().replace("{", '{"alg":"none",', 1)
    yield "artifact_with_two_algorithms", instead(f"{encoded(twice)}.{payload}.{signature}")
    flipped = signature[:-1] + ("A" if signature[-1] != "A" else "Q")
    yield "artifact_signature_changed", instead(f"{header}.{payload}.{flipped}")
    loose = signature[:-1] + chr(ord(signature[-1]) + 1)
    yield "artifact_signature_of_loose_base64", instead(f"{header}.{payload}.{loose}")
    yield "artifact_with_padding", instead(f"{header}.{payload}.{signature}==")
    yield "artifact_without_signature", instead(f"{header}.{payload}.")
    yield "artifact_in_four_parts", instead(f"{token}.{signature}")
    yield "artifact_payload_changed", instead(f"{header}.{payload[:-4]}AAAA.{signature}")
    yield (
        "artifacts_in_another_order",
        [
            {"op": "replace", "path": ["artifacts"], "value": value["artifacts"][::-1]},
        ],
    )
    yield (
        "artifact_missing",
        [{"op": "remove", "path": ["artifacts", last]}, {"op": "remove", "path": ["blobs", digest]}],
    )
    yield "artifact_twice", [{"op": "add", "path": ["artifacts", last], "value": digest}]
