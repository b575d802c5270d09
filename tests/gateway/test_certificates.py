"""Transport certificates: each good for one thing, one name and one span of time."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from gateway.certificates import BACKDATE, CA_LIFE, SERVER_LIFE, Authority, private_pem

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
SPIFFE = "spiffe://gate.example/executor/ex-" + "0" * 32
LIFE = timedelta(minutes=10)
CA = Authority.create("executors", NOW)
OTHER = Authority.create("executors", NOW)
KEY = ec.generate_private_key(ec.SECP256R1())
SESSION = CA.issue_session(KEY.public_key(), SPIFFE, NOW, LIFE)
SERVER = CA.issue_server(KEY.public_key(), ["gate.example", "127.0.0.1", "::1"], NOW)


def builder(authority: Authority, at: datetime) -> PolicyBuilder:
    return PolicyBuilder().store(Store([authority.certificate])).time(at)


def verify_client(certificate: x509.Certificate, authority: Authority = CA, at: datetime = NOW) -> list[str]:
    verified = builder(authority, at).build_client_verifier().verify(certificate, [])
    return [name.value for name in verified.subjects or []]


def verify_server(certificate: x509.Certificate, host: str, authority: Authority = CA, at: datetime = NOW) -> None:
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    builder(authority, at).build_server_verifier(subject).verify(certificate, [])


def extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> x509.Extension:
    return certificate.extensions.get_extension_for_oid(oid)


def test_a_session_certificate_names_the_executor_and_nothing_else() -> None:
    assert verify_client(SESSION) == [SPIFFE]
    names = extension(SESSION, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert names.critical  # RFC 5280 §4.2.1.6: with an empty subject it must be
    assert list(names.value) == [x509.UniformResourceIdentifier(SPIFFE)]
    assert list(SESSION.subject) == []
    assert SESSION.public_key() == KEY.public_key()


def test_a_session_certificate_is_no_server_certificate() -> None:
    usage = extension(SESSION, ExtensionOID.EXTENDED_KEY_USAGE).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(VerificationError):
        verify_server(SESSION, "gate.example")


def test_a_server_certificate_is_no_session_certificate() -> None:
    usage = extension(SERVER, ExtensionOID.EXTENDED_KEY_USAGE).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    with pytest.raises(VerificationError):
        verify_client(SERVER)


@pytest.mark.parametrize("host", ["gate.example", "127.0.0.1", "::1"])
def test_a_server_certificate_is_for_each_of_its_hosts(host: str) -> None:
    verify_server(SERVER, host)


@pytest.mark.parametrize("host", ["other.example", "sub.gate.example", "example", "127.0.0.2"])
def test_a_server_certificate_is_for_no_other_host(host: str) -> None:
    with pytest.raises(VerificationError):
        verify_server(SERVER, host)


def test_a_session_ends_with_its_life_to_the_second() -> None:
    assert SESSION.not_valid_before_utc == NOW - BACKDATE
    assert SESSION.not_valid_after_utc == NOW + LIFE
    verify_client(SESSION, at=NOW + LIFE)
    for at in (NOW + LIFE + timedelta(seconds=1), NOW - BACKDATE - timedelta(seconds=1)):
        with pytest.raises(VerificationError):
            verify_client(SESSION, at=at)


def test_server_and_ca_live_as_long_as_they_should() -> None:
    assert SERVER.not_valid_after_utc == NOW + SERVER_LIFE
    assert CA.certificate.not_valid_after_utc == NOW + CA_LIFE
    with pytest.raises(VerificationError):
        verify_server(SERVER, "gate.example", at=NOW + SERVER_LIFE + timedelta(seconds=1))


def test_another_ca_of_the_same_name_is_not_believed() -> None:
    assert OTHER.certificate.subject == CA.certificate.subject
    with pytest.raises(VerificationError):
        verify_client(SESSION, authority=OTHER)
    with pytest.raises(InvalidSignature):
        SESSION.verify_directly_issued_by(OTHER.certificate)
    SESSION.verify_directly_issued_by(CA.certificate)


@pytest.mark.parametrize("certificate", [SESSION, SERVER], ids=["session", "server"])
def test_an_end_entity_signs_no_certificates(certificate: x509.Certificate) -> None:
    constraints = extension(certificate, ExtensionOID.BASIC_CONSTRAINTS)
    assert constraints.critical
    assert constraints.value.ca is False
    usage = extension(certificate, ExtensionOID.KEY_USAGE)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    # And a chain through it is refused.
    fake = Authority(certificate, KEY).issue_session(KEY.public_key(), SPIFFE, NOW, LIFE)
    with pytest.raises(VerificationError):
        builder(CA, NOW).build_client_verifier().verify(fake, [certificate])


def test_the_ca_signs_end_entities_only() -> None:
    constraints = extension(CA.certificate, ExtensionOID.BASIC_CONSTRAINTS)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = extension(CA.certificate, ExtensionOID.KEY_USAGE).value
    assert usage.key_cert_sign
    assert not usage.digital_signature


def test_serial_numbers_are_never_the_same() -> None:
    issued = [CA.issue_session(KEY.public_key(), SPIFFE, NOW, LIFE).serial_number for _ in range(50)]
    assert len({*issued, SESSION.serial_number}) == 51
    assert all(0 < number < 1 << 159 for number in issued)  # RFC 5280 §4.1.2.2: positive, at most 20 octets


def test_a_ca_is_read_back_from_its_files() -> None:
    again = Authority.load(CA.pem(), private_pem(CA.key))
    assert again.certificate == CA.certificate
    assert verify_client(again.issue_session(KEY.public_key(), SPIFFE, NOW, LIFE)) == [SPIFFE]


def rsa_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


FILES = {
    "a key of another CA": (CA.pem(), private_pem(OTHER.key)),
    "a certificate of another CA": (OTHER.pem(), private_pem(CA.key)),
    "an RSA key": (CA.pem(), rsa_key()),
    "no key": (CA.pem(), b""),
    "no certificate": (b"", private_pem(CA.key)),
    "exchanged": (private_pem(CA.key), CA.pem()),
    "a key that was cut": (CA.pem(), private_pem(CA.key)[:-40]),
    "a certificate that was cut": (CA.pem()[:-60], private_pem(CA.key)),
}


@pytest.mark.parametrize(("certificate", "key"), FILES.values(), ids=FILES.keys())
def test_files_that_do_not_belong_together_are_refused(certificate: bytes, key: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the library's own, of many wordings
        Authority.load(certificate, key)


def test_openssl_accepts_both_ends(tmp_path: Path) -> None:
    """The stack that will really use them: a TLS 1.3 handshake with client authentication, in memory."""
    now = datetime.now(UTC)
    authority = Authority.create("both", now)
    hello = {
        "server": authority.issue_server(KEY.public_key(), ["gate.example"], now),
        "client": authority.issue_session(KEY.public_key(), SPIFFE, now, LIFE),
    }
    contexts = {}
    for side, certificate in hello.items():
        (tmp_path / f"{side}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private_pem(KEY))
        protocol = ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT
        contexts[side] = ssl.SSLContext(protocol)
        contexts[side].load_cert_chain(tmp_path / f"{side}.pem")
        contexts[side].load_verify_locations(cadata=authority.pem().decode())
        contexts[side].verify_mode = ssl.CERT_REQUIRED
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts["client"].wrap_bio(down, up, server_hostname="gate.example")
    server = contexts["server"].wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = server.getpeercert()
    assert shown is not None
    assert shown["subjectAltName"] == (("URI", SPIFFE),)
