"""Key templates and policies, byte for byte against the TSS's own."""

import pytest

from tpm.device import Device
from tpm.device_connection import tss, unmarshal
from tpm.pcr import PcrSelection
from tpm.public import EK, EccPoint, parse_tpmt_public
from tpm.templates import (
    ENDORSEMENT_TEMPLATES,
    EndorsementTemplate,
    attestation_key_template,
    log_key_template,
    policy_pcr,
    with_nonce,
)

NAMES = {
    "L-1": "EK-RSA2048",
    "L-2": "EK-ECC256",
    "H-1": "EK-HIGH-RSA2048",
    "H-2": "EK-HIGH-ECC256",
    "H-3": "EK-HIGH-ECC384",
}


def theirs(template: EndorsementTemplate, nonce: bytes | None = None) -> bytes:
    """The TSS's template where the TPM holds a certificate, and perhaps a nonce."""
    from tpm2_pytss.utils import NoSuchIndex, create_ek_template  # noqa: PLC0415 — an oracle of this test alone

    def read(index: int) -> bytes:
        if index == template.certificate_index:
            return b"certificate"
        if nonce is not None and index == template.certificate_index + 1:
            return nonce
        raise NoSuchIndex(index)

    _, public = create_ek_template(NAMES[template.name], read)
    area = public.publicArea
    return bytes(area.marshal())


@pytest.mark.parametrize("template", ENDORSEMENT_TEMPLATES, ids=lambda template: template.name)
def test_endorsement_templates_are_those_of_the_profile(template: EndorsementTemplate) -> None:
    assert template.template == theirs(template)


@pytest.mark.parametrize("name", ["L-1", "L-2"])
@pytest.mark.parametrize("nonce", [b"\x01", b"\xaa" * 20, b"\xbb" * 32])
def test_a_vendors_nonce_goes_where_the_profile_says(name: str, nonce: bytes) -> None:
    template = next(known for known in ENDORSEMENT_TEMPLATES if known.name == name)
    assert with_nonce(template.template, nonce) == theirs(template, nonce)


def test_only_low_range_templates_have_a_nonce_beside_them() -> None:
    assert {known.name for known in ENDORSEMENT_TEMPLATES if known.nonce_index} == {"L-1", "L-2"}
    assert {known.name for known in ENDORSEMENT_TEMPLATES if known.template_index} == {"L-1", "L-2"}


@pytest.mark.parametrize("template", [attestation_key_template("ak"), log_key_template(bytes(32))])
def test_our_templates_parse_the_same_everywhere(template: bytes) -> None:
    assert parse_tpmt_public(template, reasons=EK).marshal_tpmt() == template
    assert unmarshal(tss.TPMT_PUBLIC, template).marshal() == template


def test_a_label_is_the_whole_difference_between_two_attestation_keys() -> None:
    one, other = (parse_tpmt_public(attestation_key_template(label)) for label in ("one", "other"))
    assert isinstance(one.unique, EccPoint)
    assert one.unique != other.unique
    assert one.marshal_tpmt().replace(one.unique.marshal(), b"") == other.marshal_tpmt().replace(
        other.unique.marshal(), b""
    )


def test_the_policy_digest_is_what_a_trial_session_computes(device: Device) -> None:
    selection = PcrSelection.of({"sha1": [0], "sha256": [4, 7, 10]})
    device.extend(7, {"sha256": b"\x01" * 32})
    esapi = device._esapi
    none = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
    session = esapi.start_auth_session(tss.ESYS_TR.NONE, tss.ESYS_TR.NONE, tss.TPM2_SE.TRIAL, none, tss.TPM2_ALG.SHA256)
    esapi.policy_pcr(session, b"", unmarshal(tss.TPML_PCR_SELECTION, selection.marshal()))
    computed = esapi.policy_get_digest(session)
    esapi.flush_context(session)
    assert policy_pcr(selection, device.read_pcrs(selection)) == bytes(computed)
