"""The NV counter: it only goes up, under its policy alone, and what the AK says of it is verified in every part."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.support.tpm import SoftwareTpm
from tpm.attestation_key import AttestationKey, accept_attestation_key
from tpm.counter import NvAttributes, NvPublic, counter_public, parse_nv_public, verify_counter
from tpm.device import Certified
from tpm.device_counter import FIRST, CountingDevice
from tpm.errors import DeviceError, EvidenceError, RejectedError
from tpm.pcr import PcrSelection
from tpm.public import parse_public
from tpm.sealing import Sealing

INDEX = FIRST + 7
PCRS = {"sha256": [0, 7]}
SEALING = Sealing(PcrSelection.of(PCRS))
NONCE = b"n" * 32


@pytest.fixture
def counting(software_tpm: SoftwareTpm) -> Iterator[CountingDevice]:
    with CountingDevice.open(software_tpm.address) as opened:
        yield opened


def defined(device: CountingDevice) -> NvPublic:
    public = counter_public(INDEX, SEALING.policy(device.read_pcrs(PCRS)), written=True)
    device.define_counter(public)
    device.increment_counter(public, SEALING)
    return public


def test_it_goes_up_one_by_one(counting: CountingDevice) -> None:
    public = defined(counting)
    start = counting.counter(public)
    counting.increment_counter(public, SEALING)
    counting.increment_counter(public, SEALING)
    assert counting.counter(public) == start + 2
    assert parse_nv_public(public.marshal()) == public
    counting.define_counter(public)
    assert counting.counter(public) == start + 2  # it was kept


def test_deleted_and_defined_again_it_is_never_lower(counting: CountingDevice) -> None:
    public = defined(counting)
    for _ in range(3):
        counting.increment_counter(public, SEALING)
    before = counting.counter(public)
    handle = counting._esapi.tr_from_tpmpublic(INDEX)
    counting._esapi.nv_undefine_space(handle)
    with pytest.raises(DeviceError, match="gone"):
        counting.counter(public)
    again = defined(counting)
    assert again == public
    assert counting.counter(public) > before


def test_a_machine_that_drifted_does_not_increment(counting: CountingDevice) -> None:
    public = defined(counting)
    before = counting.counter(public)
    counting.extend(7, {"sha256": b"\1" * 32})
    with pytest.raises(DeviceError, match="refuses to go up"):
        counting.increment_counter(public, SEALING)
    assert counting.counter(public) == before


def test_something_else_at_the_index_is_refused(counting: CountingDevice) -> None:
    public = defined(counting)
    with pytest.raises(DeviceError, match="something else"):
        counting.define_counter(replace(public, policy=bytes(32)))
    with pytest.raises(DeviceError, match="another one"):
        counting.counter(replace(public, policy=bytes(32)))


@dataclass(frozen=True)
class Said:
    key: AttestationKey
    certified: Certified
    public: NvPublic
    value: int


@pytest.fixture
def said(counting: CountingDevice) -> Said:
    public = defined(counting)
    key = accept_attestation_key(parse_public(counting.attestation_key()))
    return Said(key, counting.certify_counter(public, NONCE), public, counting.counter(public))


def test_what_the_ak_certifies_verifies(said: Said) -> None:
    one = said.certified
    found = verify_counter(one.attest, one.signature, said.key, qualifying_data=NONCE, counter=said.public)
    assert found == said.value


def test_every_step_refuses(said: Said, counting: CountingDevice) -> None:
    """Each call is wrong in one thing, and right otherwise."""
    attest, signature = said.certified.attest, said.certified.signature
    other = accept_attestation_key(parse_public(counting.attestation_key("other")))
    resigned = counting.certify_counter(said.public, NONCE)
    quoted = counting.quote(NONCE, PCRS)
    end = attest.index(struct.pack(">H", 8) + struct.pack(">Q", said.value))
    not_counter = replace(said.public, attributes=said.public.attributes & ~NvAttributes.COUNTER)
    password = replace(said.public, attributes=said.public.attributes | 1 << 2)  # AUTHWRITE
    for case, arguments in {
        "no counter": (attest, signature, said.key, NONCE, not_counter),
        "anybody increments it": (attest, signature, said.key, NONCE, password),
        "no policy": (attest, signature, said.key, NONCE, replace(said.public, policy=b"")),
        "another index": (attest, signature, said.key, NONCE, replace(said.public, index=INDEX + 1)),
        "a quote": (quoted.attest, quoted.signature, said.key, NONCE, said.public),
        "another key": (attest, signature, other, NONCE, said.public),
        "another signature": (attest[:-1] + b"\xff", resigned.signature, said.key, NONCE, said.public),
        "another nonce": (attest, signature, said.key, b"m" * 32, said.public),
        "no nonce": (attest, signature, said.key, b"", said.public),
        "another value": (attest[:end] + attest[end:-1] + b"\x99", signature, said.key, NONCE, said.public),
        "trailing": (attest + b"\0", signature, said.key, NONCE, said.public),
        "cut": (attest[:-1], signature, said.key, NONCE, said.public),
    }.items():
        *claim, nonce, counter = arguments
        with pytest.raises(EvidenceError) as refused:
            verify_counter(*claim, qualifying_data=nonce, counter=counter)  # type: ignore[arg-type]
        assert refused.value.reason == "counter.invalid", case


def test_a_part_of_the_counter_is_not_its_value(said: Said, counting: CountingDevice) -> None:
    """The TPM certifies any bytes of an index; seven of them, or those from the second on, are another number."""
    tss = __import__("tpm.device_connection", fromlist=["tss"]).tss
    for size, offset in ((7, 0), (7, 1), (1, 7)):
        handle = counting._esapi.tr_from_tpmpublic(INDEX)
        signer = counting._attestation_key("ak").handle
        password = tss.ESYS_TR.PASSWORD
        attest, signature = counting._esapi.nv_certify(
            signer, handle, NONCE, counting._key_scheme, size, offset, session1=password, session2=password
        )
        with pytest.raises(RejectedError, match="no counter's value"):
            verify_counter(bytes(attest), signature.marshal(), said.key, qualifying_data=NONCE, counter=said.public)


def test_nv_public_areas_are_read_strictly(said: Said) -> None:
    data = said.public.marshal()
    for bad in (b"", data[:-1], data + b"\0", data[:4] + b"\0\4" + data[6:], bytes(200)):
        with pytest.raises(EvidenceError) as refused:
            parse_nv_public(bad)
        assert refused.value.reason == "counter.invalid"
