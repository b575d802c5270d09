"""Keys and certificates of other projects, held to what those projects' own tests expect of them."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tpm.algorithms import Alg, digest
from tpm.attest import AttestType, CreationInfo, parse_attest
from tpm.attestation_key import accept_attestation_key
from tpm.certify import verify_creation
from tpm.endorsement import EkPolicy, EkQuirk, EkRoots, split_pem, verify_ek_certificate
from tpm.endorsement_certificate import KeyUsage, parse_certificate
from tpm.endorsement_google import INSTANCE_IDENTITY, GoogleInstance, parse_instance_identity
from tpm.endorsement_location import locate_certificate
from tpm.endorsement_path import build_path, check_validity
from tpm.endorsement_san import VENDORS
from tpm.errors import RejectedError
from tpm.ima_signature import ImaKeyring
from tpm.pcr import PcrSelection
from tpm.public import parse_tpmt_public
from tpm.reasons import EvidenceReason
from ztrooted import jose
from ztrooted.conformance.index import Entry, Fields, decode_item
from ztrooted.conformance.results import Checks, NotApplicableError

# Makers whose EK certificates have an address that follows from the key.
_LOCATED = ("id:494E5443", "id:414D4400")
_QUIRKS = frozenset(EkQuirk)
_SIGNERS = {Alg.RSA: (Alg.RSASSA, Alg.RSAPSS), Alg.ECC: (Alg.ECDSA,)}


def judge_creation(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ak_creation_params``: an AK's public area, creation data, and the TPM's certification of its creation.

    What may be checked of a key that signs by SHA-1 is; that its certification is then not acceptable to us is no
    difference of verdict, but a rule the origin does not have.
    """
    wanted = str(expected.take("check_ak_parameters"))
    expected.take("error_contains")
    item = {name: base64.b64decode(value) for name, value in entry.vector().items() if isinstance(value, str)}
    public = parse_tpmt_public(item["Public"])
    key = public.key()
    scheme = int.from_bytes(item["CreateSignature"][:2], "big")
    if scheme not in _SIGNERS.get(public.type, ()):
        raise RejectedError(
            EvidenceReason.AK_CERTIFY_INVALID, f"scheme 0x{scheme:04x} is not one of {type(key).__name__}"
        )
    attest = parse_attest(item["CreateAttestation"], expected=AttestType.CREATION)
    hashed = digest(public.name_alg, item["CreateData"])
    info = attest.attested
    checks.equal("created Name", info.object_name if isinstance(info, CreationInfo) else None, public.name)
    checks.equal("creation hash", info.creation_hash if isinstance(info, CreationInfo) else None, hashed)
    if wanted.startswith("ok") and public.scheme is not None and public.scheme.hash_alg is Alg.SHA1:
        raise NotApplicableError("the key signs by SHA-1, which is refused here; its Name and creation data are right")
    verify_creation(
        item["CreateAttestation"],
        item["CreateSignature"],
        accept_attestation_key(public),
        qualifying_data=attest.extra_data,
        created=public,
        creation_hash=hashed,
    )
    checks.names.append("check_ak_parameters")


def judge_ek_location(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``ek_public_key``: where its maker keeps the certificate of this EK."""
    key = load_pem_public_key(str(entry.vector().get("pem", "")).encode())
    address = expected.take("ek_cert_url")
    if address is None or not isinstance(key, rsa.RSAPublicKey):
        raise NotApplicableError("no address is expected, or none follows from a key of this type")
    addresses = {locate_certificate(key, maker) for maker in _LOCATED}
    checks.true("ek_cert_url", address in addresses, f"{sorted(filter(None, addresses))}, expected {address}")


def judge_certificate(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``certificate``: it parses, is an authority where it is called one, and its chain holds where one is told.

    Reading allows every quirk of real certificates, as reading a boot log does.
    """
    ders = _ders(entry.data())
    certificates = [parse_certificate(der, quirks=_QUIRKS) for der in ders]
    checks.true("parse", bool(certificates), "there is no certificate")
    role = str(expected.take("role") or "")
    if role.startswith(("root", "intermediate")):
        checks.true("role", certificates[0].is_ca, "not an authority")
    elif role:
        checks.skip("role", role)
    if expected.take("chain_ok") is None:
        return
    intermediates = [der for name in _names(expected, "intermediate") for der in _ders(entry.read(name))]
    roots = [der for name in _names(expected, "root") for der in _ders(entry.read(name))]
    instance = _verify_chain(ders[0], intermediates, roots)
    checks.names.append("chain_ok")
    for name, value in (expected.take("gce_instance_info") or {}).items():
        found = getattr(instance, name, None)
        checks.true(name, bool(found) if value == "nonzero" else found == value, f"{found}, expected {value}")


def _verify_chain(leaf: bytes, intermediates: list[bytes], roots: list[bytes]) -> GoogleInstance | None:
    """Verify an EK certificate by the rules for one, or that of a signing key as far as its path; at an instant when
    all of them were valid."""
    certificate = parse_certificate(leaf, quirks=_QUIRKS)
    authorities = [parse_certificate(der, quirks=_QUIRKS) for der in intermediates]
    anchors = EkRoots(tuple(parse_certificate(der, quirks=_QUIRKS) for der in roots))
    at = max(found.not_before for found in (certificate, *authorities, *anchors.certificates))
    usage = certificate.key_usage or KeyUsage(0)
    if KeyUsage.DIGITAL_SIGNATURE not in usage or usage & (KeyUsage.KEY_ENCIPHERMENT | KeyUsage.KEY_AGREEMENT):
        policy = EkPolicy(vendors=frozenset(VENDORS), quirks=_QUIRKS)
        return verify_ek_certificate(leaf, intermediates, anchors, at=at, ek_public=None, policy=policy).google_instance
    if certificate.is_ca:
        raise RejectedError(EvidenceReason.EK_IS_CA, f"{certificate} is an authority, not the certificate of a key")
    build_path(certificate, authorities, anchors, at=at)
    check_validity(certificate, at)
    identity = certificate.extensions.get(INSTANCE_IDENTITY)
    return None if identity is None else parse_instance_identity(identity.value)


def _names(expected: Fields, role: str) -> list[str]:
    """One file or several, under the singular or the plural."""
    one, several = expected.take(role), expected.take(f"{role}s")
    return [*([one] if one else []), *(several or [])]


def _ders(data: bytes) -> list[bytes]:
    return [data] if data[:1] == b"\x30" else split_pem(data)


def judge_extension(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``x509_extension``: the identity of an instance, the one extension we read beyond the profile."""
    instance = parse_instance_identity(decode_item(entry.item()))
    for name in ("zone", "project_id", "project_number", "instance_name", "instance_id"):
        value = expected.take(name)
        if value is not None:
            checks.equal(name, getattr(instance, name), value)


def judge_selection(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``pcr_selection_case``: whether provided PCRs and a quoted selection are the same."""
    case = entry.vector()
    same = expected.take("same")
    checks.equal("same", _selection(case["provided"]).same_pcrs(_selection(case["quoted"])), same)


def _selection(side: Mapping[str, Any]) -> PcrSelection:
    try:
        return PcrSelection.of({side["hash"]: side["pcrs"] or []} if side["hash"] else {})
    except ValueError as error:
        raise NotApplicableError(f"a selection that no TPM of ours has: {error}") from None


def judge_public_key(entry: Entry, _: Fields, checks: Checks) -> None:
    """Kind ``public_key``: a JWK, PEM or DER that we can use."""
    data = entry.data() if "pointer" not in entry.value else json.dumps(entry.item()).encode()
    if data.lstrip().startswith(b"{"):
        value = json.loads(data)
        jose.parse_jwk({name: member for name, member in value.items() if name != "d"})
    else:
        try:
            ImaKeyring.from_files([data])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise NotApplicableError(f"not a key of a type that anything here verifies with: {error}") from None
    checks.names.append("read")
