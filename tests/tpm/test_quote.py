"""Quotes: what is kept of them, peers, and real chips and clouds."""

import base64
import json
import shutil
import subprocess
import time
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support import corpus
from tests.support.attestation import FIRMWARE, NONCE, VALUES, SoftwareAk, check
from tpm.algorithms import Alg, digest
from tpm.attest import AttestType, CreationInfo, QuoteInfo, parse_attest
from tpm.attestation_key import accept_attestation_key, accept_vouched_key
from tpm.certify import verify_certify
from tpm.errors import EvidenceError, RejectedError
from tpm.pcr import PcrSelection, PcrValues, pcr_digest
from tpm.public import parse_public, parse_tpmt_public
from tpm.quote import Clock, check_clock, parse_quote, verify_quote
from tpm.sealing import Sealing
from tpm.signature import Signature


def test_a_clock_survives_storage_as_plain_integers() -> None:
    clock = check(SoftwareAk.ecc()).clock
    stored = clock.to_dict()
    assert Clock.from_dict(json.loads(json.dumps(stored))) == clock
    assert all(type(value) is int for value in stored.values())
    for field in stored:
        with pytest.raises(KeyError):
            Clock.from_dict({name: value for name, value in stored.items() if name != field})


def test_a_verified_quote_does_not_change_when_its_inputs_do() -> None:
    values = {"sha256": dict(VALUES["sha256"])}
    verified = check(SoftwareAk.ecc(), pcr_values=values)
    values["sha256"][0] = bytes(32)
    assert verified.pcr_values == VALUES
    assert verified.firmware_version == FIRMWARE
    with pytest.raises(TypeError):
        verified.pcr_values["sha256"][0] = bytes(32)  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        verified.pcr_values = {}  # type: ignore[misc]


def test_a_quote_of_several_banks_verifies_in_the_order_it_was_made() -> None:
    ak = SoftwareAk.ecc()
    values = {"sha256": {0: bytes(32)}, "sha384": {0: bytes(48), 7: b"\1" * 48}}
    asked = PcrSelection.of({"sha256": [0], "sha384": [0, 7]})
    for selection in (asked, PcrSelection(asked.banks[::-1])):
        made = ak.quote(attested=QuoteInfo(selection, pcr_digest(selection, values, Alg.SHA256)))
        assert check(ak, made, selection=asked, pcr_values=values).pcr_values == values


def test_a_key_without_a_public_area_verifies_only_where_its_numbers_are_sound() -> None:

    ak = SoftwareAk.rsa()
    public = ak.private.public_key()
    for encoding in (s.Encoding.PEM, s.Encoding.DER):
        data = public.public_bytes(encoding, s.PublicFormat.SubjectPublicKeyInfo)
        assert check(ak, key=accept_vouched_key(data))
    small = rsa.RSAPublicNumbers(65537, (1 << 1023) + 1155).public_key()
    three = rsa.RSAPublicNumbers(3, ak.key.public.key().public_numbers().n).public_key()  # type: ignore[union-attr]
    for key, reason in (
        (small, "ak.key_too_small"),
        (three, "ak.exponent"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "ak.type_not_allowed"),
    ):
        data = key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(EvidenceError) as caught:
            accept_vouched_key(data)
        assert caught.value.reason == reason
    for junk in (b"", b"-----BEGIN PUBLIC KEY-----", bytes(5000)):
        with pytest.raises(EvidenceError) as caught:
            accept_vouched_key(junk)
        assert caught.value.reason == "ak.malformed"


# A software TPM


@pytest.mark.swtpm
def test_a_tpms_own_quote_verifies_and_its_next_one_follows(device: Any) -> None:
    key = accept_attestation_key(parse_public(device.attestation_key()))
    asked = {"sha256": [0, 1, 7, 10], "sha384": [10]}
    rounds = []
    for nonce in (NONCE, NONCE[::-1]):
        made = device.quote(nonce, asked)
        selection = PcrSelection.of(asked)
        quote = parse_quote(made.attest, made.signature)
        rounds.append(verify_quote(quote, key, nonce=nonce, selection=selection, pcr_values=made.pcrs))
        device.extend(10, {"sha256": bytes(32)})
        time.sleep(0.01)  # the TPM's clock counts milliseconds, and two quotes in one would look like a replay
    check_clock(rounds[0].clock, rounds[1].clock)
    assert rounds[0].qualified_signer == rounds[1].qualified_signer
    with pytest.raises(RejectedError):
        check_clock(rounds[1].clock, rounds[0].clock)


@pytest.mark.swtpm
def test_a_tpms_own_certification_of_its_log_key_verifies(device: Any) -> None:
    key = accept_attestation_key(parse_public(device.attestation_key()))
    log_key = device.log_key(Sealing(PcrSelection.of({"sha256": [0, 7]})))
    made = device.certify(log_key, NONCE)
    public = parse_public(log_key.public)
    assert verify_certify(made.attest, made.signature, key, qualifying_data=NONCE, certified=public).certified == public


# Clouds


def hex_values(values: list[str]) -> PcrValues:
    return {"sha256": {index: bytes.fromhex(value) for index, value in enumerate(values)}}


def test_a_clouds_quote_verifies_under_the_key_in_its_evidence() -> None:
    corpus.folder("evidence")
    data = json.loads(corpus.read("evidence", "trustee/tpm_evidence.json"))
    key = accept_vouched_key(base64.b64decode(data["ak_public"]))
    made = data["tpm_quote"]
    quote = parse_quote(base64.b64decode(made["message"]), base64.b64decode(made["signature"]))
    values = hex_values(made["pcrs"])
    # This TPM leaves nothing to guess: the nonce is the quote's own, as the evidence publishes no other.
    nonce = quote.attest.extra_data
    verified = verify_quote(quote, key, nonce=nonce, selection=quote.info.selection, pcr_values=values)
    assert len(verified.pcr_values["sha256"]) == 24


def protobuf(data: bytes) -> dict[int, list[bytes]]:
    """Length-delimited fields of one message; varints as their bytes."""
    fields: dict[int, list[bytes]] = {}
    offset = 0

    def varint() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            byte = data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while offset < len(data):
        tag = varint()
        size = varint()
        if tag & 7 == 2:
            fields.setdefault(tag >> 3, []).append(data[offset : offset + size])
            offset += size
        else:
            fields.setdefault(tag >> 3, []).append(size.to_bytes(4, "big"))
    return fields


@pytest.mark.parametrize(("name", "nonce"), [("no-nonce", b""), ("nonce9009", b"\x90\x09")])
def test_a_clouds_quotes_of_each_bank_verify_where_there_is_a_nonce(name: str, nonce: bytes) -> None:
    corpus.folder("evidence")
    message = protobuf(corpus.read("evidence", f"go-tpm-tools/gce-cos-85-{name}.pb"))
    public = parse_tpmt_public(message[1][0])
    key = accept_attestation_key(public)
    banks = []
    for raw in message[2]:
        fields = protobuf(raw)
        quote = parse_quote(fields[1][0], fields[2][0])
        ((bank, indices),) = quote.info.selection.banks
        entries = [protobuf(entry) for entry in protobuf(fields[3][0])[2]]
        found = {int.from_bytes(entry.get(1, [b"\0"])[0], "big"): entry[2][0] for entry in entries}
        context: dict[str, Any] = {"selection": PcrSelection.of({bank: indices}), "pcr_values": {bank: found}}
        if not nonce:
            with pytest.raises(RejectedError) as caught:
                verify_quote(quote, key, nonce=nonce, **context)
            assert caught.value.reason == "quote.nonce_mismatch"
        elif bank == "sha1":
            with pytest.raises(RejectedError) as caught:
                verify_quote(quote, key, nonce=nonce, **context)
            assert caught.value.reason == "quote.bank_not_allowed"
            assert verify_quote(quote, key, nonce=nonce, allowed_banks=frozenset({"sha1"}), **context)
        else:
            assert verify_quote(quote, key, nonce=nonce, **context)
        banks.append(bank)
    assert "sha256" in banks


@pytest.mark.parametrize("name", ["az-snp-vtpm/evidence-v0", "az-snp-vtpm/evidence-genoa", "az-tdx-vtpm/evidence-v0"])
def test_an_azure_quote_verifies_under_the_key_its_report_names(name: str) -> None:
    """The key is a JWK in the hypervisor's report; the signature comes without its TPMT_SIGNATURE."""
    corpus.folder("evidence")
    data = json.loads(corpus.read("evidence", f"trustee/{name}.json"))
    made = data.get("quote") or data["tpm_quote"]
    report = bytes(data.get("report") or data["hcl_report"])
    claims, _ = json.JSONDecoder().raw_decode(report[report.index(b'{"keys"') :].decode("latin-1"))
    jwk = next(key for key in claims["keys"] if key["kid"] == "HCLAkPub")
    e, n = (int.from_bytes(base64.urlsafe_b64decode(jwk[field] + "=="), "big") for field in ("e", "n"))
    public = rsa.RSAPublicNumbers(e, n).public_key()
    key = accept_vouched_key(public.public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo))
    pcrs = {"sha256": {index: bytes(value) for index, value in enumerate(made["pcrs"])}}

    def verify(signature: bytes, nonce: bytes, values: PcrValues) -> object:
        wrapped = Signature(Alg.RSASSA, Alg.SHA256, (signature,)).marshal()
        quote = parse_quote(bytes(made["message"]), wrapped)
        asked = PcrSelection.of({"sha256": range(24)})
        return verify_quote(quote, key, nonce=nonce, selection=asked, pcr_values=values)

    signature = bytes(made["signature"])
    nonce = parse_quote(
        bytes(made["message"]), Signature(Alg.RSASSA, Alg.SHA256, (signature,)).marshal()
    ).attest.extra_data
    assert verify(signature, nonce, pcrs)
    flipped = {"sha256": {**pcrs["sha256"], 0: bytes([pcrs["sha256"][0][0] ^ 1]) + pcrs["sha256"][0][1:]}}
    for reason, arguments in (
        ("quote.sig_invalid", (bytes([signature[0] ^ 1]) + signature[1:], nonce, pcrs)),
        ("quote.nonce_mismatch", (signature, nonce[::-1], pcrs)),
        ("quote.pcr_digest_mismatch", (signature, nonce, flipped)),
    ):
        with pytest.raises(RejectedError) as caught:
            verify(*arguments)
        assert caught.value.reason == reason


def test_attestations_of_created_keys_parse_and_their_sha1_signatures_are_refused() -> None:
    """Real AKs of one chip and one cloud sign by SHA-1, which their own project admits and we do not."""
    corpus.folder("evidence")
    vectors = json.loads(corpus.read("evidence", "go-attestation/vectors_activation.json"))
    for name, vector in vectors.items():
        public = parse_tpmt_public(base64.b64decode(vector["Public"]))
        attest = parse_attest(base64.b64decode(vector["CreateAttestation"]), expected=AttestType.CREATION)
        assert attest.marshal() == attest.raw
        with pytest.raises(RejectedError) as caught:
            accept_attestation_key(public)
        assert caught.value.reason == "ak.hash_not_allowed"
        if "insecure" not in name and "with" not in name:
            assert isinstance(attest.attested, CreationInfo)
            assert attest.attested.object_name == public.name
            hashed = digest(public.name_alg, base64.b64decode(vector["CreateData"]))
            assert attest.attested.creation_hash == hashed


def test_other_attestations_in_the_wild_parse_byte_for_byte() -> None:
    corpus.folder("evidence")
    token = corpus.read("evidence", "veraison-services/basic.token")
    size = int.from_bytes(token[16:18], "big")
    quote = parse_quote(token[18 : 18 + size], token[18 + size :])
    claims = json.loads(corpus.read("evidence", "veraison-services/basic.json"))
    assert quote.info.selection.as_dict() == {"sha256": claims["pcrs"]}
    assert base64.b64encode(quote.info.pcr_digest).decode() == claims["digest"]
    assert quote.attest.firmware_version == claims["firmware"]
    assert quote.attest.marshal() == quote.attest.raw


# The peer


@pytest.mark.parametrize("entry", corpus.entries("attacks", "quote"))
def test_whatever_tpm2_checkquote_rejects_we_reject(entry: corpus.Entry, tmp_path: Path) -> None:
    """A peer, not an oracle: it accepts half of the bad quotes."""
    program = shutil.which("tpm2_checkquote")
    if program is None:
        pytest.skip("tpm2_checkquote is not installed")
    files = {name: corpus.read("attacks", path) for name, path in entry["files"].items()}
    public = accept_attestation_key(parse_public(files["ak_public"])).key
    paths = {name: tmp_path / name for name in ("key", "attest", "sig")}
    paths["key"].write_bytes(public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    paths["attest"].write_bytes(files["attest"])
    paths["sig"].write_bytes(files["sig"])
    command: list[str | Path] = [program, "-u", paths["key"], "-m", paths["attest"], "-s", paths["sig"], "-g", "sha256"]
    command += ["-q", entry["context"]["nonce"]]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    if done.returncode == 0:
        return  # it is not asked for the selection, the values, the clock or the allowed schemes
    asked = PcrSelection.of(entry["context"]["want_selection"])
    claimed = entry["context"]["claimed_pcrs"]
    values = {bank: {int(i): bytes.fromhex(v) for i, v in pcrs.items()} for bank, pcrs in claimed.items()}
    nonce = bytes.fromhex(entry["context"]["nonce"])
    key = accept_attestation_key(parse_public(files["ak_public"]))
    with pytest.raises(EvidenceError):
        verify_quote(parse_quote(files["attest"], files["sig"]), key, nonce=nonce, selection=asked, pcr_values=values)
