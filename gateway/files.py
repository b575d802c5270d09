"""Files that a gateway reads at its start: what it trusts, its certificates and their keys."""

import asyncio.sslproto
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.certificates import Authority, ClientAuthorities
from gateway.config import GatewayConfig, read_file
from tpm.endorsement import EkRoots
from tpm.errors import TpmError
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

TLS_RECORD = 16 << 10


def server_certificate(config: GatewayConfig) -> tuple[Path, Path]:
    """Where the server's certificate and its key lie."""
    return config.data / "tls" / "cert.pem", config.data / "tls" / "key.pem"


def load_roots(config: GatewayConfig) -> EkRoots:
    """Whom executors' EK certificates must lead to."""
    folder = config.path(config.ek_roots)
    try:
        return EkRoots.load([folder])
    except (TpmError, OSError) as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"the EK roots in {folder} can't be used: {error}",
            "put the TPM manufacturers' root certificates there as PEM; without roots no machine could be believed",
        ) from error


def load_authority(config: GatewayConfig) -> Authority:
    """The CA of executors' session certificates."""
    certificate = config.data / "executor-ca" / "cert.pem"
    key = config.data / "executor-ca" / "key.pem"
    try:
        return Authority.load(
            read_file(certificate, "executor CA's certificate"), read_file(key, "executor CA's key", secret=True)
        )
    except (ValueError, TypeError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE, f"the executor CA in {key.parent} is damaged: {error}", "restore it"
        ) from error


def load_client_authorities(config: GatewayConfig, ours: Authority) -> ClientAuthorities:
    """Who issues client certificates: our CA to executors, the configured ones to everybody else."""
    if config.client_ca is None:
        return ClientAuthorities(ours.certificate)
    path = config.path(config.client_ca)
    try:
        others = x509.load_pem_x509_certificates(read_file(path, "CA of client certificates"))
    except ValueError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS, f"{path} holds no CA certificates: {error}", "correct 'client_ca'"
        ) from error
    return ClientAuthorities(ours.certificate, others)


def server_tls(config: GatewayConfig, clients: ClientAuthorities) -> ssl.SSLContext:
    """How this server proves who it is, and asks executors to."""
    certificate, key = server_certificate(config)
    read_file(certificate, "TLS certificate")
    read_file(key, "TLS key", secret=True)
    # asyncio keeps a buffer of this size for each connection, a quarter of a megabyte unless told otherwise; what it reads
    # at once is one TLS record at most. Ten thousand executors are connected all day and say little.
    asyncio.sslproto.SSLProtocol.max_size = TLS_RECORD
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: each connection proves the session key anew
    # Executors present the session certificate of our own CA, others a token or a certificate of another CA.
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_cert_chain(certificate, key)
        for one in (clients.executors, *clients.others):
            context.load_verify_locations(cadata=one.public_bytes(Encoding.DER))
    except (ssl.SSLError, OSError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS, f"{certificate} and {key} can't be used: {error}", "restore or replace both"
        ) from error
    return context
