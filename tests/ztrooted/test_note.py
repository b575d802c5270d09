"""Signed notes: the C2SP format, its signature types, and what a verifier does with keys it knows and doesn't."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.support import corpus
from tests.support.notes import TIME, NoteSigner, checkpoint_text
from ztrooted import note
from ztrooted.errors import ProofError
from ztrooted.note import Note, Signature, format_note, parse_note, verify_note
from ztrooted.note_keys import SignatureType, check_signature, ecdsa_key, note_key, parse_vkey
from ztrooted.reasons import GateReason

TEXT = checkpoint_text()
TYPES = [kind for kind in SignatureType if kind is not SignatureType.OTHER]
TIMED = (SignatureType.ED25519_COSIGNATURE, SignatureType.RFC6962, SignatureType.ML_DSA_44_COSIGNATURE)


def refused(reason: GateReason, call: Any, *args: Any) -> None:
    with pytest.raises(ProofError) as caught:
        call(*args)
    assert caught.value.reason is reason


def signed(text: bytes, *signers: NoteSigner) -> Note:
    return parse_note(format_note(text, [signer.sign(text) for signer in signers]))


@pytest.mark.parametrize("kind", TYPES)
def test_each_signature_type_verifies_and_says_its_time(kind: SignatureType) -> None:
    signer = NoteSigner.of("log.test/lineage", kind)
    verified = verify_note(signed(TEXT, signer), [parse_vkey(signer.key.vkey)])
    assert verified.text == TEXT
    assert [(item.key, item.timestamp) for item in verified.signed_by] == [
        (parse_vkey(signer.key.vkey), TIME if kind in TIMED else None)
    ]


@pytest.mark.parametrize("kind", TYPES)
def test_each_signature_type_refuses_another_text_key_and_bytes(kind: SignatureType) -> None:
    signer, other = NoteSigner.of("log.test/lineage", kind), NoteSigner.of("log.test/lineage", kind)
    value = signer.sign(TEXT).value
    other_text = checkpoint_text(size=8)
    for text, forged in [
        (other_text, value),
        (TEXT, other.sign(TEXT).value),
        (TEXT, value[:-1]),
        (TEXT, value + b"\0"),
        (TEXT, value[:3]),
        (TEXT, value[:-1] + bytes([value[-1] ^ 1])),
    ]:
        made = Note(text, (note.signature_of(signer.key, forged),))
        refused(GateReason.NOTE_SIGNATURE, verify_note, made, [signer.key])


@pytest.mark.parametrize("kind", TIMED)
def test_the_time_of_a_signature_is_signed_and_bounded(kind: SignatureType) -> None:
    signer = NoteSigner.of("witness.test", kind)
    value = signer.sign(TEXT).value
    for stamp in (TIME + 1, 1 << 63):
        made = Note(TEXT, (note.signature_of(signer.key, stamp.to_bytes(8, "big") + value[8:]),))
        refused(GateReason.NOTE_SIGNATURE, verify_note, made, [signer.key])


@pytest.mark.parametrize("kind", TIMED)
def test_a_time_out_of_range_is_refused_although_it_is_signed(kind: SignatureType) -> None:
    signer = NoteSigner.of("witness.test", kind)
    for stamp in (0, (1 << 63) - 1):
        made = Note(TEXT, (signer.sign(TEXT, stamp),))
        assert verify_note(made, [signer.key]).signed_by[0].timestamp == stamp
    refused(GateReason.NOTE_SIGNATURE, verify_note, Note(TEXT, (signer.sign(TEXT, 1 << 63),)), [signer.key])


def test_an_origin_that_a_cosigned_message_cannot_hold_is_refused() -> None:
    signer = NoteSigner.of("witness.test", SignatureType.ML_DSA_44_COSIGNATURE)
    line = signer.sign(TEXT)
    refused(GateReason.NOTE_SIGNATURE, verify_note, Note(checkpoint_text("o" * 256), (line,)), [signer.key])
    assert verify_note(signed(checkpoint_text("o" * 255), signer), [signer.key])


def test_a_tree_head_signature_has_the_length_it_says() -> None:
    signer = NoteSigner.of("ct.test", SignatureType.RFC6962)
    value = bytearray(signer.sign(TEXT).value)
    value[11] ^= 1
    made = Note(TEXT, (note.signature_of(signer.key, bytes(value)),))
    refused(GateReason.NOTE_SIGNATURE, verify_note, made, [signer.key])


@pytest.mark.parametrize("kind", [SignatureType.RFC6962, SignatureType.ML_DSA_44_COSIGNATURE])
def test_types_that_sign_a_tree_head_refuse_other_texts(kind: SignatureType) -> None:
    signer = NoteSigner.of("witness.test", kind)
    for text in (b"no checkpoint\n", b"origin\n01\nAAAA\n", b"origin\n1\nAAAA\n"):
        made = Note(text, (note.signature_of(signer.key, signer.sign(TEXT).value),))
        refused(GateReason.NOTE_SIGNATURE, verify_note, made, [signer.key])


def test_rfc_6962_logs_may_have_rsa_keys() -> None:
    signer = NoteSigner.of("ct.test", SignatureType.RFC6962, rsa.generate_private_key(65537, 2048))
    assert verify_note(signed(TEXT, signer), [parse_vkey(signer.key.vkey)]).signed_by[0].timestamp == TIME


def test_a_tree_head_signature_names_the_algorithm_of_its_key() -> None:
    signer = NoteSigner.of("ct.test", SignatureType.RFC6962)
    value = bytearray(signer.sign(TEXT).value)
    value[9] = 1  # says RSA
    refused(
        GateReason.NOTE_SIGNATURE, verify_note, Note(TEXT, (note.signature_of(signer.key, bytes(value)),)), [signer.key]
    )


def test_the_key_id_of_ecdsa_depends_on_the_key_alone() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert ecdsa_key("a.test", public).key_id == ecdsa_key("b.test", public).key_id


def test_a_signature_of_an_unknown_key_is_ignored_but_is_not_enough() -> None:
    known, stranger = (NoteSigner.of(name, SignatureType.ED25519) for name in ("known.test", "stranger.test"))
    both = verify_note(signed(TEXT, stranger, known), [known.key])
    assert [item.key.name for item in both.signed_by] == ["known.test"]
    refused(GateReason.NOTE_SIGNATURE, verify_note, signed(TEXT, stranger), [known.key])
    refused(GateReason.NOTE_SIGNATURE, verify_note, signed(TEXT, known), [])


def test_a_bad_signature_of_a_known_key_refuses_the_note() -> None:
    first, second = (NoteSigner.of(name, SignatureType.ED25519) for name in ("first.test", "second.test"))
    bad = Signature("second.test", second.key.key_id, bytes(64))
    made = Note(TEXT, (first.sign(TEXT), bad))
    refused(GateReason.NOTE_SIGNATURE, verify_note, made, [first.key, second.key])
    assert verify_note(made, [first.key]).signed_by[0].key == first.key


def test_the_same_name_or_id_alone_makes_no_known_key() -> None:
    key, other = (NoteSigner.of("log.test", SignatureType.ED25519) for _ in range(2))
    line = key.sign(TEXT)
    renamed = Note(TEXT, (Signature("other.test", line.key_id, line.value),))
    refused(GateReason.NOTE_SIGNATURE, verify_note, renamed, [key.key])
    refused(GateReason.NOTE_SIGNATURE, verify_note, Note(TEXT, (line,)), [other.key])


def test_verifiers_that_cannot_be_told_apart_are_refused() -> None:
    signer = NoteSigner.of("log.test", SignatureType.ED25519)
    refused(GateReason.NOTE_KEY, verify_note, signed(TEXT, signer), [signer.key, signer.key])


@pytest.mark.parametrize("text", [b"text\n", "é\n\n\nwith empty lines\n\n— not a signature\n".encode(), b"\n"])
def test_the_text_may_hold_anything_but_control_characters(text: bytes) -> None:
    signer = NoteSigner.of("näme/ü", SignatureType.ED25519)
    made = signed(text, signer)
    assert made.text == text
    assert verify_note(made, [signer.key]).text == text


GOOD = b"text\n\n\xe2\x80\x94 log.test " + base64.b64encode(bytes(8)) + b"\n"


def test_the_good_note_of_the_next_test_is_good() -> None:
    assert parse_note(GOOD) == Note(b"text\n", (Signature("log.test", 0, bytes(4)),))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"\n\n", b"\n" + GOOD[6:], b"text\n", b"text\n\n", GOOD[:-1], GOOD + b"\n", GOOD.replace(b"\n\n", b"\n"),
        GOOD.replace(b"text", b"te\txt"), GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"text", b"te\0xt"),
        GOOD.replace(b"text", b"\xff"), GOOD.replace(b"log", b"\xff"), GOOD.replace(b"\xe2\x80\x94", b"-"),
        GOOD.replace(b"\xe2\x80\x94 ", b"\xe2\x80\x94"), GOOD.replace(b" log.test", b" "),
        GOOD.replace(b"log.", b"log+"),
        GOOD.replace(b"log.", b"log\xc2\xa0"), GOOD.replace(b"AA=", b"AA"), GOOD.replace(b"AA=", b"AB="),
        GOOD.replace(b"AA=", b"A\xc3="), GOOD.replace(b"AAAAAAAAAAA=", b"AAAAAA=="), GOOD.replace(b"AAA", b"A A"),
        GOOD.replace(b"AAAAAAAAAAA=", b""), GOOD + GOOD[6:] + b"x\n", GOOD[:6] + GOOD[6:] * 101,
        b"x" * (note.MAX_NOTE) + GOOD, GOOD.replace(b"log.test", b"l" * 256),
    ],
)  # fmt: skip
def test_malformed_notes_are_refused(data: bytes) -> None:
    refused(GateReason.NOTE_MALFORMED, parse_note, data)


def test_a_hundred_signatures_are_read() -> None:
    assert len(parse_note(GOOD[:6] + GOOD[6:] * 100).signatures) == 100


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda end: GOOD[:-5] + end))
def test_parsing_any_bytes_refuses_them_or_gives_them_back(data: bytes) -> None:
    try:
        parsed = parse_note(data)
    except ProofError:
        return
    assert format_note(parsed.text, parsed.signatures) == data


@pytest.mark.parametrize("text", [b"no newline", b"tab\t\n", b"\xff\n"])
def test_what_cannot_be_read_again_cannot_be_written(text: bytes) -> None:
    refused(GateReason.NOTE_MALFORMED, format_note, text, [Signature("log.test", 1, b"x")])
    refused(GateReason.NOTE_MALFORMED, format_note, b"text\n", [Signature("log test", 1, b"x")])


VKEY = NoteSigner.of("log.test", SignatureType.ED25519).key.vkey


@pytest.mark.parametrize(
    "text",
    [
        "", "+", "++", "log.test", VKEY[:-1], VKEY + "=", VKEY + "\n", " " + VKEY, VKEY.replace("log.test", ""),
        VKEY.replace("log.test", "log test"), VKEY.replace("log.test", "other.test"), VKEY.replace("+", "+0", 1),
        VKEY.replace("+", "+ ", 1), "log.test+00000000+" + VKEY.split("+", 2)[2], VKEY + "A" * 5000,
        VKEY[:9].upper() + VKEY[9:], "log.test+deadbeef+/w==", "log.test+deadbeef+", "lög.test+ffffffff+é",
    ],
)  # fmt: skip
def test_malformed_verifier_keys_are_refused(text: str) -> None:
    refused(GateReason.NOTE_KEY, parse_vkey, text)


def test_a_key_id_is_eight_lower_case_digits() -> None:
    name, digits, encoded = VKEY.split("+", 2)
    for other in (f"00{digits}", digits[:-1], f"0x{digits[2:]}", f" {digits}", "ABCDEF12"):
        refused(GateReason.NOTE_KEY, parse_vkey, f"{name}+{other}+{encoded}")


def test_a_key_has_a_name_that_can_stand_in_a_note() -> None:
    material = NoteSigner.of("x", SignatureType.ED25519).key.material
    assert note_key("x" * 255, SignatureType.ED25519, material)
    for name in ("", "a b", "a+b", "a\n", "a\x01", "a\u3000b", "x" * 256, "\ud800"):
        refused(GateReason.NOTE_KEY, note_key, name, SignatureType.ED25519, material)


def test_keys_that_no_note_may_be_signed_with_are_refused() -> None:
    curve = NoteSigner.of("x", SignatureType.ECDSA, ec.generate_private_key(ec.SECP384R1()))
    assert verify_note(signed(TEXT, curve), [curve.key]).signed_by[0].key == curve.key
    for kind, private in [
        (SignatureType.ECDSA, ec.generate_private_key(ec.SECP256K1())),
        (SignatureType.ECDSA, rsa.generate_private_key(65537, 2048)),
        (SignatureType.RFC6962, rsa.generate_private_key(65537, 1024)),  # noqa: S505 -- that is the point
    ]:
        refused(GateReason.NOTE_KEY, NoteSigner.of, "x", kind, private)
    for kind in TYPES:
        refused(GateReason.NOTE_KEY, note_key, "x", kind, b"short")


# --- other people's vectors ----------------------------------------------------------------------------------------


def _cases(name: str, member: str) -> list[Any]:
    path = corpus.ROOT / "lineage" / "notes" / name
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no vectors at {path}"), id="no-corpus")]
    return [pytest.param(case, id=case["name"]) for case in json.loads(path.read_text())[member]]


@pytest.mark.parametrize("case", _cases("c2sp_signed_note.json", "cases") + _cases("ecdsa_formats.json", "cases"))
def test_note_vectors(case: dict[str, Any]) -> None:
    def verify() -> Any:
        return verify_note(parse_note(case["note"].encode()), [parse_vkey(vkey) for vkey in case["vkeys"]])

    if case["valid"]:
        assert verify().signed_by
    else:
        with pytest.raises(ProofError):
            verify()


@pytest.mark.parametrize("case", _cases("vkeys_formats.json", "vkeys"))
def test_verifier_key_vectors(case: dict[str, Any]) -> None:
    """Upstream does not compare the key id of its ML-DSA key; C2SP says what it is, and we do."""
    name, _, rest = case["vkey"].partition("+")
    try:
        key = parse_vkey(case["vkey"])
    except ProofError as error:
        mismatch = "is not" in error.detail and "the one of this key" in error.detail
        assert mismatch or not case["upstream_accepts"]
    else:
        assert case["upstream_accepts"]
        assert (key.name, key.vkey) == (name, f"{name}+{rest}")


def test_wycheproof_ecdsa_vectors_as_note_signatures() -> None:
    folder = corpus.folder("lineage") / "signatures"
    counted = {"valid": 0, "invalid": 0}
    for group in json.loads((folder / "ecdsa_secp256r1_sha256_test.json").read_text())["testGroups"]:
        key = note_key("log.test", SignatureType.ECDSA, bytes.fromhex(group["publicKeyDer"]))
        for test in group["tests"]:
            message, value = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            if test["result"] == "valid":
                check_signature(key, message, None, value)
            else:
                refused(GateReason.NOTE_SIGNATURE, check_signature, key, message, None, value)
            counted[test["result"]] += 1
    assert min(counted.values()) > 100
