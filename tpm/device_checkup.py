"""A TPM looked at without changing anything in it: what a person wants to know before they rely on it."""

from dataclasses import dataclass

from tpm.device import Device
from tpm.device_connection import tss
from tpm.endorsement_storage import read_certificate
from tpm.templates import ENDORSEMENT_TEMPLATES, attestation_key_template

# Part 2 §6.13: the group of properties that change, and those of its members that are looked at.
_PT_VAR, _PROPERTIES = 0x200, 64
_PT_PERMANENT, _PT_STARTUP_CLEAR = 0x200, 0x201
_PT_LOCKOUT_COUNTER, _PT_MAX_AUTH_FAIL, _PT_LOCKOUT_INTERVAL = 0x20E, 0x20F, 0x210
# TPMA_PERMANENT (§8.6): ownerAuthSet, endorsementAuthSet, inLockout. TPMA_STARTUP_CLEAR (§8.7): shEnable, ehEnable.
_OWNER_AUTH, _ENDORSEMENT_AUTH, _IN_LOCKOUT = 1 << 0, 1 << 1, 1 << 9
_OWNER_ENABLED, _ENDORSEMENT_ENABLED = 1 << 1, 1 << 2


@dataclass(frozen=True, slots=True)
class Lockout:
    """The dictionary-attack logic: failures so far, how many lock the TPM, seconds until one of them is forgotten."""

    locked: bool
    failures: int
    allowed: int
    interval_s: int


class CheckedDevice(Device):
    """An open TPM. Use ``CheckedDevice.open``, and close it.

    Nothing here writes to the TPM. The one key that is made is transient and gone at once; where other programs hold
    every slot it is not made, and none of theirs is flushed for it.
    """

    def _variables(self) -> dict[int, int]:
        with self._doing("read the TPM's state"):
            _, capability = self._esapi.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, _PT_VAR, _PROPERTIES)
            data = capability.data
            listed = data.tpmProperties
            found: dict[int, int] = {}
            for position in range(listed.count):
                entry = listed[position]
                found[int(entry.property)] = int(entry.value)
            return found

    def lockout(self) -> Lockout:
        """The state of the dictionary-attack logic."""
        found = self._variables()
        return Lockout(
            locked=bool(found.get(_PT_PERMANENT, 0) & _IN_LOCKOUT),
            failures=found.get(_PT_LOCKOUT_COUNTER, 0),
            allowed=found.get(_PT_MAX_AUTH_FAIL, 0),
            interval_s=found.get(_PT_LOCKOUT_INTERVAL, 0),
        )

    def closed_hierarchies(self) -> list[str]:
        """Which of the two hierarchies that hold our keys have a password or are switched off, and which of both."""
        found = self._variables()
        permanent = found.get(_PT_PERMANENT, 0)
        enabled = found.get(_PT_STARTUP_CLEAR, _OWNER_ENABLED | _ENDORSEMENT_ENABLED)
        states = (
            ("the owner hierarchy has a password", permanent & _OWNER_AUTH),
            ("the endorsement hierarchy has a password", permanent & _ENDORSEMENT_AUTH),
            ("the owner hierarchy is switched off", not enabled & _OWNER_ENABLED),
            ("the endorsement hierarchy is switched off", not enabled & _ENDORSEMENT_ENABLED),
        )
        return [said for said, is_so in states if is_so]

    def try_key(self) -> bytes:
        """TPM2B_PUBLIC of the attestation key, made and flushed. DeviceError where the TPM makes none."""
        with self._doing("make a key"):
            handle, public = self._create(attestation_key_template("ak"), tss.ESYS_TR.ENDORSEMENT)
            self._esapi.flush_context(handle)
            return public

    def certificates(self) -> dict[str, tuple[int, bytes]]:
        """The EK certificates that the TPM keeps: name of the EK's template -> NV index and DER."""
        with self._doing("read the EK certificates"):
            indices = self._nv_indices()
            found: dict[str, tuple[int, bytes]] = {}
            for known in ENDORSEMENT_TEMPLATES:
                certificate = read_certificate(known, indices, self._nv_read)
                if certificate is not None:
                    found[known.name] = known.certificate_index, certificate
            return found
