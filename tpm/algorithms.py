"""TPM algorithm identifiers this project understands (TCG Algorithm Registry, TPM 2.0 Part 2 §6.3 and §6.4)."""

import hashlib
from enum import IntEnum


class Alg(IntEnum):
    """``TPM_ALG_ID`` values that appear in the structures we read. Unknown values are refused where they are met."""

    RSA = 0x0001
    SHA1 = 0x0004
    HMAC = 0x0005
    AES = 0x0006
    MGF1 = 0x0007
    KEYEDHASH = 0x0008
    XOR = 0x000A
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    SM3_256 = 0x0012
    SM4 = 0x0013
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECDAA = 0x001A
    SM2 = 0x001B
    ECSCHNORR = 0x001C
    KDF1_SP800_56A = 0x0020
    KDF1_SP800_108 = 0x0022
    ECC = 0x0023
    SYMCIPHER = 0x0025
    CAMELLIA = 0x0026
    SHA3_256 = 0x0027
    SHA3_384 = 0x0028
    SHA3_512 = 0x0029
    CTR = 0x0040
    OFB = 0x0041
    CBC = 0x0042
    CFB = 0x0043
    ECB = 0x0044


# Digest sizes in bytes of the hash algorithms a PCR bank can have.
DIGEST_SIZE: dict[Alg, int] = {
    Alg.SHA1: 20,
    Alg.SHA256: 32,
    Alg.SHA384: 48,
    Alg.SHA512: 64,
    Alg.SM3_256: 32,
    Alg.SHA3_256: 32,
    Alg.SHA3_384: 48,
    Alg.SHA3_512: 64,
}

# The banks we can compute, with the names used in every file, message and command line of this project.
BANKS: dict[Alg, str] = {Alg.SHA1: "sha1", Alg.SHA256: "sha256", Alg.SHA384: "sha384", Alg.SHA512: "sha512"}
BANK_BY_NAME: dict[str, Alg] = {name: alg for alg, name in BANKS.items()}


def digest(alg: Alg, data: bytes) -> bytes:
    """Hash ``data`` with ``alg``, one of ``BANKS``; KeyError for an algorithm that is not one of them."""
    return hashlib.new(BANKS[alg], data, usedforsecurity=False).digest()
