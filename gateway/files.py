"""Files that a gateway reads at its start: what it trusts, its certificates and their keys."""

import asyncio.sslproto
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.certificates import Authority, ClientAuthorities
from gateway.config import GatewayConfig, read_file
from gateway.vault import EXECUTOR_CA, SERVER, Vault, plain_file, refuse_plain, sealed_file
from tpm.endorsement import EkRoots
from tpm.errors import TpmError
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

TLS_RECORD = 16 << 10


def server_certificate(config: GatewayConfig) -> tuple[Path, Path]:
    """Where the server's certificate and its key lie: the vault's, unless the operator has put another one there."""
    own = plain_file(config.data, SERVER)
    return config.data / "tls" / "cert.pem", own if own.exists() else sealed_file(config.data, SERVER)


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


def executor_ca(config: GatewayConfig) -> x509.Certificate:
    """The certificate of the CA of executors' session certificates."""
    path = config.data / "executor-ca" / "cert.pem"
    try:
        return x509.load_pem_x509_certificate(read_file(path, "executor CA's certificate"))
    except ValueError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE, f"the executor CA {path} is damaged: {error}", "restore it"
        ) from error


def load_authority(config: GatewayConfig, vault: Vault | None) -> Authority:
    """The CA of executors' session certificates. EnvironmentProblem where its key is not in the vault alone."""
    refuse_plain(config.data)
    if vault is None:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE,
            f"{config.data} has no sealed keys",
            "restore sealed-key.json from a backup, or all keys: 'ztrooted gateway recovery-import'",
        )
    return authority(config, vault.read(EXECUTOR_CA))


def authority(config: GatewayConfig, key: bytes) -> Authority:
    """The same, with its key. EnvironmentProblem where that is not the certificate's."""
    try:
        return Authority.load(executor_ca(config).public_bytes(Encoding.PEM), key)
    except (ValueError, TypeError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE,
            f"the executor CA in {config.data / 'executor-ca'} is damaged: {error}",
            "restore it",
        ) from error


def load_client_authorities(config: GatewayConfig, ours: x509.Certificate) -> ClientAuthorities:
    """Who issues client certificates: our CA to executors, the configured ones to everybody else."""
    if config.client_ca is None:
        return ClientAuthorities(ours)
    path = config.path(config.client_ca)
    try:
        others = x509.load_pem_x509_certificates(read_file(path, "CA of client certificates"))
    except ValueError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS, f"{path} holds no CA certificates: {error}", "correct 'client_ca'"
        ) from error
    return ClientAuthorities(ours, others)


def server_tls(config: GatewayConfig, clients: ClientAuthorities, vault: Vault | None) -> ssl.SSLContext:
    """How this server proves who it is, and asks executors to. Without the vault, as far as that can be checked."""
    # asyncio keeps a buffer of this size for each connection, a quarter of a megabyte unless told otherwise; what it reads
    # at once is one TLS record at most. Ten thousand executors are connected all day and say little.
    asyncio.sslproto.SSLProtocol.max_size = TLS_RECORD
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: each connection proves the session key anew
    # Executors present the session certificate of our own CA, others a token or a certificate of another CA.
    context.verify_mode = ssl.CERT_OPTIONAL
    load_server_key(context, config, vault)
    for one in (clients.executors, *clients.others):
        context.load_verify_locations(cadata=one.public_bytes(Encoding.DER))
    return context


def load_server_key(context: ssl.SSLContext, config: GatewayConfig, vault: Vault | None) -> None:
    """Have a context use the server's certificate and key of today. EnvironmentProblem where they can't be used."""
    certificate, key = server_certificate(config)
    chain = read_file(certificate, "TLS certificate")
    read_file(key, "TLS key", secret=True)
    try:
        if key == plain_file(config.data, SERVER):
            context.load_cert_chain(certificate, key)
        elif vault is None:
            x509.load_pem_x509_certificates(chain)
        else:
            with _in_memory(vault.read(SERVER)) as path:
                context.load_cert_chain(certificate, path)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS, f"{certificate} and {key} can't be used: {error}", "restore or replace both"
        ) from error


@contextmanager
def _in_memory(secret: bytes) -> Iterator[str]:
    """A file for OpenSSL, which reads keys from files only; it is on no disk, and gone afterwards."""
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, secret)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
