"""Quotes as clouds and other verifiers pack them: taken out of their wrapping, then verified as ours are.

What a wrapping promises beyond a TPM's quote (reports of confidential machines, chains of AK certificates) is outside
this product and not judged.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tpm.algorithms import BANKS, Alg
from tpm.attest import TPM_GENERATED
from tpm.attestation_key import AttestationKey, VouchedKey, accept_attestation_key, accept_vouched_key
from tpm.errors import EvidenceError, RejectedError
from tpm.eventlog import verify_event_log
from tpm.ima_entry import IMA_PCR
from tpm.pcr import PcrSelection, PcrValues, pcr_digest
from tpm.public import parse_tpmt_public
from tpm.quote import DEFAULT_BANKS, Quote, parse_quote, verify_quote
from tpm.reasons import EvidenceReason
from tpm.signature import Signature, verify_signature
from ztrooted.conformance.index import Entry, Fields
from ztrooted.conformance.results import Checks, MissingFileError, NotApplicableError
from ztrooted.inspect.eventlog import LENIENT, read_event_log

Key = AttestationKey | VouchedKey
_ALL_BANKS = DEFAULT_BANKS | {"sha1"}


class _OutsideError(NotApplicableError):
    """The quote is one that this product never takes, whoever made it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One quote taken out of its wrapping; the key where the wrapping has it."""

    quote: Quote
    values: PcrValues
    key: Key | None

    def verify(self, nonce: bytes, key: Key | None = None, banks: frozenset[str] = _ALL_BANKS) -> None:
        """Verify it for ``nonce``; raises what refuses it."""
        found = key or self.key
        if found is None:
            raise NotApplicableError("the key of the quote is not in its wrapping")
        selection = PcrSelection.of({bank: values for bank, values in self.values.items() if values})
        verify_quote(self.quote, found, nonce=nonce, selection=selection, pcr_values=self.values, allowed_banks=banks)


def judge_bundle(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kinds ``quote_bundle`` and ``attestation_evidence``: taken apart, compared with what is told, then verified."""
    for remark in _OUTSIDE:
        if expected.take(remark) is not None:
            checks.skip(remark, "outside this product")
    data = entry.data()
    _check_recorded_log(data, checks)
    try:
        packed = unpack(data)
    except _OutsideError as error:
        # What stands beside the quote was compared all the same.
        checks.skip("quote", str(error))
        for verdict in VERDICTS:
            expected.take(verdict)
        return
    key, gap = _named_key(entry, expected)
    for quote in packed:
        checks.true("parse", quote.quote.attest.marshal() == quote.quote.attest.raw, "not what its fields marshal to")
        _check_parts(quote, key or quote.key, checks)
    count = expected.take("pcr_count")
    if count is not None:
        checks.equal("pcr_count", max(len(values) for values in packed[0].values.values()), count)
    told = len(checks.names)
    _check_claims(packed, expected.nested("claims"), checks)
    _check_decoded(entry, packed, expected.take("decodes_to"), checks)
    wanted = [str(expected.take(name, "")) for name in VERDICTS]
    expected.take("negatives")
    nonce = _nonce(packed, expected)
    if not nonce and len(checks.names) > told:
        checks.skip("verify", f"{gap}; {_NO_NONCE}" if gap else _NO_NONCE)
        return
    if not nonce:
        raise NotApplicableError(_NO_NONCE)
    if gap is not None:
        raise gap
    for quote in packed:
        quote.verify(nonce, key)
        checks.names.append("verify")
        _check_negatives(quote, nonce, key, checks)
    if any(verdict.startswith("error") for verdict in wanted):
        raise NotApplicableError("the quote verifies; what else the origin refuses is outside this product")


VERDICTS = ("parse", "verify_with_roots", "signature_with_hcl_akpub", "pcr_digest")
_NO_NONCE = "quoted for no nonce, which is refused here: a quote for no nonce is not fresh"


def _check_parts(packed: Packed, key: Key | None, checks: Checks) -> None:
    """Signature and PCR digest by themselves, which hold whatever the quote was asked for."""
    if key is not None:
        verify_signature(packed.quote.signature, key.key, packed.quote.attest.raw)
        checks.names.append("signature")
    if packed.values:
        computed = pcr_digest(packed.quote.info.selection, packed.values, packed.quote.signature.hash_alg)
        checks.equal("PCR digest", computed.hex(), packed.quote.info.pcr_digest.hex())


# What the origins check besides the quote.
_OUTSIDE = ("roots", "intermediates", "init_data_hex_len", "report_data_hex_len", "reference_values", "trust_anchor")


def _nonce(packed: list[Packed], expected: Fields) -> bytes:
    """What the origin asked for; else, of evidence whose origin checks no nonce, the one in the quote."""
    text, digits = expected.take("nonce_ascii"), expected.take("nonce_hex")
    if text is not None or digits is not None:
        return bytes.fromhex(digits) if text is None else str(text).encode()
    given = expected.take("report_data_input")
    if given is not None:
        return bytes.fromhex(given)
    return packed[0].quote.attest.extra_data


def _check_claims(packed: list[Packed], claims: Fields, checks: Checks) -> None:
    quote = packed[0]
    report_data = claims.take("report_data")
    if report_data is not None:
        checks.equal("report_data", quote.quote.attest.extra_data.hex(), report_data)
    for name in claims.left():
        value = claims.take(name)
        found = (
            quote.values.get("sha256", {}).get(int(name[7:])) if name[:7] == "tpm.pcr" and name[7:].isdigit() else None
        )
        if found is None:
            checks.skip(name, "not a claim of a quote")
        else:
            checks.equal(name, found.hex(), value)


def _check_decoded(entry: Entry, packed: list[Packed], name: str | None, checks: Checks) -> None:
    """Another tool's decoding of the same quote."""
    if name is None:
        return
    claims, quote = json.loads(entry.read(name)), packed[0].quote
    selection = quote.info.selection.as_dict()
    checks.equal("pcrs", list(selection.values()), [claims.get("pcrs")])
    checks.equal("digest", base64.b64encode(quote.info.pcr_digest).decode(), claims.get("digest"))
    checks.equal("firmware", quote.attest.firmware_version, claims.get("firmware"))
    bank = BANKS.get(claims.get("algorithm"))
    checks.equal("algorithm", list(selection), [bank])


def _check_negatives(packed: Packed, nonce: bytes, key: Key | None, checks: Checks) -> None:
    """A flipped signature, a flipped PCR and another nonce are each refused."""
    value = packed.quote.signature.values
    flipped = Signature(
        packed.quote.signature.alg,
        packed.quote.signature.hash_alg,
        (bytes([value[0][0] ^ 1]) + value[0][1:], *value[1:]),
    )
    bank, pcrs = next((bank, dict(pcrs)) for bank, pcrs in packed.values.items() if pcrs)
    index = min(pcrs)
    pcrs[index] = bytes([pcrs[index][0] ^ 1]) + pcrs[index][1:]
    spoilt = {
        "another signature": (
            Packed(Quote(packed.quote.attest, packed.quote.info, flipped), packed.values, packed.key),
            nonce,
        ),
        "another PCR value": (Packed(packed.quote, {**packed.values, bank: pcrs}, packed.key), nonce),
        "another nonce": (packed, nonce + b"\0"),
    }
    for name, (quote, asked) in spoilt.items():
        try:
            quote.verify(asked, key)
        except EvidenceError:
            checks.names.append(name)
        else:
            checks.true(name, condition=False, detail="accepted")


def judge_option(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``verify_option_case``: the quote of one bank, with SHA-1 allowed or not."""
    case = Fields(entry.vector(), "item")
    data, bank = entry.read(case.need("attestation")), str(case.need("hash_algo")).lower()
    banks = _ALL_BANKS if case.take("allow_sha1") else DEFAULT_BANKS
    nonce = bytes.fromhex(case.take("nonce_hex", ""))
    case.done()
    wanted = str(expected.take("verify"))
    expected.take("error_contains")
    chosen = [packed for packed in unpack(data) if list(packed.quote.info.selection.as_dict()) == [bank]]
    if not chosen or bank not in banks:
        raise RejectedError(EvidenceReason.QUOTE_BANK_NOT_ALLOWED, f"no quote of bank {bank}, or it is not allowed")
    if not nonce and wanted.startswith("ok"):
        nonce = chosen[0].quote.attest.extra_data
        _check_parts(chosen[0], chosen[0].key, checks)
        if not nonce:
            raise NotApplicableError(_NO_NONCE)
    chosen[0].verify(nonce, banks=banks)
    checks.names.append("verify")


def _named_key(entry: Entry, expected: Fields) -> tuple[Key | None, MissingFileError | None]:
    """A key in a file of its own, PEM or the report of a hypervisor; or that the file is missing."""
    report, pem = expected.take("hcl_report"), expected.take("signature_with")
    try:
        if report is not None:
            return _key_of_report(entry.read(report)), None
        if pem is not None:
            return accept_vouched_key(_der_of_pem(entry.read(pem))), None
    except MissingFileError as error:
        return None, error
    return None, None


def _der_of_pem(text: bytes) -> bytes:
    return base64.b64decode(b"".join(line for line in text.splitlines() if b"-----" not in line))


def unpack(data: bytes) -> list[Packed]:
    """The quotes in a wrapping, told by its content: JSON, a length-prefixed token, or protocol buffers."""
    if data.lstrip().startswith(b"{"):
        return [_of_json(json.loads(data))]
    if data[18:22] == TPM_GENERATED.to_bytes(4, "big"):
        size = int.from_bytes(data[16:18], "big")
        quote = parse_quote(data[18 : 18 + size], data[18 + size :])
        return [Packed(quote, {}, None)]
    if data[:1] == b"\x0a":
        return _of_protobuf(data)
    raise NotApplicableError("the evidence is in a format that nothing here reads")


def _of_json(value: Mapping[str, Any]) -> Packed:
    if {"AK", "Quote", "Log"} <= value.keys():
        return _of_recording(value)
    made = value.get("tpm_quote") or value.get("quote") or value
    if not isinstance(made, Mapping) or "message" not in made or "pcrs" not in made:
        raise NotApplicableError("the JSON has no quote with a message and PCR values")
    message, signature = _bytes(made["message"]), _bytes(made["signature"])
    values = {"sha256": {index: _bytes(pcr) for index, pcr in enumerate(made["pcrs"])}}
    # Some clouds keep the RSA signature and drop the structure around it.
    if int.from_bytes(signature[:2], "big") not in (Alg.RSASSA, Alg.RSAPSS, Alg.ECDSA):
        signature = Signature(Alg.RSASSA, Alg.SHA256, (signature,)).marshal()
    key: Key | None = None
    report = value.get("hcl_report") or value.get("report")
    if "ak_public" in value:
        key = accept_vouched_key(base64.b64decode(value["ak_public"]))
    elif report is not None:
        key = _key_of_report(_bytes(report))
    return Packed(parse_quote(message, signature), values, key)


# Go's numbers of hash algorithms, by which recordings name the bank of a value.
_GO_HASHES = {3: "sha1", 5: "sha256", 6: "sha384", 7: "sha512"}


def _of_recording(value: Mapping[str, Any]) -> Packed:
    """A recorded attestation: the AK's ``TPMT_PUBLIC``, a quote, and the PCR values read beside a boot log."""
    made = value["Quote"]
    if (value.get("Static") or {}).get("TPMVersion") == 1:
        raise _OutsideError("a quote of a TPM 1.2")
    signature = _bytes(made["Signature"])
    if int.from_bytes(signature[2:4], "big") == Alg.SHA1:
        raise _OutsideError("the quote is signed by SHA-1, which is refused here")
    quote, values = parse_quote(_bytes(made["Quote"]), signature), _recorded_values(value)
    quoted = {bank: {i: values.get(bank, {})[i] for i in indices} for bank, indices in quote.info.selection.banks}
    return Packed(quote, quoted, accept_attestation_key(parse_tpmt_public(_bytes(value["AK"]["Public"]))))


def _recorded_values(value: Mapping[str, Any]) -> dict[str, dict[int, bytes]]:
    values: dict[str, dict[int, bytes]] = {}
    for pcr in value["Log"]["PCRs"]:
        values.setdefault(_GO_HASHES.get(pcr["DigestAlg"], "unknown"), {})[pcr["Index"]] = _bytes(pcr["Digest"])
    return values


def _check_recorded_log(data: bytes, checks: Checks) -> None:
    """The boot log of a recorded attestation against the PCR values that were read beside it."""
    value = json.loads(data) if data.lstrip().startswith(b"{") else {}
    raw = (value.get("Log") or {}).get("Raw")
    if raw is None:
        return
    log, values = read_event_log(_bytes(raw)), _recorded_values(value)
    for bank in log.banks:
        pcrs = {pcr: found for pcr, found in values.get(bank, {}).items() if pcr != IMA_PCR}
        if pcrs:
            verify_event_log(log, bank=bank, pcrs=pcrs, rules=LENIENT)
            checks.names.append(f"log {bank}")


def _bytes(value: Any) -> bytes:
    """Bytes in JSON: a list of numbers, hexadecimal, or base64."""
    if isinstance(value, list):
        return bytes(value)
    try:
        return bytes.fromhex(value)
    except ValueError:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_" if {"-", "_"} & set(value) else None)


def _key_of_report(report: bytes) -> Key:
    """The attestation key named in a hypervisor's report, whose own signature is not looked at."""
    start = report.find(b'{"keys"')
    if start < 0:
        raise NotApplicableError("the report names no keys")
    claims, _ = json.JSONDecoder().raw_decode(report[start:].decode("latin-1"))
    jwk = next((key for key in claims["keys"] if key.get("kid") == "HCLAkPub"), None)
    if jwk is None:
        raise NotApplicableError("the report names no attestation key")
    e, n = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=="), "big") for name in ("e", "n"))
    public = rsa.RSAPublicNumbers(e, n).public_key()
    return accept_vouched_key(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _of_protobuf(data: bytes) -> list[Packed]:
    """1: AK as ``TPMT_PUBLIC``; 2: quotes of 1: attestation, 2: signature, 3: PCRs with 2: entries of index and value."""
    message = list(_fields(data))
    key = accept_attestation_key(parse_tpmt_public(next(value for number, value in message if number == 1)))
    packed = []
    for raw in (value for number, value in message if number == 2):
        parts = dict(_fields(raw))
        quote = parse_quote(parts[1], parts[2])
        ((bank, _),) = quote.info.selection.banks
        entries = [dict(_fields(value)) for number, value in _fields(parts[3]) if number == 2]
        values = {int.from_bytes(entry.get(1, b"\0"), "big"): entry[2] for entry in entries}
        packed.append(Packed(quote, {bank: values}, key))
    return packed


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a message: number and bytes, those of a number in big-endian order."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        size, offset = _varint(data, offset)
        if tag & 7 == 2:
            if offset + size > len(data):
                raise NotApplicableError("the message is cut off")
            yield tag >> 3, data[offset : offset + size]
            offset += size
        elif tag & 7 == 0:
            yield tag >> 3, size.to_bytes(8, "big")
        else:
            raise NotApplicableError(f"the message has a field of wire type {tag & 7}")


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(data) and shift < 64:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, offset
    raise NotApplicableError("the message is cut off")
