"""A secret that the TPM keeps for us: given out in its state, to nobody who listens, and not after it was altered."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.tpm import SoftwareTpms
from tpm import device_secret
from tpm.device_secret import MAX_SECRET, SecretDevice
from tpm.errors import DeviceError
from tpm.pcr import PcrSelection
from tpm.public import ObjectAttributes, parse_public
from tpm.sealing import Sealing
from tpm.templates import storage_key_template

PCRS = {"sha256": [0, 7]}
SEALING = Sealing(PcrSelection.of(PCRS))
SECRET = bytes(range(32))


@contextmanager
def overheard(socket_path: Path, folder: Path) -> Iterator[tuple[str, bytearray]]:
    """The address of a wire to the software TPM at a socket, and all that was ever said on it."""
    heard, started = bytearray(), []
    for name in ("wire", "wire.ctrl"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(folder / name))
        listening.listen()
        target = f"{socket_path}{name.removeprefix('wire')}"
        started.append((listening, threading.Thread(target=_relay, args=(listening, target, heard))))
        started[-1][1].start()
    try:
        yield f"socket:{folder / 'wire'}", heard
    finally:
        for listening, thread in started:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            listening.close()


def _relay(listening: socket.socket, target: str, heard: bytearray) -> None:
    """One connection after the other, each until its nearer end hangs up."""
    with suppress(OSError):
        while True:
            near, _ = listening.accept()
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(target)
                while readable := select.select([near, far], [], [])[0]:
                    data = readable[0].recv(4096)
                    if not data:
                        break
                    heard += data
                    (far if readable[0] is near else near).sendall(data)


def test_it_is_not_heard_on_the_wire(software_tpms: SoftwareTpms, tmp_path: Path) -> None:
    tpm = software_tpms(fresh=True)
    with overheard(tpm.path, tmp_path) as (address, heard), SecretDevice.open(address) as device:
        pcrs = device.read_pcrs(PCRS)
        sealed = device.seal_secret(SECRET, SEALING, pcrs)
        assert device.unseal_secret(sealed, SEALING, pcrs) == SECRET
        assert sealed.public in heard  # it is the right wire
        assert SECRET not in heard


def test_only_the_policy_opens_it(software_tpms: SoftwareTpms) -> None:
    with SecretDevice.open(software_tpms(fresh=True).address) as device:
        pcrs = device.read_pcrs(PCRS)
        device.attestation_key()
        device.attestation_key("another")  # every slot but one is taken
        sealed = device.seal_secret(SECRET, SEALING, pcrs)
        device.attestation_key()
        assert device.unseal_secret(sealed, SEALING, pcrs) == SECRET
        device.extend(10, {"sha256": b"\7" * 32})  # of no concern
        assert device.unseal_secret(sealed, SEALING, pcrs) == SECRET
        # Somebody on this machine with the TPM's own tools, and no policy session.
        with device._doing("unseal by password"), device._storage_key() as (parent, _):
            tss = device_secret.tss
            private, _ = tss.TPM2B_PRIVATE.unmarshal(sealed.private)
            public, _ = tss.TPM2B_PUBLIC.unmarshal(sealed.public)
            item = device._esapi.load(parent, private, public)
            with pytest.raises(tss.TSS2_Exception):
                device._esapi.unseal(item)
            device._esapi.flush_context(item)
        device.extend(7, {"sha256": b"\7" * 32})
        with pytest.raises(DeviceError, match="not those it was sealed to"):
            device.unseal_secret(sealed, SEALING, pcrs)


def test_the_storage_key_is_ours_alone_and_stays_where_it_is() -> None:
    public = parse_public(len(storage_key_template()).to_bytes(2, "big") + storage_key_template())
    assert public.attributes & ObjectAttributes.FIXED_TPM
    assert public.attributes & ObjectAttributes.FIXED_PARENT
    assert not public.attributes & ObjectAttributes.SIGN


@pytest.mark.parametrize("secret", [b"", bytes(MAX_SECRET + 1)])
def test_what_can_be_sealed_is_bounded(software_tpms: SoftwareTpms, secret: bytes) -> None:
    with SecretDevice.open(software_tpms().address) as device, pytest.raises(DeviceError):
        device.seal_secret(secret, SEALING, device.read_pcrs(PCRS))
    with SecretDevice.open(software_tpms().address) as device, pytest.raises(DeviceError):
        device.seal_secret(SECRET, Sealing(PcrSelection.of({})), {})
