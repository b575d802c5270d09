"""An approver's word for one state after another: what the TPM takes, and what it never takes again."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.tpm import SoftwareTpm
from tpm.counter import counter_public, floor_public
from tpm.device_counter import FIRST, CountingDevice
from tpm.errors import DeviceError
from tpm.pcr import PcrSelection
from tpm.sealing import Approval, Approver, Sealing

PCRS = PcrSelection.of({"sha256": [0, 7]})
FLOOR = floor_public(FIRST + 9)
KEY = ec.generate_private_key(ec.SECP256R1())
APPROVER = Approver(KEY.public_key(), b"example.org/lineage", FLOOR)
DIGEST = b"d" * 32


@pytest.fixture
def device(software_tpm: SoftwareTpm) -> Iterator[CountingDevice]:
    with CountingDevice.open(software_tpm.address) as opened:
        yield opened


@pytest.fixture
def sealing(device: CountingDevice) -> Sealing:
    return approved(device, device.make_floor(FLOOR))


def approved(device: CountingDevice, version: int) -> Sealing:
    return Sealing(PCRS, APPROVER, APPROVER.approve(KEY, device.read_pcrs(PCRS), version))


def of(sealing: Sealing) -> Approval:
    assert sealing.approval is not None
    return sealing.approval


def sign(device: CountingDevice, sealing: Sealing) -> bytes:
    return device.sign_with_log_key(device.log_key(sealing), DIGEST)


def test_the_approved_state_opens_key_and_counter(device: CountingDevice, sealing: Sealing) -> None:
    sign(device, sealing)
    counter = counter_public(FIRST + 10, APPROVER.policy, written=True)
    device.define_counter(counter)
    device.increment_counter(counter, sealing)
    before = device.counter(counter)
    device.increment_counter(counter, sealing)
    assert device.counter(counter) == before + 1


def test_another_state_opens_neither_until_it_is_approved_and_then_it_is_the_same_key(
    device: CountingDevice, sealing: Sealing
) -> None:
    key = device.log_key(sealing)
    counter = counter_public(FIRST + 10, APPROVER.policy, written=True)
    device.define_counter(counter)
    device.increment_counter(counter, sealing)
    device.extend(7, {"sha256": b"\1" * 32})
    with pytest.raises(DeviceError, match="not those that were approved"):
        sign(device, sealing)
    with pytest.raises(DeviceError, match="not those that were approved"):
        device.increment_counter(counter, sealing)
    again = approved(device, of(sealing).version + 1)
    assert device.log_key(again).public == key.public
    sign(device, again)
    device.increment_counter(counter, again)


def test_the_state_before_is_over_once_the_floor_was_raised(device: CountingDevice, sealing: Sealing) -> None:
    """Both approvals are of the same state here: it is the version alone that tells them apart."""
    newer = approved(device, of(sealing).version + 1)
    sign(device, sealing)
    sign(device, newer)
    device.raise_floor(FLOOR, of(newer).version)
    sign(device, newer)
    with pytest.raises(DeviceError, match="replaced by a later one"):
        sign(device, sealing)
    with pytest.raises(DeviceError, match="another was approved since"):
        device.raise_floor(FLOOR, of(sealing).version)


def test_a_floor_that_is_deleted_and_made_again_is_above_every_approval(
    device: CountingDevice, sealing: Sealing
) -> None:
    device.raise_floor(FLOOR, of(sealing).version)
    device._esapi.nv_undefine_space(device._esapi.tr_from_tpmpublic(FLOOR.index))
    with pytest.raises(DeviceError):
        sign(device, sealing)
    device.make_floor(FLOOR)
    with pytest.raises(DeviceError, match="replaced by a later one"):
        sign(device, sealing)


@pytest.mark.parametrize("lie", ["signature", "version", "pcrs", "reference", "floor"])
def test_what_the_approver_did_not_sign_opens_nothing(device: CountingDevice, sealing: Sealing, lie: str) -> None:
    """The TPM itself refuses, whatever this process believes."""
    approval, approver = of(sealing), APPROVER
    if lie == "signature":
        approval = Approver(KEY.public_key(), APPROVER.reference, FLOOR).approve(
            ec.generate_private_key(ec.SECP256R1()), approval.pcrs, approval.version
        )
    elif lie == "version":
        approval = replace(approval, version=approval.version + 1)
    elif lie == "pcrs":
        device.extend(0, {"sha256": b"\2" * 32})
        approval = replace(approval, pcrs=device.read_pcrs(PCRS))
    elif lie == "reference":
        approver = replace(APPROVER, reference=b"example.com/lineage")
    else:
        other = floor_public(FIRST + 11)
        device.make_floor(other)
        approver = replace(APPROVER, floor=other)
    assert not approver.approved(approval)
    with pytest.raises(DeviceError):
        sign(device, Sealing(PCRS, approver, approval))
    assert APPROVER.approved(of(sealing))


def test_a_floor_far_below_its_version_is_not_raised_for_ever(device: CountingDevice, sealing: Sealing) -> None:
    with pytest.raises(DeviceError, match="far below"):
        device.raise_floor(FLOOR, of(sealing).version + 1000)
