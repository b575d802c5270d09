"""IMA entries of the third-party corpus: every one is judged as its origin says."""

import hashlib
import json
from typing import Any

import pytest

from tests.support import corpus
from tests.support.ima_corpus import check_line, judge_attack, judge_list
from tpm.errors import EvidenceError
from tpm.ima import parse_ima_list
from tpm.ima_signature import ImaKeyring, verify_ima_signature
from tpm.reasons import EvidenceReason


@pytest.mark.parametrize("entry", corpus.entries("attacks", "ima_list"))
def test_attacks_on_lists(entry: corpus.Entry) -> None:
    data = corpus.read("attacks", entry["file"])
    if entry["expect"] == "accept":
        judge_attack(data, entry["context"])
        return
    with pytest.raises(EvidenceError) as caught:
        judge_attack(data, entry["context"])
    assert caught.value.reason in {entry["reason"], *(entry.get("reason_alternatives") or ())}


def vector(entry: corpus.Entry) -> dict[str, Any]:
    data = corpus.read("evidence", entry["file"])
    if "pointer" not in entry:
        return {"list": data.decode()}
    loaded: dict[str, Any] = json.loads(data)[entry["pointer"]]
    return loaded


@pytest.mark.parametrize("entry", corpus.entries("evidence", "ima_log"))
def test_lists_of_other_projects(entry: corpus.Entry) -> None:
    given = vector(entry)
    data, expected = given["list"].encode(), entry["expected"]
    if expected.get("with_policy") == "accept":
        judge_list(data, given["policy"], [])
    if {"reject", "error"} & set(expected.values()):
        with pytest.raises(EvidenceError):
            judge_list(data, None, [])


@pytest.mark.parametrize("entry", corpus.entries("evidence", "ima_log_entry"))
def test_entries_of_other_projects(entry: corpus.Entry) -> None:
    line, expected = vector(entry)["line"].encode(), entry["expected"]
    if expected.get("parse") == "error":
        with pytest.raises(EvidenceError):
            check_line(line)
        return
    parsed = check_line(line)[0]
    assert expected.get("pcr", 10) == parsed.pcr
    assert expected.get("path", parsed.path) == parsed.path
    # The line's hash was made by a kernel. An expectation that does not hash to it records another program's mistake
    # (rust-keylime leaves out the label of SHA-1 digests).
    data = bytes.fromhex(expected.get("template_data_hex", ""))
    if hashlib.sha1(data, usedforsecurity=False).digest() == parsed.template_hash:
        assert data == parsed.data


def test_a_signature_made_by_other_tools_verifies() -> None:
    folder = corpus.folder("evidence") / "keylime"
    lines = json.loads((folder / "vectors_ima.json").read_text())["signatures"]["list"].encode()
    keyring = ImaKeyring.from_pem([(folder / "ima_keys" / "secp256k1.pub.pem").read_bytes()])
    by_unknown_key, by_known_key = parse_ima_list(lines).entries
    verify_ima_signature(by_known_key, keyring)
    with pytest.raises(EvidenceError) as caught:
        verify_ima_signature(by_unknown_key, keyring)
    assert caught.value.reason is EvidenceReason.IMA_KEY_NOT_ALLOWED
