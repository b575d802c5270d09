import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.support import corpus
from tests.support.corpus import Entry
from tests.support.endorsement import ec_key, rsa_key, spki, vendor
from tests.support.judged import check_evidence
from tpm.endorsement_certificate import format_oid
from tpm.endorsement_der import encode, read_element, read_only_element, read_rsa_numbers, split_pem
from tpm.endorsement_location import locate_certificate
from tpm.errors import EvidenceError


@pytest.mark.parametrize(
    "data",
    ["", "30", "3001", "308000", "30810100", "3082000100", "30850000000001", "1f0100", "3081", "30ff"],
)
def test_lengths_and_tags_outside_der_are_malformed(data: str) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        read_element(raw, 0, len(raw))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_what_is_encoded_is_read_back(size: int) -> None:
    data = encode(0x30, bytes(size))
    element = read_only_element(data, 0x30, "value")
    assert (element.end - element.content, element.end) == (size, len(data))


def test_one_byte_too_many_is_malformed() -> None:
    with pytest.raises(EvidenceError, match="1 bytes follow"):
        read_only_element(encode(0x30, b"") + b"\0", 0x30, "value")


def test_rsa_numbers_are_those_of_the_key() -> None:
    numbers = rsa_key().public_key().public_numbers()
    assert read_rsa_numbers(spki(rsa_key().public_key())) == (numbers.n, numbers.e)
    assert read_rsa_numbers(spki(ec_key().public_key())) is None


@pytest.mark.parametrize(
    ("content", "dotted"), [("6781050801", "2.23.133.8.1"), ("551d11", "2.5.29.17"), ("2a864886f70d", "1.2.840.113549")]
)
def test_identifiers_are_written_in_dots(content: str, dotted: str) -> None:
    assert format_oid(bytes.fromhex(content)) == dotted


@pytest.mark.parametrize("content", ["", "80", "2a86"])
def test_bytes_that_are_no_identifier_are_shown_as_they_are(content: str) -> None:
    assert format_oid(bytes.fromhex(content)) == content


def test_pem_blocks_are_split_with_text_between_them() -> None:
    text = b"comment\n" + vendor().root.pem + b"\nmore\n" + vendor().issuer.pem.replace(b"\n", b"\r\n")
    assert split_pem(text) == [vendor().root.der, vendor().issuer.der]
    assert split_pem(b"nothing here") == []


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN CERTIFICATE-----\nAAAA\n",
        b"-----BEGIN CERTIFICATE-----\nAA AA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END X509 CRL-----\n",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        b"AAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_damaged_pem_refuses_the_whole_text(text: bytes) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        split_pem(vendor().root.pem + text)


def test_pem_is_bounded_in_size_and_number() -> None:
    block = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for text in (block * 1025, bytes(8 * 1024 * 1024 + 1)):
        with pytest.raises(EvidenceError, match=r"ek\.too_large"):
            split_pem(text)


@pytest.mark.parametrize("entry", corpus.entries("evidence", "ek_public_key"))
def test_corpus_addresses_of_certificates(entry: Entry) -> None:
    check_evidence(entry)
    pem = json.loads(corpus.read("evidence", entry["file"]))[entry["pointer"]]["pem"]
    key = load_pem_public_key(pem.encode())
    assert isinstance(key, rsa.RSAPublicKey)
    assert locate_certificate(key, "id:53544D20") is None


@pytest.mark.parametrize("entry", corpus.entries("evidence", "x509_extension"))
def test_corpus_instance_identities(entry: Entry) -> None:
    check_evidence(entry)
