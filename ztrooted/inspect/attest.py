"""``TPMS_ATTEST`` of any type, decoded. Nothing in it is verified: that takes a key and a nonce."""

from tpm.algorithms import BANKS, DIGEST_SIZE
from tpm.attest import Attest, QuoteInfo, parse_attest
from ztrooted.inspect.plain import Report, plain


def inspect_attest(data: bytes) -> Report:
    """Decode an attestation; ``attest.*`` codes (EvidenceError) for what none is."""
    return {"verified": False, **describe_attest(parse_attest(data))}


def describe_attest(attest: Attest) -> Report:
    """The fields of a parsed attestation: type, signer, extraData, clock, firmware version, and what is attested."""
    attested = plain(attest.attested)
    if isinstance(attest.attested, QuoteInfo):
        attested["selection"] = attest.attested.selection.as_dict()
    return {
        "type": attest.type.name.lower(),
        "qualified_signer": attest.qualified_signer.hex(),
        "qualified_signer_alg": name_algorithm(attest.qualified_signer),
        "extra_data": attest.extra_data.hex(),
        "clock": plain(attest.clock),
        "firmware_version": f"0x{attest.firmware_version:016x}",
        "attested": attested,
        "size": len(attest.raw),
    }


def name_algorithm(name: bytes) -> str | None:
    """The hash algorithm of a Name, None where it is empty, a handle, or no Name at all (Part 1 §16)."""
    for alg, bank in BANKS.items():
        if name[:2] == alg.to_bytes(2, "big") and len(name) == 2 + DIGEST_SIZE[alg]:
            return bank
    return None
