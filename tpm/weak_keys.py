"""RSA public keys that can be factored or forged, found by looking at the numbers alone.

What is found is a fact about a key, not a verdict: callers map a ``RsaWeakness`` to the reason code of their own family
(``ak.*`` or ``ek.*``). Elliptic-curve keys have no such list: their points are checked where they are parsed.

Sources: ROCA, CVE-2017-15361 (Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, §4.2: the fingerprint);
close primes, CVE-2022-26320 (Fermat's method); exponent and sizes, FIPS 186-5 §5.1 and SP 800-131A.
"""

from enum import StrEnum
from functools import cache
from math import gcd, isqrt

MIN_MODULUS_BITS = 2048  # SP 800-131A: shorter moduli are disallowed
MAX_MODULUS_BITS = 4096  # the largest modulus of any TCG profile; longer ones only cost their verifier time
MIN_EXPONENT = 65537  # FIPS 186-5 §A.1.1: 2^16 < e; it is also the only default of TPM 2.0 (Part 2 §12.2.3.5)
MAX_EXPONENT = 1 << 32  # the exponent of TPMS_RSA_PARMS is a UINT32

# A modulus with a prime factor below this was not made by a working generator. Larger bounds cost time and find
# nothing more.
_SMALL_FACTOR_BOUND = 1 << 13
# Böck: keys of the broken generator fell within a step or two; honest ones would need about 2^1000.
_FERMAT_STEPS = 128
# The fingerprint's primes and its generator (Nemec et al., §4.2). A random modulus passes all 38 once in 2^30.
_ROCA_PRIMES = (
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71,
    73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
)  # fmt: skip
_ROCA_GENERATOR = 65537
# Squares leave 12 of 64 residues modulo 64: a cheap way to skip most square roots.
_SQUARES_MOD_64 = frozenset(i * i % 64 for i in range(64))


class RsaWeakness(StrEnum):
    """What is wrong with an RSA public key."""

    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    EXPONENT = "exponent"
    EVEN = "even"
    SMALL_FACTOR = "small_factor"
    CLOSE_PRIMES = "close_primes"
    ROCA = "roca"


@cache
def _small_primorial() -> int:
    sieve = bytearray(b"\1") * _SMALL_FACTOR_BOUND
    product = 1
    for candidate in range(2, _SMALL_FACTOR_BOUND):
        if sieve[candidate]:
            product *= candidate
            sieve[candidate * candidate :: candidate] = bytes(len(sieve[candidate * candidate :: candidate]))
    return product


@cache
def _roca_subgroups() -> tuple[int, tuple[tuple[int, int], ...]]:
    """The product of the primes, and for each prime a bit mask of the powers of the generator."""
    product, masks = 1, []
    for prime in _ROCA_PRIMES:
        product *= prime
        mask, power = 0, 1
        while not mask >> power & 1:
            mask |= 1 << power
            power = power * _ROCA_GENERATOR % prime
        masks.append((prime, mask))
    # The primes that rule out most come first, so that an honest key leaves after a few divisions.
    masks.sort(key=lambda entry: entry[1].bit_count() / entry[0])
    return product, tuple(masks)


def has_roca_structure(modulus: int) -> bool:
    """Whether ``modulus`` is a power of 65537 modulo every small prime, as only RSALib's primes make it."""
    product, masks = _roca_subgroups()
    residue = modulus % product
    return all(mask >> residue % prime & 1 for prime, mask in masks)


def has_close_primes(modulus: int, steps: int = _FERMAT_STEPS) -> bool:
    """Whether Fermat's method splits an odd ``modulus`` within ``steps`` steps."""
    root = isqrt(modulus)
    if root * root == modulus:
        return True
    root += 1
    rest = root * root - modulus
    for _ in range(steps):
        if rest & 63 in _SQUARES_MOD_64 and isqrt(rest) ** 2 == rest:
            return True
        rest += 2 * root + 1
        root += 1
    return False


def find_rsa_weakness(modulus: int, exponent: int) -> RsaWeakness | None:
    """The first weakness of an RSA public key, or None.

    Sizes come first: they bound the work of everything after them, which is about 0.1 ms for 2,048 bits.
    """
    if modulus.bit_length() > MAX_MODULUS_BITS:
        return RsaWeakness.TOO_LARGE
    if modulus.bit_length() < MIN_MODULUS_BITS:
        return RsaWeakness.TOO_SMALL
    if not MIN_EXPONENT <= exponent < MAX_EXPONENT or exponent % 2 == 0:
        return RsaWeakness.EXPONENT
    if modulus % 2 == 0:
        return RsaWeakness.EVEN
    if has_roca_structure(modulus):
        return RsaWeakness.ROCA
    if gcd(modulus, _small_primorial()) != 1:
        return RsaWeakness.SMALL_FACTOR
    if has_close_primes(modulus):
        return RsaWeakness.CLOSE_PRIMES
    return None
