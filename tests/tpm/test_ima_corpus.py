"""IMA entries of the third-party corpus: every one is judged as its origin says."""

import json

import pytest

from tests.support import corpus
from tests.support.judged import check_attack, check_evidence
from tpm.errors import EvidenceError
from tpm.ima import parse_ima_list
from tpm.ima_signature import ImaKeyring, verify_ima_signature
from tpm.reasons import EvidenceReason


@pytest.mark.parametrize("entry", corpus.entries("attacks", "ima_list"))
def test_attacks_on_lists(entry: corpus.Entry) -> None:
    check_attack(entry)


@pytest.mark.parametrize("entry", corpus.entries("evidence", "ima_log"))
def test_lists_of_other_projects(entry: corpus.Entry) -> None:
    check_evidence(entry)


@pytest.mark.parametrize("entry", corpus.entries("evidence", "ima_log_entry"))
def test_entries_of_other_projects(entry: corpus.Entry) -> None:
    check_evidence(entry)


def test_a_signature_made_by_other_tools_verifies() -> None:
    folder = corpus.folder("evidence") / "keylime"
    lines = json.loads((folder / "vectors_ima.json").read_text())["signatures"]["list"].encode()
    keyring = ImaKeyring.from_pem([(folder / "ima_keys" / "secp256k1.pub.pem").read_bytes()])
    by_unknown_key, by_known_key = parse_ima_list(lines).entries
    verify_ima_signature(by_known_key, keyring)
    with pytest.raises(EvidenceError) as caught:
        verify_ima_signature(by_unknown_key, keyring)
    assert caught.value.reason is EvidenceReason.IMA_KEY_NOT_ALLOWED
