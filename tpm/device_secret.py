"""A TPM that keeps a secret of ours: sealed under the policy of the log key, given out in a state that satisfies it.

The secret goes in and comes out through a session that is salted to our own storage key, so that whoever listens between
processor and chip reads ciphertext (Part 1 §21, session-based encryption). The storage key must be the one that the secret
was sealed under: one that somebody in between has put in its place would be no protection.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tpm.algorithms import Alg
from tpm.device_connection import MAX_RACES, tss, unmarshal
from tpm.device_counter import CountingDevice
from tpm.errors import DeviceError
from tpm.pcr import PcrValues
from tpm.response_codes import PCR_CHANGED, POLICY_FAIL, SLOTS_FULL, STALE_HANDLES, connection_lost
from tpm.sealing import Sealing
from tpm.templates import sealed_data_template, storage_key_template

MAX_SECRET = 128  # bytes; MAX_SYM_DATA, what each TPM can seal (Part 2 §11.1.14)
_AES_128_CFB = struct.pack(">HHH", Alg.AES, 128, Alg.CFB)
_UNIQUE = 32 + 2  # bytes: the digest in a sealed object's unique field, and its size


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """What the TPM gave us to keep: TPM2B_PUBLIC of the storage key, TPM2B_PUBLIC and TPM2B_PRIVATE of the data."""

    parent: bytes
    public: bytes
    private: bytes


class DamagedSecretError(DeviceError):
    """This TPM sealed it, or something like it, and what is left of that is not what the TPM gave us."""


class SecretDevice(CountingDevice):
    """An open TPM. Use ``SecretDevice.open``, and close it."""

    def seal_secret(self, secret: bytes, sealing: Sealing, pcrs: PcrValues) -> SealedSecret:
        """Seal up to ``MAX_SECRET`` bytes: to the state ``pcrs`` or, with an approver, to each one approved last."""
        if sealing.selection.is_empty or not 0 < len(secret) <= MAX_SECRET:
            raise DeviceError("no such secret can be sealed", "select a PCR, and seal a key")
        template = sealed_data_template(sealing.policy(pcrs))

        def seal() -> SealedSecret:
            self._forget_keys()
            with self._storage_key() as (parent, parent_public):
                data = tss.TPMS_SENSITIVE_CREATE(data=tss.TPM2B_SENSITIVE_DATA(secret))
                wanted = tss.TPM2B_PUBLIC(publicArea=unmarshal(tss.TPMT_PUBLIC, template))
                with self._encrypting(parent, tss.TPM2_SE.HMAC, tss.TPMA_SESSION.DECRYPT) as session:
                    private, public, _, _, _ = self._esapi.create(
                        parent, tss.TPM2B_SENSITIVE_CREATE(sensitive=data), wanted, session1=session
                    )
            return SealedSecret(parent_public, public.marshal(), private.marshal())

        return self._with_keys("seal a secret", seal)

    def unseal_secret(self, sealed: SealedSecret, sealing: Sealing, pcrs: PcrValues) -> bytes:
        """The secret. DeviceError where this is another TPM or another state, DamagedSecretError where it is damaged."""
        # A blob of another policy would open in other states: nobody is to leave one here for us to use.
        if not _is_of_template(sealed.public, sealed_data_template(sealing.policy(pcrs))):
            raise DamagedSecretError("the sealed key is not bound to this gateway's states", _RESTORE)
        public = unmarshal_or_damaged(tss.TPM2B_PUBLIC, sealed.public)
        private = unmarshal_or_damaged(tss.TPM2B_PRIVATE, sealed.private)
        return self._with_keys("unseal a secret", lambda: self._unseal(sealed, public, private, sealing))

    def _unseal(self, sealed: SealedSecret, public: Any, private: Any, sealing: Sealing) -> bytes:
        self._forget_keys()
        with self._storage_key() as (parent, parent_public):
            if parent_public != sealed.parent:
                raise DeviceError("this TPM did not seal it: it is another one, or it was cleared", _OTHER)
            item = self._load_sealed(parent, private, public)
            try:
                for _ in range(MAX_RACES):
                    try:
                        with self._encrypting(parent, tss.TPM2_SE.POLICY, tss.TPMA_SESSION.ENCRYPT) as session:
                            self._open(session, sealing)
                            return bytes(self._esapi.unseal(item, session1=session))
                    except tss.TSS2_Exception as failed:
                        if failed.error == PCR_CHANGED:
                            continue
                        if failed.error != POLICY_FAIL:
                            raise
                        raise DeviceError(
                            f"PCRs {sealing.selection.as_dict()} are not those it was sealed to",
                            "bring the machine back to its approved state, or have this one approved:"
                            " 'ztrooted gateway reseal'",
                        ) from failed
            finally:
                self._esapi.flush_context(item)
        raise DeviceError("PCRs changed at each attempt to unseal", "find what extends PCRs without pause")

    def _load_sealed(self, parent: Any, private: Any, public: Any) -> Any:
        try:
            return self._esapi.load(parent, private, public)
        except tss.TSS2_Exception as failed:
            if failed.error in STALE_HANDLES | SLOTS_FULL or connection_lost(int(failed.rc)):
                raise
            raise DamagedSecretError(f"the TPM does not take the sealed key back: {failed}", _RESTORE) from failed

    @contextmanager
    def _storage_key(self) -> Iterator[tuple[Any, bytes]]:
        handle, public = self._create(storage_key_template(), tss.ESYS_TR.OWNER)
        try:
            yield handle, public
        finally:
            self._esapi.flush_context(handle)

    @contextmanager
    def _encrypting(self, parent: Any, kind: Any, direction: Any) -> Iterator[Any]:
        """A session salted to ``parent`` that encrypts the first parameter of commands (DECRYPT) or answers (ENCRYPT)."""
        symmetric = unmarshal(tss.TPMT_SYM_DEF, _AES_128_CFB)
        session = self._esapi.start_auth_session(parent, tss.ESYS_TR.NONE, kind, symmetric, tss.TPM2_ALG.SHA256)
        try:
            self._esapi.trsess_set_attributes(session, direction | tss.TPMA_SESSION.CONTINUESESSION)
            yield session
        finally:
            self._esapi.flush_context(session)


_OTHER = "connect the TPM that this gateway was made with; without it, see 'ztrooted gateway init --recovery'"
_RESTORE = "restore sealed-key.json from a backup, or its keys: 'ztrooted gateway recovery-import'"


def unmarshal_or_damaged(kind: Any, data: bytes) -> Any:
    """One structure of the TSS. DamagedSecretError where the bytes are none."""
    try:
        return unmarshal(kind, data)
    except DeviceError as error:
        raise DamagedSecretError(str(error), _RESTORE) from error


def _is_of_template(public: bytes, template: bytes) -> bool:
    """Whether a TPM2B_PUBLIC is the template with the unique field filled in, which is the template's last."""
    area = public[2:]
    return area.startswith(template[:-2]) and len(area) == len(template) - 2 + _UNIQUE
