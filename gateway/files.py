"""Files that a gateway reads at its start: what it trusts, its certificates and their keys."""

import asyncio.sslproto
import ssl
from pathlib import Path

from gateway.certificates import Authority
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


def server_tls(config: GatewayConfig) -> ssl.SSLContext:
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
    # Executors present the session certificate of our own CA; orchestrators, auditors and operators present a token.
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(config.data / "executor-ca" / "cert.pem")
    except (ssl.SSLError, OSError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS, f"{certificate} and {key} can't be used: {error}", "restore or replace both"
        ) from error
    return context
