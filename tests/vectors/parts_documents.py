"""Cases for the parts that read documents; see ``tests.vectors.parts``."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.notes import NoteSigner
from tests.vectors.parts import DATA
from ztrooted import canonical
from ztrooted.bundle import pack
from ztrooted.note_keys import SignatureType

Made = Iterator[tuple[str, str, dict[str, Any]]]

JSON = {
    "nothing": b"",
    "an object": b'{"a":[1,-1,true,false,null,"x"]}',
    "a word cut short": b"tru",
    "no comma": b"[1 2]",
    "a name that is no string": b"{1:2}",
    "no colon": b'{"a" 1}',
    "a string that does not end": b'["a',
    "a control character": b'["\x01"]',
    "half a surrogate pair": b'["\\ud800"]',
    "a bad escape": b'["\\u00g0"]',
    "an unknown escape": b'["\\x"]',
    "an escape cut short": b'["\\',
    "two texts": b"[][]",
    "nested as deep as may be": b"[" * 32 + b"]" * 32,
    "nested too deep": b"[" * 33 + b"]" * 33,
    "a member twice": b'{"a":1,"a":1}',
    "members out of order": b'{"b":1,"a":1}',
    "a name that is not ASCII": '{"é":1}'.encode(),
    "text that is not ASCII": '["é😀"]'.encode(),
    "no UTF-8": b'["\xff"]',
    "the largest integer": b"[9007199254740991]",
    "an integer of 54 bits": b"[9007199254740992]",
    "minus zero": b"[-0]",
    "an integer of 17 digits": b"[10000000000000000]",
    "a needless escape": b'["\\u0061"]',
    "an escape in capitals": b'["\\u001F"]',
    "the shortest escapes": b'["\\b\\f\\n\\r\\t\\u001f\\"\\\\"]',
    "space before it": b" []",
    "space in it": b"[1, 2]",
    "a fraction": b"[1.5]",
    "a leading zero": b"[01]",
    "only a sign": b"[-]",
}


def documents() -> Made:
    """JSON, records, bundles and anchors."""
    for name, data in JSON.items():
        yield "json", name, {"data": data.hex()}
        if name not in ("a fraction", "only a sign"):
            yield "strict_json", name, {"data": data.hex()}
    long = {"pieces": [["5b22", 1], ["61", 1 << 20], ["225d", 1]]}
    yield "json", "over a megabyte", {"data": long}
    yield "strict_json", "over a megabyte", {"data": long}
    yield from _records()
    yield from _bundles()
    yield from _anchors()


def _records() -> Made:
    record = {"v": 1, "type": "gateway.resealed", "at": 1, "authorization": None, "prev": None, "body": {}}
    link = {"index": 0, "leaf": "ab" * 32}
    for name, changes in {
        "as it is": {},
        "with a link": {"authorization": "a", "prev": link},
        "of another version": {"v": 2},
        "of an unknown type": {"type": "gateway.rested"},
        "of no time": {"at": -1},
        "of no text": {"authorization": 1},
        "with a list": {"body": []},
        "with a member more": {"w": 1},
        "with a number as its type": {"type": 1},
        "with a link of another form": {"prev": {"index": 0}},
        "with a link to nothing": {"prev": {**link, "index": -1}},
        "with a leaf too short": {"prev": {**link, "leaf": "ab" * 31}},
        "with a leaf in capitals": {"prev": {**link, "leaf": "AB" * 32}},
        "with a leaf that is a number": {"prev": {**link, "leaf": 5}},
        "with a flag as its version": {"v": True},
    }.items():
        yield "record", name, {"text": canonical.encode(record | changes).decode()}
    text = canonical.encode(record | {"body": {"a": "x"}}).decode()
    for title, size in (("of 65,535 bytes", 0xFFFF), ("of 65,536 bytes", 0x10000)):
        pieces = [[text.split("x")[0], 1], ["x", size - len(text) + 1], [text.split("x")[1], 1]]
        yield "record", title, {"text": {"pieces": pieces}}
    yield "record", "a list", {"text": "[]"}
    yield "record", "with a space", {"text": json.dumps(record)}


def _deflated(data: bytes, level: int = 9, strategy: int = 0) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return deflate.compress(data) + deflate.flush()


def _bits(text: str) -> bytes:
    """Bits in the order in which deflate reads them, spaces apart."""
    found = text.replace(" ", "")
    found += "0" * (-len(found) % 8)
    return bytes(int(found[at : at + 8][::-1], 2) for at in range(0, len(found), 8))


def _number(value: int, bits: int) -> str:
    return format(value, f"0{bits}b")[::-1]


def _dynamic(literals: int, distances: int, lengths: dict[int, int], codes: str) -> bytes:
    """A block of type 2 whose code lengths have these lengths, and ``codes`` behind them."""
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    head = "1 01" + _number(literals - 257, 5) + _number(distances - 1, 5) + _number(19 - 4, 4)
    return _bits(head + "".join(_number(lengths.get(one, 0), 3) for one in order) + codes)


# With the lengths {0: 1, 18: 1}: "0" is a length of nought, "1" and seven bits are 11 and more of them.
_ZEROS = "1" + _number(127, 7)


DEFLATES = {
    "of no type": _bits("1 11"),
    "stored with another length": b"\1\5\0\0\0hello",
    "stored and cut short": b"\1\5\0\xfa\xffhel",
    "of a length that there is not": _bits("1 10 11000110 00000"),
    "of a distance that there is not": _bits("1 10 0000001 11110"),
    "of a distance before its beginning": _bits("1 10 0000001 00000"),
    "with 287 literals": _dynamic(287, 1, {0: 1, 18: 1}, _ZEROS * 3),
    "with 31 distances": _dynamic(257, 31, {0: 1, 18: 1}, _ZEROS * 3),
    "with a length again before any": _dynamic(257, 1, {0: 1, 16: 1}, "1" + "00"),
    "with more lengths than it said": _dynamic(257, 1, {0: 1, 18: 1}, _ZEROS * 2),
    "with no end of a block": _dynamic(257, 1, {0: 1, 18: 1}, _ZEROS + "1" + _number(120 - 11, 7)),
    "with too many codes": _dynamic(257, 1, {0: 1, 1: 1, 18: 1}, ""),
    "with too few codes": _dynamic(257, 1, {0: 2, 18: 2}, ""),
    "with a distance of no code": _dynamic(
        258, 1, {0: 2, 1: 2, 18: 1}, "0" + _number(127, 7) + "0" + _number(118 - 11, 7) + "0" * 0
    ),
    "that goes on": _deflated(b"[]") + b"\0",
}


def _bundles() -> Made:
    empty: dict[str, Any] = {
        "format": "ztrooted-bundle/1",
        "authorization": "a",
        "origin": "o",
        "checkpoint": "c",
        "records": [],
        "artifacts": [],
        "ima": [],
        "blobs": {},
    }
    entry = {"index": 0, "record": "r", "proof": []}
    digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    two = hashlib.sha256(b"fo").hexdigest()
    for name, changes in {
        "as it is": {},
        "of a list": {"artifacts": {}},
        "of a number": {"origin": 1},
        "of blobs in a list": {"blobs": []},
        "of a digest that is a number": {"ima": [1]},
        "of an index that is text": {"records": [{**entry, "index": "0"}]},
        "of an index below nought": {"records": [{**entry, "index": -1}]},
        "of a hash of one digit": {"records": [{**entry, "proof": ["a"]}]},
        "of two records in one place": {"records": [entry, entry]},
        "of a blob": {"ima": [digest], "blobs": {digest: "Zm9v"}},
        "of a blob with bits behind its end": {"ima": [two], "blobs": {two: "Zm9="}},
        "of a blob without its padding": {"ima": [digest], "blobs": {digest: "Zm8"}},
        "of a blob of other letters": {"ima": [two], "blobs": {two: "Zm8-"}},
        "of a blob that is a number": {"ima": [two], "blobs": {two: 1}},
    }.items():
        yield "bundle", name, {"data": canonical.encode(empty | changes).hex()}
    yield "bundle", "that is a list", {"data": b"[]".hex()}
    good = canonical.encode(empty)
    head, sums = pack(good)[:10], pack(good)[-8:]
    packings = {
        "best": (9, 0),
        "stored": (0, 0),
        "fixed": (6, zlib.Z_FIXED),
        "of literals alone": (6, zlib.Z_HUFFMAN_ONLY),
    }
    for name, (level, strategy) in packings.items():
        yield "bundle", f"packed, {name}", {"data": (head + _deflated(good, level, strategy) + sums).hex()}
    for name, deflate in DEFLATES.items():
        yield "deflate", name, {"data": deflate.hex(), "maximum": 1000}
    for name, (level, strategy) in packings.items():
        yield "deflate", name, {"data": _deflated(b"ab" * 500, level, strategy).hex(), "maximum": 1000}
        yield "deflate", f"{name}, too long", {"data": _deflated(b"ab" * 500, level, strategy).hex(), "maximum": 999}
        yield (
            "deflate",
            f"{name}, cut short",
            {"data": _deflated(b"ab" * 500, level, strategy)[:-1].hex(), "maximum": 1000},
        )
    for name, deflate in DEFLATES.items():
        yield "bundle", f"packed, {name}", {"data": (head + deflate + sums).hex()}
    yield "bundle", "packed, of nothing", {"data": (head + sums).hex()}
    yield "bundle", "packed, to more than there may be", {"data": (head + _deflated(b"\0" * 1000) + sums).hex()}


def _root() -> str:
    """The smallest root certificate that is one."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]),
    )
    times = datetime(2020, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, *times)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _anchors() -> Made:
    text = (DATA / "anchors-resealed.toml").read_text()
    roots = text[text.index("ek_roots") : text.index("'''\n", text.index("ek_roots") + 14) + 4]
    text = text.replace(roots, f"ek_roots = '''\n{_root()}'''\n")
    lines = {line.split(" = ")[0]: line + "\n" for line in text.splitlines() if " = " in line and "'" not in line}
    until = text.split("[former_gateway_pcrs.")[1].split(".")[0]
    former = text[text.index("[former_gateway_pcrs.") :]
    now = text[text.index("[gateway_pcrs") : text.index("[gateway_pcrs") + 400]
    named = next(line for line in now.splitlines() if line.startswith("4 = "))
    other = NoteSigner.of("gate.test/lineage", SignatureType.ED25519).key.vkey
    beside = NoteSigner.of("gate.test/lineage", SignatureType.ED25519_COSIGNATURE).key.vkey
    elsewhere = NoteSigner.of("other.test/lineage", SignatureType.ED25519).key.vkey
    changes = {
        "as they are": text,
        "with another key": f'additional_log_key = "{other}"\n' + text,
        "with another key of another log": f'additional_log_key = "{elsewhere}"\n' + text,
        "with another key of another type": f'additional_log_key = "{beside}"\n' + text,
        "with another key that is a list": f'additional_log_key = ["{other}"]\n' + text,
        "with another key that is none": 'additional_log_key = "x"\n' + text,
        "with a PCR with a zero before it": text.replace(named, "0" + named),
        "with comments": text.replace("ek_vendors", "# what follows\nek_vendors").replace('"\n', '" # behind it\n', 1),
        "no members": "",
        "of another format": text.replace("anchors/1", "anchors/2"),
        "with an unknown member": "unknown = 1\n" + text,
        "with a member twice": lines["approver"] + text,
        "without a member": text.replace(lines["gateway_ak"], ""),
        "of no text": text.replace(lines["trust_domain"], "trust_domain = 1\n"),
        "that don't end": text.replace("-----\n'''", "-----\n"),
        "with something behind a text": text.replace("-----\n'''", "-----\n''' 1"),
        "with a table twice": text + former[: former.index("\n") + 1],
        "of no sentence": "no sentence\n" + text,
        "with a table in a text": text + "[approver.sha256]\n",
        "with a float": "witness_quorum = 1.5\n" + text,
        "with a bank that there is not": text.replace("gateway_pcrs.sha256]", "gateway_pcrs.sha224]"),
        "with a PCR that there is not": text.replace(former, "").replace(named, named + f"\n24 {named[2:]}"),
        "with a bank that there is not, and no PCR": text + "[gateway_pcrs.sha224]\n",
        "with a value too short": text.replace(named, named[:-3] + '"'),
        "with a value in capitals": text.replace(named, named.upper()),
        "with PCRs that are text": text[: text.index("[gateway_pcrs")] + 'gateway_pcrs = ""\n',
        "of no PCR": text[: text.index("[gateway_pcrs")] + "[gateway_pcrs.sha256]\n",
        "of no bank": text[: text.index("[gateway_pcrs")] + "[gateway_pcrs]\n",
        "with a log key of another log": text.replace('trust_domain = "gate.test"', 'trust_domain = "other.test"'),
        "with a log key of another type": text.replace(lines["log_key"], f'log_key = "{other}"\n'),
        "with a log key of another id": text.replace("lineage+", "lineage+00"),
        "with an approver that is no key": text.replace(lines["approver"], 'approver = "3059"\n'),
        "with an approver off its curve": text.replace(lines["approver"], lines["approver"][:-4] + "00" + '"\n'),
        "with an approver in capitals": text.replace(
            lines["approver"], lines["approver"].upper().replace("APPROVER", "approver")
        ),
        "without an approver": text.replace(lines["approver"], ""),
        "without an approver and former states": text.replace(lines["approver"], "").replace(former, ""),
        "with former states of other PCRs": text.replace(
            former, former.replace(former[former.index("\n4 = ") :].split("\n")[1] + "\n", "")
        ),
        "with a former state of no size": text.replace(f"former_gateway_pcrs.{until}.", "former_gateway_pcrs.0."),
        "with a former state of a size with a zero": text.replace(
            f"former_gateway_pcrs.{until}.", f"former_gateway_pcrs.0{until}."
        ),
        "with a former state of any size": text.replace(
            f"former_gateway_pcrs.{until}.", "former_gateway_pcrs.9999999999999999."
        ),
        "with no table of former states": text.replace(former, "").replace(
            lines["approver"], lines["approver"] + "former_gateway_pcrs = []\n"
        ),
        "with a former state of no bank": text.replace(former, f"[former_gateway_pcrs.{until}]\n"),
        "with a quorum that can't be had": "witness_quorum = 1\n" + text,
        "with a log key as a witness": 'witnesses = ["' + other + '"]\n' + text,
        "with a quorum that is text": 'witness_quorum = "0"\n' + text,
    }
    for name, changed in changes.items():
        yield "anchors", name, {"text": changed}
