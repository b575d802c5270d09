"""Response codes of the TSS and the TPM that we act upon, and what a person can do about the others (Part 2 §6.6)."""

# Numbers without the index of the handle, session or parameter they complain about.
PCR_CHANGED = 0x128
POLICY = 0x126
POLICY_FAIL = 0x09D
VALUE = 0x084
SLOTS_FULL = frozenset({0x902, 0x903})
# TPM_RC_REFERENCE_H0 to _S6, and TPM_RC_HANDLE.
STALE_HANDLES = frozenset(range(0x910, 0x91F)) | {0x08B}
# TPM_RC_AUTH_FAIL, _BAD_AUTH, _AUTH_UNAVAILABLE, _NV_AUTHORIZATION.
_AUTHORIZATION = frozenset({0x08E, 0x0A2, 0x12F, 0x149})
_LOCKOUT = 0x921
_INITIALIZE, _FAILURE = 0x100, 0x101

# Bits 16 to 23 name the layer of the TSS that answers (TSS 2.0 Overview §3): the transport; and the ESAPI, which is in
# the wrong state (TSS2_BASE_RC_BAD_SEQUENCE) for good once the transport has failed.
_LAYER = 0xFF << 16
_TRANSPORT = 10 << 16
_ESAPI_BAD_SEQUENCE = 7 << 16 | 7


def connection_lost(code: int) -> bool:
    """Whether ``code`` says that nobody is there any more, rather than what the TPM thinks of a command."""
    return code & _LAYER == _TRANSPORT or code == _ESAPI_BAD_SEQUENCE


def remedy(code: int, error: int, address: str) -> str:
    """What to do about response ``code`` (``error`` without its index) of the TPM at ``address``."""
    if connection_lost(code):
        return f"check that the TPM at {address} is still there and that no other program holds it, then try again"
    if error in _AUTHORIZATION:
        return "its hierarchies have passwords: clear them (tpm2_changeauth), or clear the TPM"
    if error == _LOCKOUT:
        return "the TPM is in dictionary-attack lockout: wait, or reset it (tpm2_dictionarylockout)"
    if error in SLOTS_FULL:
        return "use the kernel's resource manager (/dev/tpmrm0), or close other programs that use this TPM"
    if error in {_INITIALIZE, _FAILURE}:
        return "the TPM was not started or is in failure mode: restart the machine (or its software TPM)"
    return "see the TPM's answer; TSS2_LOG=all+debug shows what was sent"
