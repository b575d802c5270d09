"""Cases for the parts that judge signed notes, seals and trees; see ``tests.vectors.parts``."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support import seals
from tests.support.notes import NoteSigner
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint
from ztrooted.note import Signature, format_note
from ztrooted.note_keys import SignatureType, note_key

Made = Iterator[tuple[str, str, dict[str, Any]]]


def _key(name: str, kind: SignatureType) -> str:
    return NoteSigner.of(name, kind).key.vkey


def _vkey(kind: int, material: bytes) -> str:
    """A verifier key of any kind with the id that it has."""
    head = b"" if kind == SignatureType.ECDSA else b"some.test\n" + bytes([kind])
    identifier = hashlib.sha256(head + material).hexdigest()[:8]
    return f"some.test+{identifier}+{base64.b64encode(bytes([kind]) + material).decode()}"


def notes() -> Made:
    """Verifier keys, notes, checkpoints and seals."""
    good, other = seals.LOG.key.vkey, NoteSigner.of("other.test", SignatureType.ED25519)
    name, identifier, encoded = good.split("+", 2)
    for title, text in {
        "of type 0x02": good,
        "of type 0x01": other.key.vkey,
        "of type 0x04": _key("w", SignatureType.ED25519_COSIGNATURE),
        "of no text": "",
        "of another id": f"{name}+00000000+{encoded}",
        "with a plus less": good.replace("+", "", 1),
        "with a space in its name": good.replace("log.test", "log test"),
        "in capitals": f"{name}+{identifier.upper()}X+{encoded}",
        "of no letters": f"{name}+{identifier}+====",
        "of type 0x63": f"{name}+{identifier}+" + base64.b64encode(b"\x63" + bytes(32)).decode(),
        "of 31 bytes": _vkey(1, bytes(31)),
        "of type 0x63 with its id": _vkey(0x63, bytes(32)),
        "of no bytes": _vkey(1, b""),
        "of another curve's head": _vkey(2, seals.LOG.key.material[:10] + b"\x01" + seals.LOG.key.material[11:]),
        "of no P-256 key": f"{name}+{identifier}+" + base64.b64encode(b"\x02" + bytes(91)).decode(),
        "off its curve": f"{name}+{identifier}+"
        + base64.b64encode(b"\x02" + seals.LOG.key.material[:-1] + b"\0").decode(),
        "with a name too long": note_key("n" * 255, SignatureType.ED25519, bytes(32)).vkey.replace("n", "nn", 1),
    }.items():
        yield "verifier_key", title, {"text": text}
    text = seals.CHECKPOINT.text
    line, second = seals.LOG.sign(text).line(), other.sign(text).line()
    head = text.decode() + "\n"
    keys = [good, other.key.vkey]
    many = "".join(f"— n{number} AAAAAAA=\n" for number in range(100))
    yield "note", "over 512 KiB", {"text": {"pieces": [["x", 1 << 19], ["\n\n" + line, 1]]}, "keys": keys}
    for title, note, known in (
        ("as it is", head + line, keys),
        ("by two", head + line + second, keys),
        ("by nobody who is known", head + second, [good]),
        ("with 100 lines", head + many[: many.index("\n") + 1] * 99 + line, keys),
        ("with 101 lines", head + many + line, keys),
        ("with no signature in a line", head + "— n AAAAAA==\n" + line, keys),
        ("without an end", (head + line)[:-1], keys),
        ("without lines", head, keys),
        ("without an empty line", text.decode() + line, keys),
        ("with one key twice", head + line, [good, good]),
        ("with a tab", head.replace("\n", "\t\n", 1) + line, keys),
        ("with a dash that is none", head + line.replace("—", "-"), keys),
        ("with loose base64", head + line.replace("=\n", "\n") if "=\n" in line else head + line[:-1] + "=\n", keys),
        ("with a name with a plus", head + line.replace("log.test", "log+test"), keys),
    ):
        yield "note", title, {"text": note, "keys": known}
    yield from _cosigned()
    yield from _signatures()


def _cosigned() -> Made:
    text = seals.CHECKPOINT.text
    witness = NoteSigner.of("witness.test/1", SignatureType.ED25519_COSIGNATURE)
    head, good = text.decode() + "\n", witness.sign(text)
    for title, value in {
        "as it is": good.value,
        "without its last byte": good.value[:-1],
        "with a byte more": good.value + b"\0",
        "of another time": bytes([0, *good.value[1:7], good.value[7] ^ 1]) + good.value[8:],
        "of a time of 64 bits": b"\xff" + good.value[1:],
        "of a time of 64 bits, signed": witness.sign(text, 1 << 63).value,
        "of no time": good.value[:7],
        "of another text": witness.sign(text + b"x\n").value,
    }.items():
        line = Signature(good.name, good.key_id, value).line()
        yield "note", f"cosigned, {title}", {"text": head + line, "keys": [witness.key.vkey]}
    log, one, same = (
        seals.LOG.key.vkey,
        witness.key.vkey,
        note_key("witness.test/2", witness.key.type, witness.key.material).vkey,
    )
    both = head + seals.LOG.sign(text).line() + good.line()
    third = note_key("witness.test/1", witness.key.type, bytes(range(32))).vkey
    for title, note, witnesses, quorum, origin in (
        ("as it is", both, [one], 1, seals.ORIGIN),
        ("without its witness", head + seals.LOG.sign(text).line(), [one], 1, seals.ORIGIN),
        ("of another log", both, [one], 1, "other.test/lineage"),
        ("without its log", head + good.line(), [one], 1, seals.ORIGIN),
        ("with a quorum of more", both, [one], 2, seals.ORIGIN),
        ("with a witness twice", both, [one, one], 1, seals.ORIGIN),
        ("with a witness under two names", both, [one, same], 1, seals.ORIGIN),
        ("with a name of two witnesses", both, [one, third], 1, seals.ORIGIN),
        ("with a log as its witness", both, [log], 1, seals.ORIGIN),
        (
            "with 65 witnesses",
            both,
            [note_key(f"w{n}", witness.key.type, bytes([n]) * 32).vkey for n in range(65)],
            0,
            seals.ORIGIN,
        ),
    ):
        given = {"note": note, "origin": origin, "log_key": log, "witnesses": witnesses, "quorum": quorum}
        yield "checkpoint", title, given
    yield from _with_another_key()
    root = base64.b64encode(merkle.EMPTY_ROOT).decode()
    for title, body in {
        "of an empty log": f"{seals.ORIGIN}\n0\n{root}\n",
        "of an empty log with another root": f"{seals.ORIGIN}\n0\n{base64.b64encode(bytes(32)).decode()}\n",
        "of a size with a zero": f"{seals.ORIGIN}\n07\n{root}\n",
        "of a short root": f"{seals.ORIGIN}\n7\nAAAA\n",
        "with a fourth line": f"{seals.ORIGIN}\n7\n{root}\nmore\n",
        "of a name with a space": f"a b\n7\n{root}\n",
    }.items():
        signed = format_note(body.encode(), [seals.LOG.sign(body.encode())]).decode()
        yield "checkpoint", title, {"note": signed, "origin": seals.ORIGIN, "log_key": log}


def _with_another_key() -> Made:
    """Checkpoints of a log that has an Ed25519 key, too."""
    text, origin, log = seals.CHECKPOINT.text, seals.ORIGIN, seals.LOG.key.vkey
    beside = NoteSigner.of(origin, SignatureType.ED25519)
    assert isinstance(beside.private, Ed25519PrivateKey)
    witness = NoteSigner.of("witness.test/1", SignatureType.ED25519_COSIGNATURE, beside.private)
    forged = Signature(origin, beside.key.key_id, bytes(64))
    head, ours = text.decode() + "\n", seals.LOG.sign(text).line()
    for title, lines, witnesses in (
        ("by both of its keys", ours + beside.sign(text).line(), []),
        ("by the key in its TPM alone", ours, []),
        ("by the other key alone", beside.sign(text).line(), []),
        ("with a forged line of the other key", ours + forged.line(), []),
        ("with the other key as its witness", ours + witness.sign(text).line(), [witness.key.vkey]),
    ):
        given = {"note": head + lines, "origin": origin, "log_key": log, "additional": beside.key.vkey}
        yield "checkpoint", title, given | {"witnesses": witnesses, "quorum": len(witnesses)}


def _signatures() -> Made:
    """ECDSA signatures in DER, and in what is almost DER."""
    text, key = seals.CHECKPOINT.text, seals.LOG.key
    while (der := seals.LOG.sign(text).value)[3] != 33 or len(der) != 71:  # the first with a leading zero
        continue
    negative = b"\x30\x44\x02\x20" + der[5:]
    while len(der := seals.LOG.sign(text).value) != 70:  # both numbers without a leading zero
        continue
    r, s = der[4:36], der[38:70]
    for title, value in {
        "r below nought": b"\x30\x44\x02\x20\x80" + r[1:] + b"\x02\x20" + s,
        "no r": b"\x30\x24\x02\x00\x02\x20" + s,
        "r of 33 bytes": b"\x30\x45\x02\x21\x01" + r + b"\x02\x20" + s,
        "r that is no number": b"\x30\x44\x04\x20" + r + b"\x02\x20" + s,
        "r past the end": b"\x30\x44\x02\x60" + r + b"\x02\x20" + s,
        "no sequence": b"\x31" + der[1:],
        "a length of another": b"\x30\x45" + der[2:],
        "too short": b"\x30\x04\x02\x01\x01\x02",
        "s with a byte behind": b"\x30\x45" + der[2:] + b"\0",
        "r with a needless zero": b"\x30\x45\x02\x21\0" + r + b"\x02\x20" + s,
        "r without its zero": negative,
        "both nought": b"\x30\x06\x02\x01\0\x02\x01\0",
        "as it is": der,
    }.items():
        line = Signature(key.name, key.key_id, value).line()
        yield "note", f"signed with {title}", {"text": text.decode() + "\n" + line, "keys": [key.vkey]}


def trees() -> Made:
    """Proofs of inclusion and consistency."""
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(7)]
    tree, nodes = merkle.Tree(), {}
    for leaf in leaves:
        nodes |= {(node.level, node.index): node.hash for node in tree.append(leaf)}

    def read(level: int, at: int) -> bytes:
        return nodes[level, at]

    root = merkle.root(leaves)
    path = merkle.inclusion_proof(7, 2, read)
    for title, index, size, proof in (
        ("as it is", 2, 7, path),
        ("at the end", 6, 7, merkle.inclusion_proof(7, 6, read)),
        ("of no leaf", 7, 7, path),
        ("below nought", -1, 7, path),
        ("with a hash more", 2, 7, [*path, root]),
        ("with a hash less", 2, 7, path[:-1]),
        ("with a hash of 31 bytes", 2, 7, [path[0][:-1], *path[1:]]),
        ("with another hash", 2, 7, [root, *path[1:]]),
        ("with 129 hashes", 2, 7, path * 43),
        ("in a tree of one", 0, 1, [root]),
    ):
        given = {"leaf": leaves[index].hex() if 0 <= index < 7 else root.hex(), "index": index, "size": size}
        yield "inclusion", title, {**given, "proof": [one.hex() for one in proof], "root": root.hex()}
    above, short = merkle.node_hash(root, leaves[0]), root[:-1]
    cut = hashlib.sha256(b"\1" + leaves[0] + short)
    for title, index, size, proof, end in (
        ("with a hash more that leads to the root", 0, 1, [root], above),
        ("with no hash and the leaf as root", 0, 2, [], leaves[0]),
        ("of a leaf outside that is the root", 1, 1, [], leaves[0]),
        ("with a short hash that leads to the root", 0, 2, [short], cut.digest()),
    ):
        given = {"leaf": leaves[0].hex(), "index": index, "size": size, "proof": [one.hex() for one in proof]}
        yield "inclusion", title, {**given, "root": end.hex()}
    yield (
        "inclusion",
        "in a tree of its own",
        {"leaf": root.hex(), "index": 0, "size": 1, "proof": [], "root": root.hex()},
    )
    yield (
        "inclusion",
        "in a tree of one with a hash",
        {"leaf": root.hex(), "index": 0, "size": 1, "proof": [root.hex()], "root": root.hex()},
    )
    roots = [merkle.root(leaves[:number]) for number in range(8)]
    for old in (3, 4, 6):
        way = merkle.consistency_proof(old, 7, read)
        for title, proof in (
            ("as it is", way),
            ("with a hash more", [*way, root]),
            ("with a hash less", way[:-1]),
            ("with another first hash", [root, *way[1:]]),
            ("with another last hash", [*way[:-1], root]),
            ("with no hash", []),
            ("with a hash of 31 bytes", [*way[:-1], way[-1][:-1]]),
            ("with 129 hashes", way * 50),
        ):
            yield "consistency", f"{old} to 7, {title}", _consistency(old, 7, roots[old], root, proof)
        yield "consistency", f"{old} to 7, another older root", _consistency(old, 7, roots[2], root, way)
        yield "consistency", f"{old} to 7, another newer root", _consistency(old, 7, roots[old], roots[2], way)
    a, b, c, d = leaves[:4]
    inner, outer = merkle.node_hash(c, a), merkle.node_hash(c, merkle.node_hash(a, b))
    more = [merkle.node_hash(d, inner), merkle.node_hash(d, outer)]
    yield "consistency", "3 to 4, with a hash more that leads to both", _consistency(3, 4, *more, [a, b, c, d])
    yield (
        "consistency",
        "3 to 4, with a hash less that leads to both",
        _consistency(3, 4, a, merkle.node_hash(a, b), [a, b]),
    )
    yield "consistency", "0 to 2, leading to both", _consistency(0, 2, a, merkle.node_hash(a, b), [a, b])
    yield "consistency", "7 to 7", _consistency(7, 7, root, root, [])
    yield "consistency", "7 to 7, with a hash", _consistency(7, 7, root, root, [root])
    yield "consistency", "7 to 7, another root", _consistency(7, 7, root, roots[6], [])
    yield "consistency", "7 to 6", _consistency(7, 6, root, roots[6], [root])
    yield "consistency", "0 to 7", _consistency(0, 7, merkle.EMPTY_ROOT, root, [])


def _consistency(old: int, new: int, before: bytes, after: bytes, proof: list[bytes]) -> dict[str, Any]:
    roots = {"old_root": before.hex(), "new_root": after.hex(), "proof": [one.hex() for one in proof]}
    return {"old_size": old, "new_size": new, **roots}


def sealed() -> Made:
    """Seals."""
    now = {bank: {str(at): value.hex() for at, value in values.items()} for bank, values in seals.VALUES.items()}
    other = {bank: dict.fromkeys(values, "ab" * 32) for bank, values in now.items()}
    size = seals.CHECKPOINT.size
    line = seals.seal()
    base = {"origin": seals.ORIGIN, "log_key": seals.LOG.key.vkey, "ak": seals.AK.public.marshal().hex()}

    def note(*lines: Signature, checkpoint: Checkpoint = seals.CHECKPOINT) -> str:
        return seals.note(*lines, checkpoint=checkpoint).decode()

    def with_value(value: bytes) -> str:
        return note(Signature(line.name, line.key_id, value))

    for title, text, pcrs, former in (
        ("as it is", note(line), now, {}),
        ("of no seal", note(), now, {}),
        ("of two seals", note(line, seals.seal()), now, {}),
        ("of another state", note(line), other, {}),
        ("of a former state", note(line), other, {str(size): now}),
        ("of a former state that was over", note(line), other, {str(size - 1): now}),
        ("of neither state", note(line), other, {str(size): other}),
        ("of the second of three", note(line), other, {"3": other, str(size): now, "99": other}),
        ("without its type", with_value(b"x" + line.value[1:]), now, {}),
        ("cut short", with_value(line.value[:30]), now, {}),
        ("with a value less", with_value(line.value[:-1]), now, {}),
        ("with a byte more", with_value(line.value + b"\0"), now, {}),
        ("over another text", note(seals.seal(extra_data=bytes(32))), now, {}),
        ("of more PCRs than asked for", note(line), {"sha256": {at: now["sha256"][at] for at in ("0", "1")}}, {}),
    ):
        yield "seal", title, {**base, "note": text, "pcrs": pcrs, "former": former}
