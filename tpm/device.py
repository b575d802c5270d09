"""Our own TPM: attestation key, quotes, the log key, the endorsement key and its credentials.

Synchronous, and safe to share between threads (see ``tpm.device_connection``). A raw software TPM has three slots for
objects and three for sessions, so a session is flushed at once and at most two keys stay loaded.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tpm.algorithms import Alg
from tpm.attest import Attest, CertifyInfo, QuoteInfo, parse_attest
from tpm.device_connection import MAX_RACES, Connection, Selection, as_selection, tss, tss_selection, unmarshal
from tpm.endorsement_storage import EndorsementKey, choose_template, read_certificate, read_chain
from tpm.errors import DeviceError, EvidenceError
from tpm.pcr import PcrSelection, PcrValues, pcr_digest
from tpm.public import AK, EK, parse_public, parse_tpmt_public
from tpm.response_codes import PCR_CHANGED, POLICY, POLICY_FAIL, SLOTS_FULL, STALE_HANDLES, VALUE
from tpm.sealing import Approval, Approver, Sealing, approver_name, approver_template
from tpm.signature import Signature, parse_signature
from tpm.software import SoftwareTpm, flush_all
from tpm.templates import EndorsementTemplate, attestation_key_template, log_key_template

T = TypeVar("T")

# Two keys stay loaded; the third slot is for the EK while a credential is activated.
MAX_LOADED = 2


@dataclass(frozen=True, slots=True)
class Quoted:
    """TPMS_ATTEST, TPMT_SIGNATURE, and the PCR values the quote covers: bank name -> index -> value."""

    attest: bytes
    signature: bytes
    pcrs: dict[str, dict[int, bytes]]


@dataclass(frozen=True, slots=True)
class Certified:
    """TPMS_ATTEST of type certify, and its TPMT_SIGNATURE."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class LogKey:
    """A P-256 signing key (TPM2B_PUBLIC) that only signs while ``sealing`` satisfies ``policy``."""

    public: bytes
    policy: bytes
    sealing: Sealing


@dataclass(slots=True)
class _Loaded:
    handle: Any
    public: bytes
    qualified_name: bytes


class Device(Connection):
    """An open TPM. Use ``Device.open``, and close it."""

    def __init__(self, tcti: str, address: str, software: SoftwareTpm | None = None) -> None:
        self._loaded: OrderedDict[bytes, _Loaded] = OrderedDict()
        self._checked: tuple[bytes, Any] | None = None
        self._endorsement: tuple[EndorsementTemplate, EndorsementKey] | None = None
        # Our keys name their scheme, so that commands need not.
        self._key_scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
        super().__init__(tcti, address, software)

    def close(self) -> None:
        """Flush the keys, close the connection, and stop the software TPM that was started for it."""
        with self._lock:
            if not self._closed:
                self._forget_keys()
            super().close()

    def _reconnect(self) -> None:
        # Handles belong to the context that is replaced.
        self._loaded.clear()
        super()._reconnect()

    # Loading keys

    def _load(self, template: bytes, hierarchy: Any) -> _Loaded:
        """The key of ``template``: loaded, or made again, which gives the same key."""
        if template in self._loaded:
            self._loaded.move_to_end(template)
            return self._loaded[template]
        while len(self._loaded) >= MAX_LOADED:
            _, oldest = self._loaded.popitem(last=False)
            self._esapi.flush_context(oldest.handle)
        handle, public = self._create(template, hierarchy)
        _, _, qualified = self._esapi.read_public(handle)
        self._loaded[template] = _Loaded(handle, public, bytes(qualified))
        return self._loaded[template]

    def _create(self, template: bytes, hierarchy: Any) -> tuple[Any, bytes]:
        tpm2b = tss.TPM2B_PUBLIC(publicArea=unmarshal(tss.TPMT_PUBLIC, template))
        handle, public, _, _, _ = self._esapi.create_primary(None, tpm2b, hierarchy)
        return handle, public.marshal()

    def _with_keys(self, what: str, use: Callable[[], T]) -> T:
        """Run ``use``; once more with freshly loaded keys where handles went stale or the slots were full.

        A TPM that was reset forgot our keys. A raw software TPM also keeps what killed processes left in it, and
        another process may have cleared ours away.
        """
        with self._doing(what):
            try:
                return use()
            except tss.TSS2_Exception as failed:
                if failed.error not in STALE_HANDLES | SLOTS_FULL:
                    raise
                if failed.error in SLOTS_FULL and self._socket is not None:
                    flush_all(self._socket)
            except _StaleKeyError:
                pass
            self._forget_keys()
            try:
                return use()
            except _StaleKeyError as stale:
                raise DeviceError(f"cannot {what}: {stale}", "close other programs that use this TPM") from stale

    def _forget_keys(self) -> None:
        """Drop our handles. Flushing may fail, and then there was nothing to flush."""
        for key in self._loaded.values():
            try:
                self._esapi.flush_context(key.handle)
            except tss.TSS2_Exception:
                self._esapi.tr_close(key.handle)
        self._loaded.clear()

    def attestation_key(self, label: str = "ak") -> bytes:
        """TPM2B_PUBLIC of the AK ``label``: restricted P-256 signing key in the endorsement hierarchy."""
        return self._with_keys("load the attestation key", lambda: self._attestation_key(label).public)

    def _attestation_key(self, label: str) -> _Loaded:
        return self._load(attestation_key_template(label), tss.ESYS_TR.ENDORSEMENT)

    def quote(self, nonce: bytes, selection: Selection, label: str = "ak") -> Quoted:
        """Quote ``selection`` over ``nonce`` with the AK ``label``; the values read are those the quote covers."""
        wanted = as_selection(selection)
        return self._with_keys("quote", lambda: self._quote(nonce, wanted, label))

    def _quote(self, nonce: bytes, wanted: PcrSelection, label: str) -> Quoted:
        key = self._attestation_key(label)
        for _ in range(MAX_RACES):
            # Read first: the quote takes its snapshot before it signs, and chips sign for a tenth of a second.
            _, values = self._read_once(wanted)
            attest2b, signature = self._esapi.quote(key.handle, tss_selection(wanted), nonce, self._key_scheme)
            raw = bytes(attest2b)
            attest = parse_attest(raw)
            _check_signer(attest, key)
            quoted = attest.attested
            if isinstance(quoted, QuoteInfo) and quoted.pcr_digest == pcr_digest(wanted, values, Alg.SHA256):
                return Quoted(raw, signature.marshal(), values)
        raise DeviceError("PCRs changed at each attempt to quote them", "find what extends PCRs without pause")

    def log_key(self, sealing: Sealing, values: PcrValues | None = None) -> LogKey:
        """The log key that ``sealing`` opens: at ``values``, or at the values that its PCRs have now; or as approved.

        The same values, or the same approver, give the same key again. It lives in the owner hierarchy and has no other
        way in.
        """
        if sealing.selection.is_empty:
            raise DeviceError("a log key without PCRs would sign in any state", "select at least one PCR")
        policy = sealing.policy(self.read_pcrs(sealing.selection) if values is None else values)
        public = self._with_keys("load the log key", lambda: self._log_key(policy).public)
        return LogKey(public, policy, sealing)

    def _log_key(self, policy: bytes) -> _Loaded:
        return self._load(log_key_template(policy), tss.ESYS_TR.OWNER)

    def _same_log_key(self, key: LogKey) -> _Loaded:
        loaded = self._log_key(key.policy)
        if loaded.public != key.public:
            raise DeviceError(
                "this TPM does not hold that log key", "it was cleared or exchanged: introduce a new log key"
            )
        return loaded

    def sign_with_log_key(self, key: LogKey, digest: bytes) -> bytes:
        """Sign a SHA-256 ``digest``; the signature as DER. DeviceError where the PCRs are not those of the policy."""
        return self._with_keys("sign with the log key", lambda: self._sign(key, digest))

    def _sign(self, key: LogKey, digest: bytes) -> bytes:
        loaded = self._same_log_key(key)
        for _ in range(MAX_RACES):
            try:
                with self._policy_session() as session:
                    self._open(session, key.sealing)
                    signed = self._esapi.sign(loaded.handle, digest, self._key_scheme, session1=session)
            except tss.TSS2_Exception as failed:
                if failed.error == PCR_CHANGED:
                    continue
                if failed.error != POLICY_FAIL:
                    raise
                self._check_handle(loaded)
                raise DeviceError(
                    f"the log key refuses to sign: PCRs {key.sealing.selection.as_dict()} are not those it was made for",
                    "bring the machine back to its approved state, or have this one approved: 'ztrooted gateway reseal'",
                ) from failed
            return _checked_der(signed.marshal(), loaded, digest)
        raise DeviceError("PCRs changed at each attempt to sign", "find what extends PCRs without pause")

    def _open(self, session: Any, sealing: Sealing) -> None:
        """Have a policy session satisfy ``sealing``. DeviceError where this state is not the approved one."""
        self._esapi.policy_pcr(session, b"", tss_selection(sealing.selection))
        if sealing.approver is None or sealing.approval is None:
            return
        approver, approval = sealing.approver, sealing.approval
        floor = self._esapi.tr_from_tpmpublic(approver.floor.index)
        try:
            self._esapi.policy_nv(
                floor,
                floor,
                session,
                tss.TPM2B_OPERAND(approval.version.to_bytes(8, "big")),
                tss.TPM2_EO.UNSIGNED_LE,
                session1=tss.ESYS_TR.PASSWORD,
            )
        except tss.TSS2_Exception as failed:
            if failed.error != POLICY:
                raise
            raise DeviceError(
                f"the approval of this state, version {approval.version}, was replaced by a later one",
                "have this state approved again: 'ztrooted gateway reseal'",
            ) from failed
        finally:
            self._esapi.tr_close(floor)
        policy = approver.approved_policy(approval.pcrs, approval.version)
        try:
            self._esapi.policy_authorize(
                session, policy, approver_name(approver.key), self._ticket(approver, approval), approver.reference
            )
        except tss.TSS2_Exception as failed:
            if failed.error != VALUE:
                raise
            raise DeviceError(
                f"PCRs {sealing.selection.as_dict()} are not those that were approved",
                "bring the machine back to its approved state, or have this one approved: 'ztrooted gateway reseal'",
            ) from failed

    def _ticket(self, approver: Approver, approval: Approval) -> Any:
        """That the approver signed: the TPM's own word, which it takes again until its owner hierarchy is cleared."""
        if self._checked is None or self._checked[0] != approval.signature:
            public = tss.TPM2B_PUBLIC(publicArea=unmarshal(tss.TPMT_PUBLIC, approver_template(approver.key)))
            handle = self._esapi.load_external(public, hierarchy=tss.ESYS_TR.OWNER)
            try:
                message = approver.message(approval.pcrs, approval.version)
                signature = unmarshal(tss.TPMT_SIGNATURE, _tpmt_signature(approval.signature))
                ticket = self._esapi.verify_signature(handle, hashlib.sha256(message).digest(), signature)
            finally:
                self._esapi.flush_context(handle)
            self._checked = approval.signature, ticket
        return self._checked[1]

    def _check_handle(self, key: _Loaded) -> None:
        """Another's key at our handle refuses by its own policy: that is no drift of ours."""
        public, _, _ = self._esapi.read_public(key.handle)
        if public.marshal() != key.public:
            raise _StaleKeyError("another key answered to our handle")

    def certify(self, key: LogKey, qualifying_data: bytes, label: str = "ak") -> Certified:
        """TPM2_Certify: the AK ``label`` says that ``key`` lives in the same TPM, under its Name."""
        return self._with_keys("certify the log key", lambda: self._certify(key, qualifying_data, label))

    def _certify(self, key: LogKey, qualifying_data: bytes, label: str) -> Certified:
        certified, signer = self._same_log_key(key), self._attestation_key(label)
        attest2b, signature = self._esapi.certify(certified.handle, signer.handle, qualifying_data, self._key_scheme)
        raw = bytes(attest2b)
        attest = parse_attest(raw)
        _check_signer(attest, signer)
        if not isinstance(attest.attested, CertifyInfo) or attest.attested.qualified_name != certified.qualified_name:
            raise _StaleKeyError("another key answered to our handle")
        return Certified(raw, signature.marshal())

    # The endorsement key

    def endorsement_key(self) -> EndorsementKey:
        """The EK with its certificate and the CAs stored beside it; see ``choose_template`` for which one."""
        return self._with_keys("read the endorsement key", lambda: self._endorsement_key()[1])

    def _endorsement_key(self) -> tuple[EndorsementTemplate, EndorsementKey]:
        if self._endorsement is None:
            indices = self._nv_indices()
            chosen = choose_template(indices, self._nv_read)
            certificate = read_certificate(chosen, indices, self._nv_read)
            chain = read_chain(indices, self._nv_read)
            with self._endorsement_handle(chosen) as (_, public):
                self._endorsement = chosen, EndorsementKey(public, certificate, chain, chosen.name)
        return self._endorsement

    @contextmanager
    def _endorsement_handle(self, chosen: EndorsementTemplate) -> Iterator[tuple[Any, bytes]]:
        """The EK of ``chosen``: the persistent one where it is that, since making an RSA key takes long; else made."""
        handle, public = self._persistent(chosen)
        if handle is not None:
            try:
                yield handle, public
            finally:
                self._esapi.tr_close(handle)
            return
        handle, public = self._create(chosen.template, tss.ESYS_TR.ENDORSEMENT)
        try:
            yield handle, public
        finally:
            self._esapi.flush_context(handle)

    def _persistent(self, chosen: EndorsementTemplate) -> tuple[Any, bytes]:
        if chosen.persistent_handle not in self._handles(range(chosen.persistent_handle, chosen.persistent_handle + 1)):
            return None, b""
        handle = self._esapi.tr_from_tpmpublic(chosen.persistent_handle)
        public, _, _ = self._esapi.read_public(handle)
        marshalled = public.marshal()
        if _is_of_template(marshalled, chosen.template):
            return handle, marshalled
        self._esapi.tr_close(handle)
        return None, b""

    def activate_credential(self, id_object: bytes, encrypted_secret: bytes, label: str = "ak") -> bytes:
        """TPM2_ActivateCredential: the secret sealed to our EK and the Name of the AK ``label``.

        Both arguments are as ``tpm.credential.make_credential`` gives them (TPM2B). A credential made for another key
        or TPM is a DeviceError.
        """
        blob = unmarshal(tss.TPM2B_ID_OBJECT, id_object)
        secret = unmarshal(tss.TPM2B_ENCRYPTED_SECRET, encrypted_secret)
        return self._with_keys("activate the credential", lambda: self._activate(blob, secret, label))

    def _activate(self, blob: Any, secret: Any, label: str) -> bytes:
        chosen, _ = self._endorsement_key()
        key = self._attestation_key(label)
        with self._endorsement_handle(chosen) as (handle, _):
            if not chosen.needs_policy:
                return bytes(self._esapi.activate_credential(key.handle, handle, blob, secret))
            with self._policy_session() as session:
                self._esapi.policy_secret(tss.ESYS_TR.ENDORSEMENT, session)
                return bytes(self._esapi.activate_credential(key.handle, handle, blob, secret, session2=session))


class _StaleKeyError(Exception):
    """Our handle now belongs to somebody else's key."""


def _is_of_template(public: bytes, template: bytes) -> bool:
    """Whether ``public`` is the template with the unique field filled in. Anything may lie at a persistent handle."""
    try:
        theirs, ours = parse_public(public, reasons=EK), parse_tpmt_public(template, reasons=EK)
    except EvidenceError:
        return False
    return replace(theirs, unique=b"", raw=b"") == replace(ours, unique=b"", raw=b"")


def _check_signer(attest: Attest, key: _Loaded) -> None:
    if attest.qualified_signer != key.qualified_name:
        raise _StaleKeyError("another key answered to our handle")


def _tpmt_signature(der: bytes) -> bytes:
    """An ECDSA signature over SHA-256 as TPMT_SIGNATURE."""
    values = (value.to_bytes(32, "big") for value in utils.decode_dss_signature(der))
    return Signature(Alg.ECDSA, Alg.SHA256, tuple(values)).marshal()


def _checked_der(signature: bytes, key: _Loaded, digest: bytes) -> bytes:
    """The TPMT_SIGNATURE as DER, after verifying it: with a stale handle another key may have signed."""
    r, s = parse_signature(signature).values
    der = utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    public = parse_public(key.public, reasons=AK).key()
    assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 — our own template says so
    try:
        public.verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature as other:
        raise _StaleKeyError("another key answered to our handle") from other
    return der
