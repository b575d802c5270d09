"""Creates a gateway's data folder: complete, or not at all."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority, private_pem
from gateway.config import FILE, FORMAT, load_config
from gateway.identity import IDENTITY_FILE, create_identity
from gateway.own_tpm import environment_problem, open_device
from gateway.recovery import put_recovered, require_same_origin
from gateway.recovery_export import Recovered
from gateway.reseal import approver_key
from gateway.vault import EXECUTOR_CA, SERVER, Vault
from tpm.endorsement import EkRoots
from tpm.errors import DeviceError, TpmError
from ztrooted import canonical, ready_made
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.names import lineage
from ztrooted.reasons import GateReason

STARTER = "strict"  # the ready-made policy of a new gateway
COMMON_NAME = 64  # RFC 5280 appendix A.1, ub-common-name


def create_data_folder(  # noqa: PLR0913 -- an option of the command each
    data: Path,
    *,
    tpm: str,
    trust_domain: str,
    ek_roots: list[Path],
    ek_vendors: list[str],
    host: str,
    port: int,
    names: list[str],
    approver: Path | None = None,
    recovered: Recovered | None = None,
) -> dict[str, Any]:
    """Make ``data`` a gateway's data folder. EnvironmentProblem, and nothing left behind, when anything is missing.
    UsageProblem, and likewise, for what no gateway can be configured with.

    ``approver`` is the private key of who may approve another state of this machine one day; it is used once, not kept.
    ``recovered`` are the keys of an older gateway of this trust domain, taken over in place of new ones.
    Everything is made in a folder beside it that is renamed at the end, so a half-made one never has the right name.
    """
    data = data.absolute()
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER,
            f"{data} exists and is not an empty folder",
            "choose another folder; an existing gateway is never overwritten",
        )
    roots, private = _read_roots(ek_roots), None if approver is None else approver_key(approver)
    fresh = data.with_name(f".{data.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True, mode=0o700)
        summary = _fill(fresh, tpm, trust_domain, roots, ek_vendors, host, port, names, private, recovered)
        if data.exists():
            data.rmdir()
        fresh.rename(data)
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER, f"can't create {data}: {error}", "check the path and its permissions"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return {"data": str(data), **summary}


def _fill(  # noqa: PLR0913, PLR0917 -- likewise
    folder: Path,
    tpm: str,
    trust_domain: str,
    roots: bytes,
    ek_vendors: list[str],
    host: str,
    port: int,
    names: list[str],
    private: ec.EllipticCurvePrivateKey | None,
    recovered: Recovered | None,
) -> dict[str, Any]:
    origin = lineage(trust_domain)
    if recovered is not None:
        require_same_origin(recovered, origin)
    with open_device(tpm) as device:
        try:
            identity = create_identity(device, origin, private)
        except DeviceError as error:
            raise environment_problem(error) from error
        vault = Vault.create(folder, origin, device, identity)
    _write_settings(folder, trust_domain, tpm, ek_vendors, host, port)
    _write(folder / IDENTITY_FILE, canonical.encode(identity.encode()))
    if recovered is None:
        _make_keys(folder, vault, trust_domain, names)
    else:
        put_recovered(recovered, folder, vault)
    _write(folder / "ek-roots" / "roots.pem", roots)
    for name, data in ready_made.files(STARTER).items():
        _write(folder / "policy" / name, data)
    return {"trust_domain": trust_domain, "tpm": tpm, "virtual_tpm": identity.virtual, "ek_vendors": ek_vendors}


def _make_keys(folder: Path, vault: Vault, trust_domain: str, names: list[str]) -> None:
    now = datetime.now(UTC)
    executor_ca = Authority.create(f"executors of {trust_domain}"[:COMMON_NAME], now)
    _write(folder / "executor-ca" / "cert.pem", executor_ca.pem())
    vault.write(EXECUTOR_CA, private_pem(executor_ca.key))
    server_ca = Authority.create(f"gateway of {trust_domain}"[:COMMON_NAME], now)
    server_key = ec.generate_private_key(ec.SECP256R1())
    try:
        server = server_ca.issue_server(server_key.public_key(), names, now)
    except ValueError as error:
        raise UsageProblem(
            GateReason.CONFIG_INVALID, f"no certificate can be made for {names}: {error}", "name hosts with --name"
        ) from error
    # The CA's key signed once and is not kept: this certificate is what clients pin, and nothing else can pass for it.
    _write(folder / "tls" / "ca.pem", server_ca.pem())
    _write(folder / "tls" / "cert.pem", server.public_bytes(serialization.Encoding.PEM))
    vault.write(SERVER, private_pem(server_key))


def _write_settings(folder: Path, trust_domain: str, tpm: str, ek_vendors: list[str], host: str, port: int) -> None:
    """Write gateway.toml and read it back as ``serve`` will, so that options no gateway could run with make none."""
    values = {
        "format": FORMAT,
        "trust_domain": trust_domain,
        "tpm": tpm,
        "listen_host": host,
        "listen_port": port,
        "ek_vendors": ek_vendors,
    }
    # A JSON string, number or array of strings is TOML as well: nothing given here can become another key.
    _write(folder / FILE, "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()).encode())
    try:
        load_config(folder)
    except EnvironmentProblem as error:
        detail = error.detail.removeprefix(f"{folder / FILE}: ")
        raise UsageProblem(error.reason, f"no gateway can have this: {detail}", "correct that option") from error


def _read_roots(paths: list[Path]) -> bytes:
    try:
        EkRoots.load(paths)
        return b"".join(path.read_bytes() for path in _files(paths))
    except (TpmError, OSError) as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"the EK roots can't be used: {error}",
            "name PEM files of TPM manufacturers' root certificates with --ek-roots; without one no machine can enroll",
        ) from error


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    return found


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
