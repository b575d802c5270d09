"""Vectors of proofs, notes and canonical JSON, known by the members they have and not by where they lie."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ztrooted import canonical, merkle
from ztrooted.conformance import merkle_constants, wycheproof
from ztrooted.conformance.results import Case, Expectation, NotApplicableError
from ztrooted.errors import GateError
from ztrooted.note import parse_note, verify_note
from ztrooted.note_keys import key_identifier, parse_vkey

_VKEY = re.compile(r"\b[^\s+\"']+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+=*")
_HASHES = ("root", "root1", "root2", "leafHash")


def cases_of(document: Any) -> Iterator[Case]:
    """The cases in a parsed vector file. NotApplicableError for one of another make."""
    if isinstance(document, dict):
        if "testGroups" in document:
            yield from wycheproof.cases_of(document)
            return
        if "wantErr" in document or {"proof", "root"} <= document.keys() or {"proof", "root2"} <= document.keys():
            yield _proof_case(document)
            return
        if "leaf_inputs_hex" in document or "digests" in document:
            yield from merkle_constants.cases_of(document)
            return
        if isinstance(document.get("cases"), list) or isinstance(document.get("vkeys"), list):
            yield from _note_cases(document)
            return
        if {"note", "vkeys"} <= document.keys():
            yield _note_case(document, "")
            return
        if "vkey" in document:
            yield _vkey_case(document, "")
            return
    raise NotApplicableError("a vector file of a make that is not known here")


def _verdict(accepted: object) -> Expectation:
    return Expectation("accept" if accepted else "reject")


def _proof_case(case: Mapping[str, Any]) -> Case:
    """An inclusion or consistency proof, of a tree or a subtree, told apart by its members."""
    decoded = {name: _hash(case.get(name)) for name in _HASHES}
    proof = [_hash(item) for item in case.get("proof") or []]
    expected = _verdict(not case.get("wantErr", False))
    if expected.verdict == "accept" and (
        case.get("size1") == 0 or ("end" in case and case["end"] == case.get("start"))
    ):
        return "", "merkle_consistency", expected, _nothing_to_prove
    if "leafIdx" in case and "start" in case:
        return (
            "",
            "merkle_subtree_inclusion",
            expected,
            lambda: merkle.verify_subtree_inclusion(
                decoded["leafHash"], case["leafIdx"], case["start"], case["end"], proof, decoded["root"]
            ),
        )
    if "leafIdx" in case:
        return (
            "",
            "merkle_inclusion",
            expected,
            lambda: merkle.verify_inclusion(
                decoded["leafHash"], case["leafIdx"], case["treeSize"], proof, decoded["root"]
            ),
        )
    if "start" in case:
        known, root = decoded["root1"], decoded["root2"]
        return (
            "",
            "merkle_subtree_consistency",
            expected,
            lambda: merkle.verify_subtree_consistency(case["start"], case["end"], case["size"], known, root, proof),
        )
    return (
        "",
        "merkle_consistency",
        expected,
        lambda: merkle.verify_consistency(case["size1"], case["size2"], decoded["root1"], decoded["root2"], proof),
    )


def _nothing_to_prove() -> None:
    raise NotApplicableError("a proof from no leaves proves nothing, and is refused here")


def _hash(text: str | None) -> bytes:
    """Base64 as it is written by others; what is no base64 is no hash either."""
    try:
        return base64.b64decode(text or "", validate=True)
    except binascii.Error:
        return b""


def _note_cases(document: Mapping[str, Any]) -> Iterator[Case]:
    for number, case in enumerate(document.get("cases") or []):
        yield _note_case(case, str(case.get("name", number)))
    for number, case in enumerate(document.get("vkeys") or []):
        yield _vkey_case(case, str(case.get("name", case.get("vkey", number))))


def _note_case(case: Mapping[str, Any], name: str) -> Case:
    def verify() -> None:
        keys = [parse_vkey(vkey) for vkey in case["vkeys"]]
        verify_note(parse_note(str(case["note"]).encode()), keys)

    return name, "note", _verdict(case.get("valid")), verify


def _vkey_case(case: Mapping[str, Any], name: str) -> Case:
    text = str(case["vkey"])
    accepted = case.get("upstream_accepts", case.get("valid", True))

    def parse() -> None:
        try:
            found = parse_vkey(text)
        except GateError:
            if accepted and not _has_its_key_id(text):
                detail = (
                    "the key id is not the one of this key; upstream does not compare it, C2SP signed-note has it so"
                )
                raise NotApplicableError(detail) from None
            raise
        if found.vkey != text:
            raise ValueError(f"read back as {found.vkey}")

    return name, "note_vkey", _verdict(accepted), parse


def _has_its_key_id(text: str) -> bool:
    name, _, rest = text.partition("+")
    digits, _, encoded = rest.partition("+")
    raw = _hash(encoded)
    return bool(raw) and digits == key_identifier(name, raw[:1], raw[1:]).hex()


def cases_of_text(text: str) -> Iterator[Case]:
    """Verifier keys in the configuration of a witness or log. NotApplicableError where there are none."""
    found = list(dict.fromkeys(_VKEY.findall(text)))
    if not found:
        raise NotApplicableError("a text without verifier keys")
    for vkey in found:
        yield _vkey_case({"vkey": vkey}, vkey)


def canonical_cases(folder: Path) -> Iterator[Case]:
    """RFC 8785: inputs beside outputs, and outputs in hexadecimal, by the name of their file."""
    for path in sorted((folder / "output").glob("*")):
        source = folder / "input" / path.name
        if source.is_file():
            yield (
                f"output/{path.name}",
                "jcs",
                Expectation("accept"),
                _canonical(source.read_bytes(), path.read_bytes()),
            )
    for path in sorted((folder / "outhex").glob("*")):
        data = bytes.fromhex(path.read_text())
        yield f"outhex/{path.name}", "jcs", Expectation("accept"), _canonical(data, data)


def _canonical(source: bytes, expected: bytes) -> Callable[[], None]:
    def compare() -> None:
        value = json.loads(source, parse_float=_whole)
        try:
            found = canonical.encode(value)
        except GateError as error:
            raise NotApplicableError(f"outside the subset of RFC 8785 that records are written in: {error}") from None
        if found != expected.rstrip(b"\n"):
            raise ValueError(f"encoded as SHA-256 {hashlib.sha256(found).hexdigest()}")
        canonical.decode(found)

    return compare


def _whole(text: str) -> Any:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
