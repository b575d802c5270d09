"""The signature algorithms an EK chain may use, and the one place where such a signature is checked.

An AlgorithmIdentifier is matched byte for byte against a closed table, so that no parameter is left to
interpretation: a PSS signature with another mask generation hash, a short salt or SHA-1 anywhere is simply not in it
(RFC 4055, RFC 5758).
"""

from dataclasses import dataclass
from itertools import product

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tpm.endorsement_certificate import load_certified_key
from tpm.endorsement_der import INTEGER, NULL, OID, SEQUENCE, encode, read_rsa_numbers
from tpm.weak_keys import MAX_MODULUS_BITS, MIN_EXPONENT, MIN_MODULUS_BITS, has_roca_structure

_Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

# Curves of TPM vendors' authorities. P-521 and brainpool never signed an EK certificate that we know of; P-521 is
# sound.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """How a signature is verified: the hash, and for RSA the padding (None stands for ECDSA)."""

    hash: _Hash
    padding: padding.PKCS1v15 | padding.PSS | None


def _identifier(oid: str, parameters: bytes) -> bytes:
    return encode(SEQUENCE, encode(OID, bytes.fromhex(oid)) + parameters)


def _pss_identifiers(oid: str, size: int) -> list[bytes]:
    """RSASSA-PSS-params with one hash throughout and a salt as long as it; NULL parameters may be there or not."""
    hash_forms = [_identifier(oid, b""), _identifier(oid, encode(NULL, b""))]
    found = []
    for own, mask in product(hash_forms, hash_forms):
        mgf1 = encode(SEQUENCE, encode(OID, bytes.fromhex("2a864886f70d010108")) + mask)
        salt = encode(INTEGER, bytes((size,)))
        parameters = encode(0xA0, own) + encode(0xA1, mgf1) + encode(0xA2, salt)
        found.append(_identifier("2a864886f70d01010a", encode(SEQUENCE, parameters)))
    return found


def _table() -> dict[bytes, SignatureAlgorithm]:
    algorithms: tuple[tuple[_Hash, str, str, str], ...] = (
        (hashes.SHA256(), "2a864886f70d01010b", "2a8648ce3d040302", "608648016503040201"),
        (hashes.SHA384(), "2a864886f70d01010c", "2a8648ce3d040303", "608648016503040202"),
        (hashes.SHA512(), "2a864886f70d01010d", "2a8648ce3d040304", "608648016503040203"),
    )
    table: dict[bytes, SignatureAlgorithm] = {}
    for algorithm, rsa_oid, ecdsa_oid, hash_oid in algorithms:
        table[_identifier(rsa_oid, encode(NULL, b""))] = SignatureAlgorithm(algorithm, padding.PKCS1v15())
        table[_identifier(ecdsa_oid, b"")] = SignatureAlgorithm(algorithm, None)
        size = algorithm.digest_size
        pss = SignatureAlgorithm(algorithm, padding.PSS(padding.MGF1(algorithm), size))
        table.update(dict.fromkeys(_pss_identifiers(hash_oid, size), pss))
    return table


ALGORITHMS = _table()


def find_authority_key_weakness(spki: bytes) -> str | None:
    """Why an authority's key cannot be relied on, or None. RSA of 2,048 to 4,096 bits or a NIST curve can.

    The modulus is bounded before anything builds a key of it.
    """
    numbers = read_rsa_numbers(spki)
    if numbers is not None:
        modulus, exponent = numbers
        if not MIN_MODULUS_BITS <= modulus.bit_length() <= MAX_MODULUS_BITS:
            return f"an RSA key of {modulus.bit_length()} bits"
        if exponent < MIN_EXPONENT or exponent % 2 == 0 or modulus % 2 == 0 or has_roca_structure(modulus):
            return "an RSA key with a weak exponent or modulus"
        return None
    key = load_certified_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        return "a key of a type that no authority may have"
    return None


def is_signed_by(signed: bytes, algorithm: bytes, signature: bytes, spki: bytes) -> bool:
    """Whether ``signature`` over ``signed`` was made by the key of ``spki`` with an algorithm of the table.

    The key must have passed ``find_authority_key_weakness``.
    """
    method = ALGORITHMS.get(algorithm)
    if method is None:
        return False
    key = load_certified_key(spki)
    try:
        if method.padding is None:
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(signature, signed, ec.ECDSA(method.hash))
        else:
            if not isinstance(key, rsa.RSAPublicKey):
                return False
            key.verify(signature, signed, method.padding, method.hash)
    except InvalidSignature:
        return False
    return True
