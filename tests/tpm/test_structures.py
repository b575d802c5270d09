"""Structures read and written: byte-exact round trips, and agreement with tpm2-pytss's own marshalling both ways."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpm.algorithms import BANKS, Alg
from tpm.attest import (
    MAX_ATTEST,
    Attest,
    AttestType,
    CertifyInfo,
    ClockInfo,
    CommandAuditInfo,
    CreationInfo,
    NvCertifyInfo,
    NvDigestInfo,
    QuoteInfo,
    SessionAuditInfo,
    TimeInfo,
    parse_attest,
)
from tpm.codec import Reader
from tpm.credential import IdObject, parse_id_object
from tpm.errors import EvidenceError, MalformedError, RejectedError
from tpm.pcr import PCR_COUNT, PcrSelection, parse_pcr_selection
from tpm.public import (
    AK,
    EK,
    Curve,
    EccPoint,
    ObjectAttributes,
    Public,
    Scheme,
    Symmetric,
    parse_public,
    parse_tpmt_public,
)
from tpm.reasons import EvidenceReason
from tpm.signature import DEFAULT_SIGNATURES, SIGNATURE_NAMES, Signature, parse_signature

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
names = st.binary(max_size=66)
digests = st.binary(max_size=64)
selections = st.dictionaries(
    st.sampled_from(sorted(BANKS.values())), st.sets(st.integers(0, PCR_COUNT - 1)), max_size=4
).map(PcrSelection.of)
clocks = st.builds(ClockInfo, u64, u32, u32, st.booleans())
bodies: dict[AttestType, st.SearchStrategy[Any]] = {
    AttestType.QUOTE: st.builds(QuoteInfo, selections, digests),
    AttestType.CERTIFY: st.builds(CertifyInfo, names, names),
    AttestType.CREATION: st.builds(CreationInfo, names, digests),
    AttestType.NV: st.builds(NvCertifyInfo, names, u16, st.binary(max_size=300)),
    AttestType.NV_DIGEST: st.builds(NvDigestInfo, names, digests),
    AttestType.TIME: st.builds(TimeInfo, u64, clocks, u64),
    AttestType.SESSION_AUDIT: st.builds(SessionAuditInfo, st.booleans(), digests),
    AttestType.COMMAND_AUDIT: st.builds(CommandAuditInfo, u64, st.sampled_from([*BANKS]), digests, digests),
}
attests = st.sampled_from(sorted(bodies)).flatmap(
    lambda kind: st.builds(Attest, st.just(kind), names, names, clocks, u64, bodies[kind], st.just(b""))
)

signatures = st.sampled_from(sorted(SIGNATURE_NAMES)).flatmap(
    lambda scheme: st.builds(
        partial(Signature, *scheme),
        st.tuples(st.binary(max_size=66), st.binary(max_size=66))
        if scheme[0] is Alg.ECDSA
        else st.tuples(st.binary(max_size=512)),
    )
)

hash_algs = st.sampled_from([Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512])
symmetrics = st.none() | st.builds(
    Symmetric, st.just(Alg.AES), st.sampled_from([128, 192, 256]), st.sampled_from([Alg.CFB, Alg.CTR])
)
attributes = st.sets(st.sampled_from(list(ObjectAttributes))).map(lambda bits: ObjectAttributes(sum(bits)))
# X.509 signing and the firmware attributes are younger than some TSS releases, which drop or refuse them.
known_attributes = attributes.map(
    lambda bits: bits & ~(ObjectAttributes.FIRMWARE_LIMITED | ObjectAttributes.SVN_LIMITED)
)
rsa_schemes = (
    st.none()
    | st.builds(Scheme, st.sampled_from([Alg.RSASSA, Alg.RSAPSS, Alg.OAEP]), hash_algs)
    | st.just(Scheme(Alg.RSAES, None))
)
ecc_schemes = (
    st.none()
    | st.builds(Scheme, st.sampled_from([Alg.ECDSA, Alg.ECDH, Alg.SM2, Alg.ECSCHNORR]), hash_algs)
    | st.builds(Scheme, st.just(Alg.ECDAA), hash_algs, u16)
)
kdfs = st.none() | st.builds(Scheme, st.sampled_from([Alg.MGF1, Alg.KDF1_SP800_56A, Alg.KDF1_SP800_108]), hash_algs)
points = st.builds(EccPoint, st.binary(max_size=66), st.binary(max_size=66))
head = (hash_algs, known_attributes, digests)
publics: st.SearchStrategy[Public] = st.one_of(
    st.builds(
        lambda n, a, p, sym, sch, bits, e, uniq: Public(Alg.RSA, n, a, p, sym, sch, bits, e, None, None, uniq, b""),
        *(*head, symmetrics, rsa_schemes, st.sampled_from([1024, 2048, 3072, 4096]), u32, st.binary(max_size=512)),
    ),
    st.builds(
        lambda n, a, p, sym, sch, c, k, uniq: Public(Alg.ECC, n, a, p, sym, sch, None, None, c, k, uniq, b""),
        *(*head, symmetrics, ecc_schemes, st.sampled_from(list(Curve)[:8]), kdfs, points),
    ),
    st.builds(
        lambda n, a, p, sch, uniq: Public(Alg.KEYEDHASH, n, a, p, None, sch, None, None, None, None, uniq, b""),
        *(*head, st.none() | st.builds(Scheme, st.just(Alg.HMAC), hash_algs), digests),
    ),
    st.builds(
        lambda n, a, p, sym, uniq: Public(Alg.SYMCIPHER, n, a, p, sym, None, None, None, None, None, uniq, b""),
        *(*head, st.builds(Symmetric, st.just(Alg.AES), st.just(128), st.just(Alg.CFB)), digests),
    ),
)


def pytss() -> Any:
    return pytest.importorskip("tpm2_pytss", reason="tpm2_pytss is not installed")


def unmarshalled(structure: Any, data: bytes) -> Any:
    parsed, used = structure.unmarshal(data)
    assert used == len(data)
    return parsed


@settings(deadline=None)
@given(attests)
def test_attest_round_trips_and_pytss_reads_it_alike(attest: Attest) -> None:
    data = attest.marshal()
    parsed = parse_attest(data)
    assert parsed.marshal() == parsed.raw == data
    assert (parsed.type, parsed.extra_data, parsed.attested) == (attest.type, attest.extra_data, attest.attested)
    if attest.type is AttestType.NV_DIGEST:
        return  # added in revision 1.59 of the specification; the TSS does not know it
    theirs = unmarshalled(pytss().TPMS_ATTEST, data)
    assert bytes(theirs.marshal()) == data
    assert int(theirs.magic) == 0xFF544347
    assert bytes(theirs.extraData) == attest.extra_data
    clock = theirs.clockInfo
    shown = ClockInfo(int(clock.clock), int(clock.resetCount), int(clock.restartCount), bool(clock.safe))
    assert shown == attest.clock
    assert int(theirs.firmwareVersion) == attest.firmware_version


@settings(deadline=None)
@given(selections, names, digests)
def test_quotes_written_by_pytss_are_read(selection: PcrSelection, nonce: bytes, value: bytes) -> None:
    tss = pytss()
    text = "+".join(f"{bank}:{','.join(map(str, indices))}" for bank, indices in selection.banks if indices)
    if not text:
        return
    quote = tss.TPMS_QUOTE_INFO(pcrSelect=tss.TPML_PCR_SELECTION.parse(text), pcrDigest=value)
    body = tss.TPMU_ATTEST(quote=quote)
    clock = tss.TPMS_CLOCK_INFO(clock=3, resetCount=2, restartCount=1, safe=1)
    theirs = tss.TPMS_ATTEST(
        magic=0xFF544347,
        type=tss.TPM2_ST.ATTEST_QUOTE,
        qualifiedSigner=tss.TPM2B_NAME(name=b"\x00\x0b" + bytes(32)),
        extraData=tss.TPM2B_DATA(nonce[:64]),
        clockInfo=clock,
        firmwareVersion=9,
        attested=body,
    )
    attest = parse_attest(bytes(theirs.marshal()), expected=AttestType.QUOTE)
    assert isinstance(attest.attested, QuoteInfo)
    assert attest.attested.selection.same_pcrs(PcrSelection.of({b: i for b, i in selection.banks if i}))
    assert (attest.attested.pcr_digest, attest.extra_data) == (value, nonce[:64])
    assert (attest.clock, attest.firmware_version) == (ClockInfo(3, 2, 1, safe=True), 9)


@settings(deadline=None)
@given(publics)
def test_public_round_trips_and_pytss_reads_it_alike(public: Public) -> None:
    data = public.marshal()
    parsed = parse_public(data)
    assert parsed.marshal() == data
    assert parsed.marshal_tpmt() == parsed.raw == data[2:]
    assert parse_tpmt_public(data[2:]) == parsed
    theirs = unmarshalled(pytss().TPM2B_PUBLIC, data)
    assert bytes(theirs.marshal()) == data
    assert bytes(theirs.get_name()) == parsed.name
    area = theirs.publicArea
    assert (int(area.type), int(area.nameAlg)) == (parsed.type, parsed.name_alg)
    assert int(area.objectAttributes) == int(parsed.attributes)


@pytest.mark.parametrize(
    "template", ["rsa2048", "rsa3072:rsapss-sha384", "ecc256:ecdsa-sha256", "ecc384", "hmac:sha256"]
)
@settings(deadline=None)
@given(attributes=known_attributes, policy=digests)
def test_public_areas_written_by_pytss_are_read(template: str, attributes: ObjectAttributes, policy: bytes) -> None:
    tss = pytss()
    attributes &= ~ObjectAttributes.DECRYPT  # which its parser refuses next to a signing scheme
    theirs = tss.TPM2B_PUBLIC.parse(template, objectAttributes=tss.TPMA_OBJECT(int(attributes)), authPolicy=policy)
    data = bytes(theirs.marshal())
    parsed = parse_public(data)
    assert parsed.marshal() == data
    assert parsed.name == bytes(theirs.get_name())
    assert (int(parsed.attributes), parsed.auth_policy) == (int(attributes), policy)


@settings(deadline=None)
@given(signatures)
def test_signature_round_trips_and_pytss_reads_it_alike(signature: Signature) -> None:
    data = signature.marshal()
    assert parse_signature(data) == signature
    theirs = unmarshalled(pytss().TPMT_SIGNATURE, data)
    assert bytes(theirs.marshal()) == data


@settings(deadline=None)
@given(selections)
def test_selection_round_trips_and_pytss_reads_it_alike(selection: PcrSelection) -> None:
    data = selection.marshal()
    reader = Reader(data, EvidenceReason.PCR_MALFORMED)
    assert parse_pcr_selection(reader) == selection
    reader.done("selection")
    assert PcrSelection.of(selection.as_dict()) == selection
    theirs = unmarshalled(pytss().TPML_PCR_SELECTION, data)
    assert bytes(theirs.marshal()) == data


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=64), st.binary(min_size=3, max_size=66))
def test_id_object_round_trips(integrity: bytes, encrypted: bytes) -> None:
    data = IdObject(integrity, encrypted).marshal()
    assert parse_id_object(data) == IdObject(integrity, encrypted)
    for broken in (data + b"\0", data[:-1], data[:2] + b"\xff\xff" + data[4:], b"", b"\0\0"):
        with pytest.raises(MalformedError) as caught:
            parse_id_object(broken)
        assert caught.value.reason == "credential.malformed"


PARSERS: list[Callable[[bytes], object]] = [
    parse_attest,
    parse_public,
    parse_tpmt_public,
    parse_signature,
    parse_id_object,
]


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_changed_structures_parse_or_raise_evidence_errors_and_reparse_to_themselves(
    parse: Callable[[bytes], object], data: st.DataObject
) -> None:
    """Whatever parses is written back as the very bytes it came from: no two encodings mean the same."""
    seeds = {parse_attest: attests, parse_public: publics, parse_signature: signatures}
    seed = data.draw(seeds.get(parse, publics)).marshal()  # type: ignore[attr-defined]
    changed = bytearray(seed[2:] if parse is parse_tpmt_public else seed)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(u8)
    changed = changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed
    try:
        parsed: Any = parse(bytes(changed))
    except EvidenceError:
        return
    written = parsed.marshal_tpmt() if parse is parse_tpmt_public else parsed.marshal()
    assert written == bytes(changed)


def test_an_attestation_over_its_maximum_is_refused_unread() -> None:
    with pytest.raises(MalformedError):
        parse_attest(bytes(MAX_ATTEST + 1))


def test_an_attestation_of_any_type_parses_unless_one_is_expected() -> None:
    attest = Attest(
        AttestType.TIME, b"", b"", ClockInfo(1, 2, 3, safe=True), 4, TimeInfo(1, ClockInfo(1, 2, 3, safe=True), 4), b""
    )
    assert parse_attest(attest.marshal()).type is AttestType.TIME
    with pytest.raises(RejectedError) as caught:
        parse_attest(attest.marshal(), expected=AttestType.CERTIFY)
    assert caught.value.reason == "attest.type"


def test_refusals_of_an_endorsement_key_are_in_its_own_family() -> None:
    for reasons, family in ((AK, "ak."), (EK, "ek.")):
        with pytest.raises(EvidenceError) as caught:
            parse_public(b"", reasons=reasons)
        assert caught.value.reason.startswith(family)
        broken = Public(
            Alg.ECC,
            Alg.NULL,
            ObjectAttributes(0),
            b"",
            None,
            None,
            None,
            None,
            Curve.P256,
            None,
            EccPoint(b"", b""),
            b"",
        )
        parsed = parse_tpmt_public(broken.marshal_tpmt(), reasons=reasons)
        for use in (parsed.key, lambda parsed=parsed: parsed.name):
            with pytest.raises(RejectedError) as rejected:
                use()
            assert rejected.value.reason.startswith(family)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ((0, b"\x00\x0b"), "object type"),
        ((0, b"\x77\x77"), "object type"),
        ((2, b"\x00\x06"), "nameAlg"),
        ((10, b"\x00\x44"), "symmetric algorithm"),
        ((12, b"\x00\x14"), "scheme"),
        ((14, b"\x00\x06"), "hash of the scheme"),
        ((16, b"\x77\x77"), "curve"),
    ],
)
def test_unknown_selectors_are_refused_by_name(change: tuple[int, bytes], detail: str) -> None:
    scheme = Scheme(Alg.ECDSA, Alg.SHA256)
    public = Public(
        Alg.ECC,
        Alg.SHA256,
        ObjectAttributes(0),
        b"",
        None,
        scheme,
        None,
        None,
        Curve.P256,
        None,
        EccPoint(b"", b""),
        b"",
    )
    raw = public.marshal_tpmt()
    at, other = change
    with pytest.raises(MalformedError, match=detail):
        parse_tpmt_public(raw[:at] + other + raw[at + 2 :])


def test_the_name_is_the_name_algorithm_and_the_digest() -> None:
    public = Public(
        Alg.SYMCIPHER, Alg.SHA384, ObjectAttributes(0), b"", None, None, None, None, None, None, bytes(32), b""
    )
    parsed = parse_tpmt_public(public.marshal_tpmt())
    assert parsed.name == b"\x00\x0c" + hashlib.sha384(parsed.raw).digest()


def test_the_signature_names_are_those_of_three_schemes_and_three_hashes() -> None:
    assert len(DEFAULT_SIGNATURES) == 9
    assert {"rsassa-sha256", "rsapss-sha384", "ecdsa-sha512"} < DEFAULT_SIGNATURES
