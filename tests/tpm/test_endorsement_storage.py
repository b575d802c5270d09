"""What lies in a TPM's NV about its EK: choice of template, padding, chains, vendors' nonces and templates."""

from collections.abc import Mapping

import pytest

from tests.support.tpm import SoftwareTpms
from tpm.device import Device
from tpm.device_connection import tss
from tpm.endorsement_storage import MAX_CHAIN, choose_template, read_certificate, read_chain
from tpm.errors import DeviceError
from tpm.public import EK, parse_public
from tpm.templates import ENDORSEMENT_TEMPLATES

TEMPLATES = {known.name: known for known in ENDORSEMENT_TEMPLATES}


def der(body: bytes) -> bytes:
    """A SEQUENCE of ``body``."""
    length = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return b"\x30" + length + body


def chosen(storage: Mapping[int, bytes]) -> str:
    return choose_template(frozenset(storage), storage.__getitem__).name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "L-2"),
        (["L-1"], "L-1"),
        (["H-1"], "H-1"),
        (["L-1", "L-2"], "L-2"),
        (["L-1", "H-3"], "H-3"),
        (["H-3", "H-2"], "H-2"),
    ],
)
def test_an_ecc_certificate_is_preferred(names: list[str], expected: str) -> None:
    assert chosen({TEMPLATES[name].certificate_index: b"certificate" for name in names}) == expected


def test_a_template_the_vendor_left_is_used() -> None:
    low = TEMPLATES["L-1"]
    storage = {low.certificate_index: b"", low.template_index: b"vendor's own", low.nonce_index: b"nonce"}
    assert choose_template(frozenset(storage), storage.__getitem__).template == b"vendor's own"


@pytest.mark.parametrize("padding", [b"", b"\x00" * 7, b"\xff" * 700])
@pytest.mark.parametrize("size", [5, 300])
def test_padding_is_no_part_of_the_certificate(size: int, padding: bytes) -> None:
    low = TEMPLATES["L-2"]
    storage = {low.certificate_index: der(b"x" * size) + padding}
    assert read_certificate(low, frozenset(storage), storage.__getitem__) == der(b"x" * size)


@pytest.mark.parametrize("stored", [b"", b"\x30", b"not a certificate", b"\x30\x82\xff\xff short"])
def test_what_is_no_certificate_is_handed_on_for_the_verifier_to_refuse(stored: bytes) -> None:
    low = TEMPLATES["L-2"]
    assert read_certificate(low, frozenset({low.certificate_index}), lambda index: stored) == stored


def test_no_certificate_is_none() -> None:
    assert read_certificate(TEMPLATES["L-2"], frozenset(), lambda index: b"") is None


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 100, 303])
def test_a_chain_may_be_cut_anywhere_across_indices(cut: int) -> None:
    first, second = der(b"a" * 300), der(b"b" * 40)
    whole = first + second
    storage = {0x01C00100: whole[:cut], 0x01C00101: whole[cut:] + bytes(10), 0x01C00002: b"elsewhere", 0x01C00200: b"0"}
    assert read_chain(frozenset(storage), storage.__getitem__) == (first, second)


def test_no_chain_is_empty_and_an_endless_one_is_refused() -> None:
    assert read_chain(frozenset(), lambda index: b"") == ()
    with pytest.raises(DeviceError, match="more than"):
        read_chain(frozenset({0x01C00100}), lambda index: der(b"x") * (MAX_CHAIN + 1))


def define(device: Device, index: int, data: bytes) -> None:
    """Write an NV index as a manufacturer does."""
    attributes = tss.TPMA_NV.OWNERWRITE | tss.TPMA_NV.OWNERREAD | tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE
    public = tss.TPMS_NV_PUBLIC(
        nvIndex=index, nameAlg=tss.TPM2_ALG.SHA256, attributes=attributes | tss.TPMA_NV.NO_DA, dataSize=len(data)
    )
    esapi = device._esapi
    handle = esapi.nv_define_space(b"", tss.TPM2B_NV_PUBLIC(nvPublic=public))
    for at in range(0, len(data), 512):
        esapi.nv_write(handle, data[at : at + 512], at)
    esapi.tr_close(handle)


def test_a_real_tpm_gives_back_what_was_stored(software_tpms: SoftwareTpms) -> None:
    """Nonce, certificate larger than one read, and a chain over two indices."""
    low, nonce = TEMPLATES["L-2"], b"\x5a" * 32
    certificate, issuer = der(b"c" * 1500), der(b"i" * 900)
    with Device.open(software_tpms().address) as device:
        plain = device.endorsement_key()
        assert (plain.certificate, plain.chain, plain.template) == (None, (), "L-2")
        define(device, low.certificate_index, certificate + bytes(20))
        define(device, low.nonce_index, nonce)
        define(device, 0x01C00100, issuer[:400])
        define(device, 0x01C00101, issuer[400:])
    with Device.open(device.address) as device:
        stored = device.endorsement_key()
    assert (stored.certificate, stored.chain, stored.template) == (certificate, (issuer,), "L-2")
    assert parse_public(stored.public, reasons=EK).key() != parse_public(plain.public, reasons=EK).key()


def test_more_indices_than_one_answer_lists_are_all_found(software_tpms: SoftwareTpms) -> None:
    wanted = range(0x01C01000, 0x01C01000 + 80)
    with Device.open(software_tpms().address) as device:
        for index in wanted:
            define(device, index, b"x")
        assert device._nv_indices() == frozenset(wanted)
