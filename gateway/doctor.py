"""What ``ztrooted doctor`` says of a gateway's machine: its folder, keys, TPM, disk and port. Reads only."""

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509

from gateway.app import DATABASE
from gateway.config import GatewayConfig, load_config, read_file, read_policies
from gateway.identity import Identity
from gateway.listening import ADDRESS_FILE
from gateway.vault import SERVER, check_files, plain_file
from gateway.webhooks import load_receivers
from tpm.endorsement import EkRoots
from tpm.errors import TpmError
from ztrooted.doctor import chip, machine, network
from ztrooted.doctor.finding import Finding, failed, passed, refused, warned
from ztrooted.errors import GateError
from ztrooted.executor.collect import EVENT_LOG
from ztrooted.reasons import GateReason

LITTLE, NOTHING = 1 << 30, 64 << 20  # bytes left on the disk: a week of a small gateway; minutes of a large one
SOON = timedelta(days=30)  # enough to hand out another CA file


def look_at_folder(data: Path) -> Iterator[Finding]:
    """Everything about the gateway in ``data``. EnvironmentProblem where there is none."""
    config = load_config(data)
    yield passed("configuration", f"{config.data} is a gateway of {config.trust_domain}")
    yield from _secrets(config)
    yield _try("policies", lambda: f"in force would be {read_policies(config).digests()['dispatch'][:12]}…")
    yield _roots(config)
    yield from _identity(config)
    if config.event_log is not None or config.tpm.startswith("device:"):
        yield machine.look_at_event_log(EVENT_LOG if config.event_log is None else config.path(config.event_log))
    yield machine.look_at_clock()
    yield from _storage(config)
    yield _certificate(config)
    yield from _port(config)


def _try(check: str, look: Callable[[], str]) -> Finding:
    try:
        return passed(check, look())
    except GateError as error:
        return refused(check, error)


def _secrets(config: GatewayConfig) -> Iterator[Finding]:
    mode = config.data.stat().st_mode
    if mode & 0o077:
        said = f"{config.data} is {stat.filemode(mode)}, and the lineage is for its owner"
        yield warned("data folder", GateReason.ENVIRONMENT_DATA_FOLDER, said, f"chmod 700 {config.data}")
    else:
        yield passed("data folder", f"{config.data} is its owner's only")
    yield _try("sealed keys", lambda: _sealed(config))
    own = plain_file(config.data, SERVER)
    if own.exists():
        yield _try("tls/key.pem", partial(_secret, own))
    if config.webhooks:
        yield _try("webhooks", lambda: f"{len(load_receivers(config))} receivers have their secrets")


def _sealed(config: GatewayConfig) -> str:
    check_files(config.data)
    return "keys are sealed to the TPM, and their files are their owner's only"


def _secret(path: Path) -> str:
    return f"{len(read_file(path, 'key', secret=True))} bytes, its owner's only"


def _roots(config: GatewayConfig) -> Finding:
    folder = config.path(config.ek_roots)
    try:
        EkRoots.load([folder])
    except (TpmError, OSError) as error:
        return failed("ek roots", GateReason.CONFIG_INVALID, f"the EK roots in {folder} can't be used: {error}")
    return passed("ek roots", f"{folder} can be used")


def _identity(config: GatewayConfig) -> Iterator[Finding]:
    try:
        known: bytes | None = Identity.load(config.data).ak_public
    except GateError as error:
        known = None
        yield refused("identity", error)
    yield from chip.look_at_tpm(config.tpm, certificates=False, known=known)


def _storage(config: GatewayConfig) -> Iterator[Finding]:
    path = config.data / DATABASE
    there = path.exists()
    if not os.access(path if there else config.data, os.R_OK | os.W_OK) or not os.access(config.data, os.W_OK):
        yield failed("database", GateReason.DATABASE_UNAVAILABLE, f"{path} can't be written by this user")
    else:
        yield passed("database", f"{path} can be written" if there else f"{path} will be made by the first start")
    free = shutil.disk_usage(config.data).free
    said = f"{free >> 20:,} MiB are free"
    if free < LITTLE:
        yield (failed if free < NOTHING else warned)("disk", GateReason.MACHINE_DISK, said)
    else:
        yield passed("disk", said)


def _certificate(config: GatewayConfig) -> Finding:
    path = config.data / "tls" / "cert.pem"
    try:
        ends = x509.load_pem_x509_certificate(read_file(path, "TLS certificate")).not_valid_after_utc
    except GateError as error:
        return refused("tls certificate", error)
    except ValueError as error:
        return failed("tls certificate", GateReason.ENVIRONMENT_TLS, f"{path} is damaged: {error}")
    said, left = f"it ends {ends.isoformat()}", ends - datetime.now(UTC)
    if left < SOON:
        return (failed if left < timedelta() else warned)("tls certificate", GateReason.MACHINE_TLS_ENDS, said)
    return passed("tls certificate", said)


def _port(config: GatewayConfig) -> Iterator[Finding]:
    """Whether the port is free, or this gateway's own: then it is asked whether it is ready."""
    address = config.data / ADDRESS_FILE
    if address.exists():
        yield from network.look_at_gateway(address.read_text().strip(), config.data / "tls" / "ca.pem")
        return
    family = socket.AF_INET6 if ":" in config.listen_host else socket.AF_INET
    where = f"{config.listen_host}:{config.listen_port}"
    with closing(socket.socket(family, socket.SOCK_STREAM)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((config.listen_host, config.listen_port))
        except OSError as error:
            yield failed("port", GateReason.MACHINE_PORT, f"can't listen on {where}: {error.strerror}")
            return
    yield passed("port", f"{where} is free")
