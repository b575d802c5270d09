import random
from math import gcd

import pytest

from tests.support.endorsement import rsa_key
from tpm.weak_keys import RsaWeakness, find_rsa_weakness, has_close_primes, has_roca_structure

GOOD = rsa_key().public_key().public_numbers().n
RANDOM = random.Random(7)  # noqa: S311 -- reproducible
PRIMORIAL = 1
for _candidate in range(2, 1 << 13):
    if all(_candidate % divisor for divisor in range(2, int(_candidate**0.5) + 1)):
        PRIMORIAL *= _candidate


def rough_number(bits: int) -> int:
    """A number of ``bits`` bits without small factors: as good as a prime to whoever only sees the product."""
    while True:
        number = RANDOM.getrandbits(bits) | 3 << bits - 2 | 1
        if gcd(number, PRIMORIAL) == 1:
            return number


def roca_modulus() -> int:
    """Two numbers k·M + 65537^a mod M, as RSALib makes its primes; M is the product of the first 126 primes."""
    product, candidate, count = 1, 2, 0
    while count < 126:
        if all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1)):
            product, count = product * candidate, count + 1
        candidate += 1
    factors = [
        (RANDOM.getrandbits(1024 - product.bit_length()) | 1 << 1023 - product.bit_length()) * product
        + pow(65537, RANDOM.getrandbits(200), product)
        for _ in range(2)
    ]
    modulus = factors[0] * factors[1]
    return modulus if modulus.bit_length() == 2048 else roca_modulus()


def close_modulus() -> int:
    low = rough_number(1024)
    high = low + 2
    while gcd(high, PRIMORIAL) != 1:
        high += 2
    return low * high


def small_factor_modulus() -> int:
    return rough_number(2036) * 8191


@pytest.mark.parametrize(
    ("modulus", "exponent", "weakness"),
    [
        (GOOD, 65537, None),
        (GOOD >> 1024, 65537, RsaWeakness.TOO_SMALL),
        (GOOD << 3000 | 1, 65537, RsaWeakness.TOO_LARGE),
        (GOOD, 1, RsaWeakness.EXPONENT),
        (GOOD, 3, RsaWeakness.EXPONENT),
        (GOOD, 65536, RsaWeakness.EXPONENT),
        (GOOD, 65538, RsaWeakness.EXPONENT),
        (GOOD, (1 << 32) + 1, RsaWeakness.EXPONENT),
        (GOOD - 1, 65537, RsaWeakness.EVEN),
        (small_factor_modulus(), 65537, RsaWeakness.SMALL_FACTOR),
        (close_modulus(), 65537, RsaWeakness.CLOSE_PRIMES),
        (roca_modulus(), 65537, RsaWeakness.ROCA),
        (rough_number(1024) ** 2, 65537, RsaWeakness.CLOSE_PRIMES),
    ],
)
def test_each_weakness_is_found_under_its_name(modulus: int, exponent: int, weakness: RsaWeakness | None) -> None:
    assert find_rsa_weakness(modulus, exponent) == weakness


def test_random_moduli_do_not_look_like_roca() -> None:
    assert not any(has_roca_structure(RANDOM.getrandbits(2048) | 1) for _ in range(5000))


def test_every_roca_modulus_is_found() -> None:
    assert all(has_roca_structure(roca_modulus()) for _ in range(20))


def test_close_primes_are_found_up_to_the_last_step_and_honest_ones_are_not() -> None:
    low = rough_number(1024)
    gap = 2 * 2**513
    assert has_close_primes(low * (low + gap), steps=3)
    assert not has_close_primes(low * (low + 2**900), steps=128)
    assert not has_close_primes(GOOD)
