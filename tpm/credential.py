"""TPM2_MakeCredential in software: a secret that only the TPM with this EK *and* this key can read (Part 1 §24).

The TPM that holds the EK releases the secret through TPM2_ActivateCredential only where an object with the given Name
is loaded. It does so again and again, and for keys of any attributes: accept the key first, use each secret once.
"""

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tpm.algorithms import BANKS, DIGEST_SIZE, Alg, digest
from tpm.codec import Reader
from tpm.errors import RejectedError
from tpm.public import EccPoint, ObjectAttributes, Public, Symmetric
from tpm.reasons import EvidenceReason

# A TPM2B_DIGEST under a SHA-512 EK, encrypted, and its HMAC (Part 2 §12.4.3).
MAX_ID_OBJECT = 2 + 64 + 2 + 64
# Less than 128 bits could be guessed.
MIN_SECRET = 16

# Label of the key exchange and of the key derivations (Part 1 §24, annexes B.10.4 and C.6.4); the NUL is part of it.
_IDENTITY = b"IDENTITY\0"
_STORAGE = b"STORAGE\0"
_INTEGRITY = b"INTEGRITY\0"

_HASHES: dict[Alg, hashes.HashAlgorithm] = {
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Credential:
    """What TPM2_ActivateCredential takes: a ``TPM2B_ID_OBJECT`` and a ``TPM2B_ENCRYPTED_SECRET``, both marshalled."""

    id_object: bytes
    encrypted_secret: bytes


@dataclass(frozen=True, slots=True)
class IdObject:
    """A parsed ``TPMS_ID_OBJECT``: the HMAC over ``encrypted`` and the Name, and the encrypted ``TPM2B_DIGEST``."""

    integrity: bytes
    encrypted: bytes

    def marshal(self) -> bytes:
        """``TPM2B_ID_OBJECT``."""
        return _sized(_sized(self.integrity) + self.encrypted)


def parse_id_object(data: bytes) -> IdObject:
    """Parse a ``TPM2B_ID_OBJECT`` (Part 2 §12.4.3) with nothing left over."""
    reader = Reader(data, EvidenceReason.CREDENTIAL_MALFORMED)
    inner = Reader(reader.sized(MAX_ID_OBJECT, "TPMS_ID_OBJECT"), EvidenceReason.CREDENTIAL_MALFORMED)
    reader.done("TPM2B_ID_OBJECT")
    integrity = inner.sized(64, "integrity HMAC")
    # The encrypted part is a TPM2B_DIGEST enciphered as a whole, its size included: what remains is its length.
    if not integrity or not 2 < inner.remaining <= 2 + 64:
        inner.fail(f"HMAC of {len(integrity)} bytes, {inner.remaining} bytes encrypted")
    return IdObject(integrity, inner.take(inner.remaining, "encrypted identity"))


def make_credential(ek: Public, name: bytes, secret: bytes, *, entropy: Entropy = os.urandom) -> Credential:
    """Encrypt ``secret`` to the TPM holding ``ek``, readable there only with an object of ``name`` loaded.

    1. The EK is a restricted decryption key with a hash and an AES-CFB cipher we have.
    2. A seed, shared with the EK: OAEP for RSA, one-pass ECDH for ECC.
    3. The secret is encrypted under a key derived from seed and Name (STORAGE).
    4. Ciphertext and Name are authenticated under another key derived from the seed (INTEGRITY).

    ``name`` is nameAlg || digest. ``secret`` has 16 bytes up to the digest size of the EK's nameAlg. ``entropy`` gives
    that many random bytes. RejectedError (``credential.key_not_allowed``) for an EK that cannot take part, ValueError
    for a name or secret of a wrong length.
    """
    # 1. The EK
    symmetric = _storage_cipher(ek)
    size = DIGEST_SIZE[ek.name_alg]
    if not MIN_SECRET <= len(secret) <= size:
        raise ValueError(f"a secret has {MIN_SECRET} to {size} bytes, this one {len(secret)}")
    name_alg = Alg(int.from_bytes(name[:2], "big"))
    if name_alg not in _HASHES or len(name) != 2 + DIGEST_SIZE[name_alg]:
        raise ValueError("a Name is an algorithm identifier and a digest by it")
    # 2. The seed
    seed, encrypted_secret = _share_seed(ek, entropy)
    # 3. Confidentiality; the IV is zero because the key is used once (Part 1 §24)
    key = kdfa(ek.name_alg, seed, _STORAGE, name, b"", symmetric.bits)
    encryptor = Cipher(AES(key), CFB(bytes(16))).encryptor()
    encrypted = encryptor.update(_sized(secret)) + encryptor.finalize()
    # 4. Integrity
    hmac_key = kdfa(ek.name_alg, seed, _INTEGRITY, b"", b"", size * 8)
    integrity = hmac.digest(hmac_key, encrypted + name, BANKS[ek.name_alg])
    return Credential(IdObject(integrity, encrypted).marshal(), _sized(encrypted_secret))


def _storage_cipher(ek: Public) -> Symmetric:
    wanted = ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT
    if ek.attributes & (wanted | ObjectAttributes.SIGN) != wanted:
        raise _refused("an endorsement key is restricted, decrypts and does not sign")
    if ek.name_alg not in _HASHES:
        raise _refused(f"nameAlg {ek.name_alg.name}")
    symmetric = ek.symmetric
    if (
        symmetric is None
        or (symmetric.alg, symmetric.mode) != (Alg.AES, Alg.CFB)
        or symmetric.bits not in (128, 192, 256)
    ):
        raise _refused("its symmetric algorithm is not AES in CFB mode")
    return symmetric


def _share_seed(ek: Public, entropy: Entropy) -> tuple[bytes, bytes]:
    """Return a seed of the size of the EK's nameAlg, and what the EK recovers it from."""
    key = ek.key()
    if isinstance(key, rsa.RSAPublicKey):
        # Part 1 annex B.10.4: OAEP by nameAlg, both as hash and in MGF1
        algorithm = _HASHES[ek.name_alg]
        seed = entropy(DIGEST_SIZE[ek.name_alg])
        return seed, key.encrypt(seed, padding.OAEP(padding.MGF1(algorithm), algorithm, _IDENTITY))
    # Part 1 annex C.6.4: one-pass ECDH, and KDFe over the x coordinates
    size = (key.key_size + 7) // 8
    ephemeral = _ephemeral_key(key.curve, entropy)
    point = ephemeral.public_key().public_numbers()
    shared = ephemeral.exchange(ec.ECDH(), key)
    party_u, party_v = (numbers.x.to_bytes(size, "big") for numbers in (point, key.public_numbers()))
    seed = kdfe(ek.name_alg, shared, _IDENTITY, party_u, party_v, DIGEST_SIZE[ek.name_alg] * 8)
    return seed, EccPoint(party_u, point.y.to_bytes(size, "big")).marshal()


def _ephemeral_key(curve: ec.EllipticCurve, entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """A private key from 64 bits more than the order has, so that reduction leaves no bias (FIPS 186-5 §A.2.1)."""
    order = curve.group_order
    scalar = int.from_bytes(entropy((order.bit_length() + 64 + 7) // 8), "big") % (order - 1) + 1
    return ec.derive_private_key(scalar, curve)


def kdfa(alg: Alg, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """``bits`` (a multiple of 8) derived by HMAC in counter mode (Part 1 §11.4.10.2); ``label`` ends in NUL."""
    derived = b""
    counter = 0
    while len(derived) * 8 < bits:
        counter += 1
        block = counter.to_bytes(4, "big") + label + context_u + context_v + bits.to_bytes(4, "big")
        derived += hmac.digest(key, block, BANKS[alg])
    return derived[: bits // 8]


def kdfe(alg: Alg, shared: bytes, label: bytes, party_u: bytes, party_v: bytes, bits: int) -> bytes:
    """``bits`` (a multiple of 8) derived from an ECDH secret (Part 1 §11.4.10.3, SP 800-56A); ``label`` ends in NUL."""
    derived = b""
    counter = 0
    while len(derived) * 8 < bits:
        counter += 1
        derived += digest(alg, counter.to_bytes(4, "big") + shared + label + party_u + party_v)
    return derived[: bits // 8]


def _refused(detail: str) -> RejectedError:
    return RejectedError(EvidenceReason.CREDENTIAL_KEY_NOT_ALLOWED, f"no credential can be made for this key: {detail}")


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
