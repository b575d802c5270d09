"""A TPM with a counter of ours: defined once, incremented under the policy of the log key, certified by the AK."""

from dataclasses import replace
from typing import Any

from tpm.counter import SIZE, NvAttributes, NvPublic
from tpm.device import Certified, Device
from tpm.device_connection import MAX_RACES, tss, unmarshal
from tpm.errors import DeviceError
from tpm.response_codes import PCR_CHANGED, POLICY_FAIL
from tpm.sealing import Sealing

# NV indices that belong to the owner (TCG Registry of Reserved TPM 2.0 Handles §2.2.2).
FIRST, COUNT = 0x01800000, 0x00400000
MAX_RAISE = 64  # increments; a floor further below its version is not ours


class CountingDevice(Device):
    """An open TPM. Use ``CountingDevice.open``, and close it."""

    def define_counter(self, wanted: NvPublic) -> None:
        """Make the counter that is ``wanted`` once it was incremented; one that is there already and is the same is kept.

        DeviceError where something else is at that index.
        """
        fresh = replace(wanted, attributes=wanted.attributes & ~NvAttributes.WRITTEN).marshal()

        def define() -> None:
            found = self._nv_public(wanted.index)
            if found is None:
                area = tss.TPM2B_NV_PUBLIC(nvPublic=unmarshal(tss.TPMS_NV_PUBLIC, fresh))
                self._esapi.tr_close(self._esapi.nv_define_space(b"", area))
            elif found not in {wanted.marshal(), fresh}:
                raise DeviceError(
                    f"NV index 0x{wanted.index:08x} of this TPM holds something else than our counter",
                    "if nothing needs it: tpm2_nvundefine; or use another trust domain",
                )

        self._with_keys("define the counter", define)

    def make_floor(self, wanted: NvPublic) -> int:
        """Define a floor and raise it once; what it is then. DeviceError as for ``define_counter``."""
        self.define_counter(wanted)
        self._with_keys("raise the floor", lambda: self._raise(wanted))
        return self.counter(wanted)

    def raise_floor(self, floor: NvPublic, version: int) -> None:
        """Raise a floor to ``version``, so that nothing that was approved before is. DeviceError where it is above."""
        found = self.counter(floor)
        if found > version:
            raise DeviceError(
                f"the floor is {found}, and this state was approved as version {version}: another was approved since",
                "have this state approved again: 'ztrooted gateway reseal'",
            )
        if version - found > MAX_RAISE:
            raise DeviceError(f"the floor is {found}, far below version {version}", "have this state approved again")
        for _ in range(version - found):
            self._with_keys("raise the floor", lambda: self._raise(floor))

    def _raise(self, floor: NvPublic) -> None:
        handle = self._esapi.tr_from_tpmpublic(floor.index)
        try:
            self._esapi.nv_increment(handle, handle, session1=tss.ESYS_TR.PASSWORD)
        finally:
            self._esapi.tr_close(handle)

    def counter(self, public: NvPublic) -> int:
        """Its value. DeviceError when it is gone, was never incremented, or is another one."""

        def read() -> int:
            self._require(public)
            handle = self._esapi.tr_from_tpmpublic(public.index)
            try:
                value = self._esapi.nv_read(handle, SIZE)
            finally:
                self._esapi.tr_close(handle)
            return int.from_bytes(bytes(value), "big")

        return self._with_keys("read the counter", read)

    def increment_counter(self, public: NvPublic, sealing: Sealing) -> None:
        """Add one. DeviceError where the PCRs of ``sealing`` are not those of the counter's policy."""

        def increment() -> None:
            for _ in range(MAX_RACES):
                handle = self._esapi.tr_from_tpmpublic(public.index)
                try:
                    with self._policy_session() as session:
                        self._open(session, sealing)
                        self._esapi.nv_increment(handle, handle, session1=session)
                    return
                except tss.TSS2_Exception as failed:
                    if failed.error == PCR_CHANGED:
                        continue
                    if failed.error != POLICY_FAIL:
                        raise
                    raise DeviceError(
                        "the counter refuses to go up: the PCRs are not those it was made for",
                        "bring the machine back to its approved state",
                    ) from failed
                finally:
                    self._esapi.tr_close(handle)
            raise DeviceError("PCRs changed at each attempt to increment the counter", "find what extends PCRs")

        self._with_keys("increment the counter", increment)

    def certify_counter(self, public: NvPublic, qualifying_data: bytes, label: str = "ak") -> Certified:
        """TPM2_NV_Certify: the AK ``label`` says what the counter's value is."""

        def certify() -> Certified:
            self._require(public)
            signer = self._attestation_key(label)
            handle = self._esapi.tr_from_tpmpublic(public.index)
            try:
                attest2b, signature = self._esapi.nv_certify(
                    signer.handle,
                    handle,
                    qualifying_data,
                    self._key_scheme,
                    SIZE,
                    session1=tss.ESYS_TR.PASSWORD,
                    session2=tss.ESYS_TR.PASSWORD,
                )
            finally:
                self._esapi.tr_close(handle)
            return Certified(bytes(attest2b), signature.marshal())

        return self._with_keys("certify the counter", certify)

    def _nv_public(self, index: int) -> bytes | None:
        """TPMS_NV_PUBLIC of what is at ``index``."""
        if index not in self._handles(range(index, index + 1)):
            return None
        handle = self._esapi.tr_from_tpmpublic(index)
        try:
            area: Any
            area, _ = self._esapi.nv_read_public(handle)
            return bytes(area.nvPublic.marshal())
        finally:
            self._esapi.tr_close(handle)

    def _require(self, public: NvPublic) -> None:
        if self._nv_public(public.index) != public.marshal():
            raise DeviceError(
                f"the counter at NV index 0x{public.index:08x} is gone, or is another one",
                "connect the right TPM; or, if it was deleted, see 'ztrooted gateway recover'",
            )
