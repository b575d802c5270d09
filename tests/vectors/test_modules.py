"""The second verifier's parts on their own: what bundles of today don't hold yet, and what other people published."""

import base64
import json
import random
import zlib
from typing import Any

import pytest

from tests.support import corpus, seals
from tests.support.notes import NoteSigner
from tests.vectors.node import called
from ztrooted import merkle
from ztrooted.note import format_note, parse_note, verify_note
from ztrooted.note_keys import SignatureType, note_key


def _tree(size: int) -> tuple[list[bytes], dict[tuple[int, int], bytes]]:
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    tree, nodes = merkle.Tree(), {}
    for leaf in leaves:
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}
    return leaves, nodes


def test_proofs_between_all_small_trees_are_what_python_says() -> None:
    """Each proof that holds, and each with a hash changed, missing or too many, a size or a root that is another's."""
    size = 12
    leaves, nodes = _tree(size)
    roots = [merkle.root(leaves[:number]) for number in range(size + 1)]
    calls: list[tuple[str, list[Any]]] = []
    good: list[bool] = []
    for new in range(1, size + 1):
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(old, new, lambda level, at: nodes[level, at])
            variants = [(old, new, roots[old], roots[new], proof)]
            variants += [(old, new, roots[old], roots[new], proof[:at] + proof[at + 1 :]) for at in range(len(proof))]
            variants += [
                (old, new, roots[old], roots[new], [*proof[:at], roots[0], *proof[at + 1 :]])
                for at in range(len(proof))
            ]
            variants += [
                (old, new, roots[old], roots[new], [*proof, roots[1]]),
                (old, new, roots[old], roots[new - 1], proof),
            ]
            variants += [(old - 1, new, roots[old], roots[new], proof), (old, new, roots[old - 1], roots[new], proof)]
            for one in variants:
                calls.append(("verifyConsistency", [one[0], one[1], one[2], one[3], one[4]]))
                good.append(_holds(merkle.verify_consistency, *one))
        for index in range(new):
            path = merkle.inclusion_proof(new, index, lambda level, at: nodes[level, at])
            for other in (path, path[::-1], path[1:], [*path, roots[1]]):
                for at in {index, new - 1, 0}:
                    calls.append(("verifyInclusion", [leaves[index], at, new, other, roots[new]]))
                    good.append(_holds(merkle.verify_inclusion, leaves[index], at, new, other, roots[new]))
    answers = called("merkle.js", calls)
    assert [("value" in answer) for answer in answers] == good
    assert {answer.get("reason", "lineage.proof_invalid") for answer in answers} == {"lineage.proof_invalid"}
    assert 100 < sum(good) < len(good) - 100


def _holds(verify: Any, *arguments: Any) -> bool:
    try:
        verify(*arguments)
    except merkle.ProofError:
        return False
    return True


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_published_tree_proofs(kind: str) -> None:
    """transparency-dev's test data: no wrong verdict."""
    calls, wanted = [], []
    for file in sorted((corpus.folder("lineage") / "merkle" / kind).rglob("*.json")):
        one = json.loads(file.read_text())
        data = {
            name: base64.b64decode(one[name] or "") for name in one if name in {"root", "root1", "root2", "leafHash"}
        }
        proof = [base64.b64decode(item) for item in one["proof"] or []]
        if kind == "inclusion":
            calls.append(("verifyInclusion", [data["leafHash"], one["leafIdx"], one["treeSize"], proof, data["root"]]))
        else:
            calls.append(("verifyConsistency", [one["size1"], one["size2"], data["root1"], data["root2"], proof]))
        wanted.append(not one["wantErr"])
    assert len(calls) > 50
    found = ["value" in answer for answer in called("merkle.js", calls)]
    # A proof from the empty tree proves nothing, and is refused here as in Python.
    differing = [call for call, got, want in zip(calls, found, wanted, strict=True) if got is not want]
    assert all(kind == "consistency" and call[1][0] == 0 for call in differing)


KINDS = [SignatureType.ED25519, SignatureType.ECDSA, SignatureType.ED25519_COSIGNATURE]


def _key_then_note(signer: NoteSigner, note: bytes) -> list[tuple[str, list[Any]]]:
    return [("parseVerifierKey", [signer.key.vkey]), ("parseNote", [note.decode()])]


@pytest.mark.parametrize("kind", KINDS)
def test_signatures_of_notes_by_each_type_of_key(kind: SignatureType) -> None:
    signer = NoteSigner.of("signer.test/1", kind)
    note = format_note(seals.CHECKPOINT.text, [signer.sign(seals.CHECKPOINT.text)])
    key, parsed = (answer["value"] for answer in called("note.js", _key_then_note(signer, note)))
    assert (key["name"], key["id"], key["type"]) == (signer.key.name, f"{signer.key.key_id:08x}", int(kind))
    (line,) = parsed["lines"]
    value, text = bytes.fromhex(line["value"]), parsed["text"]
    variants = [
        (text, value),
        (text + "x", value),
        (text, value[:-1] + bytes([value[-1] ^ 1])),
        (text, value[:-1]),
        (text, value + b"\0"),
    ]
    script = [("checkWith", [signer.key.vkey, one, two]) for one, two in variants]
    answers = called_with_key(script)
    assert ["value" in answer for answer in answers] == [True, False, False, False, False], answers
    assert {answer["reason"] for answer in answers[1:]} == {"note.signature"}
    found = verify_note(parse_note(note), [signer.key]).signed_by[0].timestamp
    assert answers[0]["value"] == (None if found is None else str(found))


def called_with_key(calls: list[tuple[str, list[Any]]]) -> list[Any]:
    return called("note.js", [("checkVerifierKeySignature", arguments) for _, arguments in calls])


def test_post_quantum_signatures_are_not_checked() -> None:
    signer = NoteSigner.of("signer.test/1", SignatureType.ML_DSA_44_COSIGNATURE)
    line = signer.sign(seals.CHECKPOINT.text)
    (answer,) = called_with_key([("", [signer.key.vkey, seals.CHECKPOINT.text.decode(), line.value])])
    assert answer["reason"] == "NotChecked"


def test_a_key_whose_id_is_not_its_own_is_refused() -> None:
    good = NoteSigner.of("signer.test/1", SignatureType.ECDSA).key
    other = note_key("signer.test/2", SignatureType.ED25519, bytes(range(32)))
    name, _, encoded = other.vkey.split("+")
    texts = [f"{name}+00000000+{encoded}", good.vkey[:-1], good.vkey.replace("+", "", 1), "", good.vkey + " "]
    assert {answer["reason"] for answer in called("note.js", [("parseVerifierKey", [text]) for text in texts])} == {
        "note.key"
    }


AMBIGUOUS = [
    '{"a":1,"a":2}',
    "[1.0]",
    "[1e1]",
    "[01]",
    "[9007199254740992]",
    '["\\ud800"]',
    '["\x01"]',
    "[1,]",
    "{}x",
    "\ufeff{}",
    "",
    "NaN",
    "[" * 33 + "]" * 33,
    '{"a":1,"\\u0061":2}',
    "['a']",
    '["\\x41"]',
    "[-]",
    "tru",
    '"a',
    '{"a"}',
    "[+1]",
]


def test_ambiguous_json_is_refused() -> None:
    answers = called("json.js", [("parseJson", [text.encode(), "jws.json", 1000]) for text in AMBIGUOUS])
    for text, answer in zip(AMBIGUOUS, answers, strict=True):
        assert answer.get("reason") == "jws.json", text


def test_json_and_its_canonical_form_are_those_of_python() -> None:
    from ztrooted import canonical  # noqa: PLC0415

    chosen = random.Random(7)  # noqa: S311
    values = [_value(chosen, 4) for _ in range(200)]
    texts = [canonical.encode(value) for value in values]
    assert [
        answer["value"] for answer in called("json.js", [("parseCanonical", [text, "x", 1 << 20]) for text in texts])
    ] == values
    loose = [json.dumps(value).encode() for value in values]
    for value, text, answer in zip(
        values, loose, called("json.js", [("parseCanonical", [text, "x", 1 << 20]) for text in loose]), strict=True
    ):
        assert ("value" in answer) is (text == canonical.encode(value)), text


def _value(chosen: random.Random, depth: int) -> Any:
    match chosen.randrange(7 if depth else 5):
        case 0:
            return chosen.randrange(-(1 << 53) + 1, 1 << 53)
        case 1:
            return chosen.choice([None, True, False])
        case 2 | 3 | 4:
            return "".join(
                chosen.choice(['"', "\\", "\n", "\x01", "\x7f", "é", "\u2028", "🐍", "a", "/"])
                for _ in range(chosen.randrange(6))
            )
        case 5:
            return [_value(chosen, depth - 1) for _ in range(chosen.randrange(4))]
        case _:
            return {chosen.choice("abcXYZ09"): _value(chosen, depth - 1) for _ in range(chosen.randrange(4))}


def test_base64_has_one_form() -> None:
    chosen = random.Random(3)  # noqa: S311
    raw = [chosen.randbytes(size) for size in range(40)]
    good = [base64.b64encode(data).decode() for data in raw]
    assert [answer["value"] for answer in called("bytes.js", [("fromBase64", [text, "x"]) for text in good])] == [
        data.hex() for data in raw
    ]
    wrong = ["QQ", "QQ=", "QR==", "QUI", "QUJ=", "Q\nQ=", "QUJD\n", "====", "Q===", "QQ==QQ==", "-_-_", "é==="]
    assert {answer["reason"] for answer in called("bytes.js", [("fromBase64", [text, "x"]) for text in wrong])} == {"x"}
    url = ["QQ==", "QR", "Q", "+/+/", "QUI=", "QUK"]
    assert {answer["reason"] for answer in called("bytes.js", [("fromBase64Url", [text, "x"]) for text in url])} == {
        "x"
    }


DER = [
    "3006020101020101",
    "30080202008102020081",
    "3006020181020101",
    "300702020001020101",
    "308106020101020101",
    "300602010102010100",
    "30060201010201",
    "3006030101020101",
    "300402000200",
    "3005020101020101",
    "",
    "3006020101020180",
]


def test_der_is_read_in_its_one_form() -> None:
    answers = called("signatures.js", [("fromDer", [bytes.fromhex(der), 32]) for der in DER])
    sound = {"3006020101020101", "30080202008102020081"}
    assert {der for der, answer in zip(DER, answers, strict=True) if answer["value"] is not None} == sound


def test_deflate_is_that_of_zlib_and_ends_where_it_ends() -> None:
    """Of every kind of block and level; cut, lengthened or changed it is refused wherever zlib refuses it."""
    chosen = random.Random(11)  # noqa: S311
    texts = [b"", b"a", bytes(70_000), chosen.randbytes(3000), json.dumps(_value(chosen, 4)).encode() * 50]
    texts.append(b"".join(b"%d " % number for number in range(3000)))
    packed: list[bytes] = []
    for text in texts:
        for level, strategy in [(0, 0), (1, 0), (9, 0), (6, zlib.Z_FIXED), (6, zlib.Z_HUFFMAN_ONLY), (6, zlib.Z_RLE)]:
            deflate = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
            packed.append(deflate.compress(text) + deflate.flush())
    good = len(packed)
    for data in packed[:good]:
        packed += [data[:-1], data + b"\0"]
        for _ in range(6):
            wrong = bytearray(data)
            wrong[chosen.randrange(min(len(data), 200))] ^= 1 << chosen.randrange(8)
            packed.append(bytes(wrong))
    answers = called("inflate.js", [("inflate", [data, 1 << 20, "bundle.malformed"]) for data in packed])
    wanted = [_inflated(data, 1 << 20) for data in packed]
    assert [answer.get("value") for answer in answers] == wanted
    assert all(value is not None for value in wanted[:good])
    assert sum(value is None for value in wanted) > 100


def _inflated(data: bytes, maximum: int) -> str | None:
    inflate = zlib.decompressobj(-15)
    try:
        found = inflate.decompress(data, maximum + 1)
    except zlib.error:
        return None
    return found.hex() if inflate.eof and not inflate.unused_data and len(found) <= maximum else None


def test_deflate_is_bounded() -> None:
    bomb = zlib.compress(bytes(2 << 20), 9)[2:-4]
    (answer,) = called("inflate.js", [("inflate", [bomb, 1 << 20, "bundle.malformed"])])
    assert answer["reason"] == "bundle.too_large"
