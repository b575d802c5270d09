"""Our own reader, on its own: most faults are put into a certificate with a quirk, which no second parser sees."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.endorsement import (
    NOW,
    authority,
    ek_certificate,
    ek_public,
    name,
    resign,
    rsa_key,
    rsa_spki,
    spki,
    tpm_name,
    vendor,
)
from tests.tpm.test_weak_keys import rough_number
from tpm.ek_template import check_ek_template, parse_ek_public
from tpm.endorsement import EkPolicy, EkRoots, parse_ek_certificate, verify_ek_certificate
from tpm.endorsement_certificate import KeyUsage, load_certified_key, parse_certificate
from tpm.endorsement_der import Element, encode, read_children, read_integer, read_only_element, read_rsa_numbers
from tpm.endorsement_path import build_path
from tpm.endorsement_quirks import EkQuirk
from tpm.endorsement_signature import ALGORITHMS, find_authority_key_weakness, is_signed_by
from tpm.errors import EvidenceError

ALL = frozenset(EkQuirk)
LEAF = ek_certificate(vendor().issuer, subject=name("EK 1"))
Edit = Callable[[list[bytes]], list[bytes]]


def _fields(body: bytes) -> list[bytes]:
    return [body[field.start : field.end] for field in read_children(body, Element(0x30, 0, 0, len(body)))]


def _with_fields(edit: Edit) -> bytes:
    """A certificate with a padded serial number, hence a quirk, whose body's fields went through ``edit``."""

    def padded(body: bytes) -> bytes:
        fields = _fields(body)
        fields[1] = encode(0x02, b"\0\0" + fields[1][2:].lstrip(b"\0"))
        return b"".join(edit(fields))

    return resign(LEAF, vendor().issuer, padded)


def _set(index: int, value: bytes) -> Edit:
    return lambda fields: [value if position == index else field for position, field in enumerate(fields)]


def _extensions(edit: Callable[[bytes], bytes]) -> Edit:
    """Edit what is inside the explicit tag of the extensions."""
    return lambda fields: [*fields[:-1], encode(0xA3, edit(fields[-1][read_element_header(fields[-1]) :]))]


def read_element_header(data: bytes) -> int:
    return read_only_element(data, data[0], "field").content


_TIME = encode(0x17, b"240101000000Z")
_UNKNOWN = encode(0x30, encode(6, b"\x2a\x03") + encode(4, b""))

BODIES: dict[str, Edit] = {
    "no version": lambda fields: fields[1:],
    "version 2": _set(0, bytes.fromhex("a003020101")),
    "three times": _set(4, encode(0x30, _TIME * 3)),
    "one time": _set(4, encode(0x30, _TIME)),
    "validity of another tag": _set(4, encode(0x31, _TIME * 2)),
    "key of another tag": _set(6, encode(0x31, b"")),
    "time of another tag": _set(4, encode(0x30, _TIME + encode(0x16, b"240101000000Z"))),
    "time without seconds": _set(4, encode(0x30, _TIME + encode(0x17, b"2401010000Z"))),
    "time in another zone": _set(4, encode(0x30, _TIME + encode(0x17, b"240101000000+0100"))),
    "empty issuer": _set(3, b"\x30\x00"),
    "issuer of another tag": _set(3, encode(0x31, b"")),
    "33 parts in the subject": _set(5, encode(0x30, encode(0x31, encode(0x30, b"\x06\x01\x2a\x0c\x01A")) * 33)),
    "empty part in the subject": _set(5, encode(0x30, encode(0x31, b""))),
    "subject part that is a SEQUENCE": _set(5, encode(0x30, encode(0x30, encode(0x30, b"\x06\x01\x2a\x0c\x01A")))),
    "attribute without value": _set(5, encode(0x30, encode(0x31, encode(0x30, b"\x06\x01\x2a")))),
    "attribute that is not UTF-8": _set(5, encode(0x30, encode(0x31, encode(0x30, b"\x06\x01\x2a\x0c\x01\xff")))),
    "no extensions": lambda fields: fields[:-1],
    "three fields": lambda fields: fields[:3],
    "empty extensions": _extensions(lambda _: b"\x30\x00"),
    "bytes after the extensions": _extensions(lambda listed: listed + b"\x05\x00"),
    "33 extensions": _extensions(
        lambda _: encode(0x30, b"".join(encode(0x30, encode(6, bytes((0x2A, n))) + encode(4, b"")) for n in range(33)))
    ),
    "extension twice": _extensions(lambda listed: encode(0x30, listed[read_element_header(listed) :] + _UNKNOWN * 2)),
    "extension of four parts": _extensions(
        lambda listed: encode(0x30, listed[read_element_header(listed) :] + encode(0x30, _UNKNOWN[2:] + b"\x05\x00"))
    ),
    "criticality of 1": _extensions(lambda listed: listed.replace(b"\x01\x01\xff\x04", b"\x01\x01\x01\x04", 1)),
    "field after the extensions": lambda fields: [*fields, b"\x05\x00"],
    "zero serial": lambda fields: [fields[0], encode(2, b"\0\0\0"), *fields[2:]],
}


def test_the_certificate_the_faults_are_put_into_is_read() -> None:
    assert parse_certificate(_with_fields(lambda fields: fields), quirks=ALL).quirks == {EkQuirk.PADDED_SERIAL}


@pytest.mark.parametrize("fault", BODIES)
def test_body_of_another_shape_is_malformed(fault: str) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_certificate(_with_fields(BODIES[fault]), quirks=ALL)


_EK_USE = "06056781050801"
VALUES = [
    ("2.5.29.15", "03020100"),
    ("2.5.29.15", "030100"),
    ("2.5.29.15", "03020880"),
    ("2.5.29.15", "03020081ff"),
    ("2.5.29.15", "03030000c0"),
    ("2.5.29.15", "0303060040"),
    ("2.5.29.15", "04020308"),
    ("2.5.29.37", "3000"),
    ("2.5.29.37", "3003020101"),
    ("2.5.29.37", "300e" + _EK_USE * 2),
    ("2.5.29.19", "30060101ff0201ff"),
    ("2.5.29.19", "3003020100"),
    ("2.5.29.19", "30090101ff0201000500"),
    ("2.5.29.19", "30030101ff00"),
    ("2.5.29.19", "300401020000"),
    ("2.5.29.32", "3000"),
    ("2.5.29.32", "3003020101"),
    ("2.5.29.35", "0400"),
    ("2.5.29.14", "3000"),
    ("2.5.29.17", "3000"),
    ("2.5.29.17", "30028900"),
    ("2.5.29.17", "30020200"),
    ("2.5.29.17", "300484023000"),
    ("2.5.29.17", "3006a40430000500"),
    ("2.5.29.17", "3004a4023100"),
    ("2.5.29.17", "3042" + "8200" * 33),
    ("2.5.29.30", "3000"),
    ("2.5.29.30", "3002a200"),
    ("2.5.29.30", "3004a100a000"),
    ("2.5.29.30", "3002a000"),
    ("2.5.29.30", "3004a0023000"),
    ("2.5.29.30", "3008a006300482008100"),
    ("2.5.29.30", "3006a00431028200"),
]


@pytest.mark.parametrize(("identifier", "value"), VALUES)
def test_extension_value_of_another_shape_is_malformed(identifier: str, value: str) -> None:
    raw = x509.UnrecognizedExtension(x509.ObjectIdentifier(identifier), bytes.fromhex(value))
    known = {
        "2.5.29.15": x509.KeyUsage,
        "2.5.29.17": x509.SubjectAlternativeName,
        "2.5.29.19": x509.BasicConstraints,
        "2.5.29.35": x509.AuthorityKeyIdentifier,
        "2.5.29.37": x509.ExtendedKeyUsage,
    }
    without = [known[identifier]] if identifier in known else []
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_certificate(ek_certificate(vendor().issuer, faults=[(raw, True)], without=without))


def test_nine_bits_of_key_usage_are_read_by_their_numbers() -> None:
    raw = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.15"), bytes.fromhex("0303070880"))
    leaf = parse_certificate(ek_certificate(vendor().issuer, faults=[(raw, True)], without=[x509.KeyUsage]))
    assert leaf.key_usage == KeyUsage.KEY_AGREEMENT | KeyUsage.DECIPHER_ONLY


def test_ecdsa_algorithm_with_parameters_is_malformed() -> None:
    plain = bytes.fromhex("300a06082a8648ce3d040302")
    loose = bytes.fromhex("300c06082a8648ce3d0403020500")
    parts = _fields(read_body(LEAF))
    body = encode(0x30, b"".join(parts).replace(plain, loose))
    signature = vendor().issuer.key.sign(body, ec.ECDSA(ALGORITHMS[plain].hash))
    with pytest.raises(EvidenceError, match="has parameters"):
        parse_certificate(encode(0x30, body + loose + encode(3, b"\0" + signature)))


def read_body(der: bytes) -> bytes:
    outer = read_only_element(der, 0x30, "certificate")
    body = read_children(der, outer)[0]
    return der[body.content : body.end]


@pytest.mark.parametrize("value", ["0200", "02020001", "0202ff80", "030101"])
def test_integers_in_another_form_are_malformed(value: str) -> None:
    raw = bytes.fromhex(value)
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        read_integer(raw, read_only_element(raw, raw[0], "value"), "value")


def test_wrong_tag_is_malformed() -> None:
    with pytest.raises(EvidenceError, match="tag 0x31, not 0x30"):
        read_only_element(b"\x31\x00", 0x30, "value")


@pytest.mark.parametrize("signature", [b"", b"\0", b"\x01\x80"])
def test_signature_that_is_not_whole_bytes_is_malformed(signature: bytes) -> None:
    children = read_children(LEAF, read_only_element(LEAF, 0x30, "certificate"))
    content = b"".join(LEAF[child.start : child.end] for child in children[:2])
    with pytest.raises(EvidenceError, match="empty or not whole bytes"):
        parse_certificate(encode(0x30, content + encode(3, signature)), quirks=ALL)


_RSA = "300d06092a864886f70d0101010500"
_KEY = "300602010302010b"  # a tiny RSAPublicKey


@pytest.mark.parametrize(
    ("algorithm", "bits"),
    [
        (_RSA, "0300"),
        (_RSA, "030901" + _KEY),
        (_RSA, "040900" + _KEY),
        (_RSA, "030b00" + _KEY + "0500"),
        (_RSA, "030900" + "300602010302010b".replace("3006", "3106")),
        (_RSA, "030600" + "3003020103"),
        (_RSA, "030900" + "300602010304010b"),
        (_RSA, "030900" + "3006020100020103"),
        (_RSA + "0500", "030900" + _KEY),
        ("300b" + _RSA[4:-4].replace("06092a", "04092a"), "030900" + _KEY),
    ],
)
def test_key_of_another_shape_is_malformed(algorithm: str, bits: str) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        read_rsa_numbers(encode(0x30, bytes.fromhex(algorithm + bits)))


def test_key_that_cannot_be_built_is_malformed() -> None:
    point = spki(ec.derive_private_key(5, ec.SECP256R1()).public_key())
    with pytest.raises(EvidenceError, match="cannot be used"):
        load_certified_key(point[:-1] + bytes((point[-1] ^ 1,)))


def test_signature_is_checked_with_the_key_it_belongs_to() -> None:
    rsa_method = next(form for form, method in ALGORITHMS.items() if method.padding is not None)
    ecdsa_method = next(form for form, method in ALGORITHMS.items() if method.padding is None)
    assert not is_signed_by(b"", rsa_method, b"", spki(ec.derive_private_key(5, ec.SECP256R1()).public_key()))
    assert not is_signed_by(b"", ecdsa_method, b"", spki(rsa_key().public_key()))
    assert not is_signed_by(b"", b"\x30\x00", b"", spki(rsa_key().public_key()))


@pytest.mark.parametrize(
    "key",
    [
        rsa_spki(rough_number(1024), 65537),
        rsa_spki(rough_number(4097), 65537),
        rsa_spki(rough_number(2048), 3),
        rsa_spki(rough_number(2048), 65538),
        rsa_spki(rough_number(2048) + 1, 65537),
        spki(ec.derive_private_key(5, ec.SECP224R1()).public_key()),
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
    ],
    ids=["1024", "4097", "e=3", "even e", "even n", "P-224", "Ed25519"],
)
def test_weak_keys_of_authorities_are_named(key: bytes | ed25519.Ed25519PublicKey) -> None:
    assert find_authority_key_weakness(key if isinstance(key, bytes) else spki(key))  # type: ignore[arg-type]
    assert find_authority_key_weakness(spki(rsa_key().public_key())) is None


def test_ed25519_is_no_ek() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    with pytest.raises(EvidenceError, match=r"ek\.template"):
        parse_ek_certificate(ek_certificate(vendor().issuer, key))  # type: ignore[arg-type]


def test_rsa_1024_follows_no_template() -> None:
    key = rsa.RSAPublicNumbers(65537, rough_number(1024)).public_key()
    with pytest.raises(EvidenceError, match="no EK template has a RSA key of size 1024"):
        check_ek_template(parse_ek_public(ek_public(key)))


def test_absent_constraints_are_no_criticality_quirk() -> None:
    leaf = ek_certificate(vendor().issuer, without=[x509.BasicConstraints])
    with pytest.raises(EvidenceError, match="has no basicConstraints"):
        parse_ek_certificate(leaf, quirks=ALL)


@pytest.mark.parametrize(
    "attributes",
    ["3000", "300430020500", "300d300b0605678105021031020500", "300f300d06056781050210310430020200"],
    ids=str,
)
def test_directory_attributes_that_say_nothing_or_nonsense(attributes: str) -> None:
    """An empty list is harmless; an attribute or a specification of another shape is malformed."""
    raw = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.9"), bytes.fromhex(attributes))
    leaf = ek_certificate(vendor().issuer, faults=[(raw, False)])
    if attributes == "3000":
        assert parse_ek_certificate(leaf)
    else:
        with pytest.raises(EvidenceError, match=r"ek\.malformed"):
            parse_ek_certificate(leaf)


@pytest.mark.parametrize("model", ["", "M" * 65, "a\nb", "\x1b[2J"])
def test_attributes_are_short_and_printable(model: str) -> None:
    marked = ek_certificate(vendor().issuer, faults=[(_named("QQQQQQQQ"), True)])

    def edit(body: bytes) -> bytes:
        fields = _fields(body)
        inner = x509.load_der_x509_certificate(marked).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        old = inner.value.public_bytes()
        attribute = encode(0x30, bytes.fromhex("06056781050202") + encode(0x0C, model.encode()))
        others = [(1, b"id:494E5443"), (3, b"id:1")]
        rdns = encode(0x31, attribute) + b"".join(
            encode(0x31, encode(0x30, bytes.fromhex(f"06056781 0502{n:02x}".replace(" ", "")) + encode(0x0C, text)))
            for n, text in others
        )
        new = encode(0x30, encode(0xA4, encode(0x30, rdns)))
        entries = [e for e in _extension_list(fields[-1]) if old not in e]
        entries.append(encode(0x30, bytes.fromhex("0603551d110101ff") + encode(4, new)))
        return b"".join(fields[:-1]) + encode(0xA3, encode(0x30, b"".join(entries)))

    with pytest.raises(EvidenceError, match=r"ek\.san"):
        parse_ek_certificate(resign(marked, vendor().issuer, edit))


def _named(model: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([tpm_name((1, "id:494E5443"), (2, model), (3, "id:1"))])


def _extension_list(field: bytes) -> list[bytes]:
    listed = read_children(field, read_only_element(field, 0xA3, "extensions"))[0]
    return [field[child.start : child.end] for child in read_children(field, listed)]


def test_constrained_names_of_other_kinds_are_refused_rather_than_guessed() -> None:
    limits = x509.NameConstraints([x509.DNSName("example")], None)
    issuer = authority("Issuer", vendor().root, number=2, faults=[(limits, True)])
    names = x509.SubjectAlternativeName([*_named("M"), x509.DNSName("a.example")])
    roots = EkRoots.from_pem(vendor().root.pem)
    leaf = ek_certificate(issuer, faults=[(names, True)])
    with pytest.raises(EvidenceError, match=r"ek\.chain.*kind 2"):
        verify_ek_certificate(leaf, [issuer.der], roots, at=NOW, ek_public=None)
    assert verify_ek_certificate(ek_certificate(issuer), [issuer.der], roots, at=NOW, ek_public=None)


def test_bounds_of_the_policy_and_of_the_search_each_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = EkRoots.from_pem(vendor().root.pem)
    leaf, issuer = parse_certificate(LEAF), parse_certificate(vendor().issuer.der)
    with pytest.raises(EvidenceError, match=r"ek\.too_large"):
        verify_ek_certificate(
            LEAF, [vendor().issuer.der], roots, at=NOW, ek_public=None, policy=EkPolicy(max_intermediates=0)
        )
    with pytest.raises(EvidenceError, match=r"ek\.too_large"):
        build_path(leaf, [issuer] * 17, roots, at=NOW)
    monkeypatch.setattr("tpm.endorsement_path.MAX_STEPS", 1)
    with pytest.raises(EvidenceError, match="1 steps"):
        build_path(leaf, [issuer], roots, at=NOW)
    monkeypatch.undo()
    monkeypatch.setattr("tpm.endorsement_path.MAX_PATHS", 0)
    with pytest.raises(EvidenceError, match="more than 0 paths"):
        build_path(leaf, [issuer], roots, at=NOW)


def test_huge_root_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "roots.pem").write_bytes(vendor().root.pem)
    monkeypatch.setattr("tpm.endorsement_path.MAX_ROOT_FILE_BYTES", 100)
    with pytest.raises(EvidenceError, match="over 100 bytes"):
        EkRoots.load([tmp_path])
