"""The keys of a gateway that is stopped: sealed where they lie in the clear, exported, and restored from an export.

Each is explicit, by name, and in the lineage for ever. On another machine an export is for ``create_data_folder``: the log
key of a lineage is in its TPM and stays there, so what goes on there is a new lineage with the old CAs.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway import recovery_export, vault
from gateway.app import DATABASE
from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig, read_file
from gateway.files import authority, load_server_key
from gateway.identity import SELECTION, Identity
from gateway.own_tpm import environment_problem, open_device, require_same_tpm
from gateway.plain_key import PUBLIC_FILE
from gateway.recover import Accountable
from gateway.recovery_export import CERTIFICATES, Recovered
from gateway.signer import Signer
from gateway.storage import authorizations
from gateway.storage.database import Database, Transaction
from gateway.vault import ED25519, EXECUTOR_CA, NAMES, SERVER, Vault, plain_file, sealed_file
from tpm.device_secret import SecretDevice
from tpm.errors import DeviceError
from ztrooted.cli.files import new_secret
from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.kept_files import replace
from ztrooted.models import compose
from ztrooted.reasons import GateReason
from ztrooted.records import Record

OF_SERVER = frozenset({SERVER, "tls/ca.pem", "tls/cert.pem"})


async def seal_keys(config: GatewayConfig, *, operator: str, reason: str) -> dict[str, Any]:
    """Seal each key that lies in the clear, say so in the lineage, and only then remove the clear ones.

    UsageProblem where there is none. Again after being killed: until the end they are where they were.
    """
    asked = compose(Accountable, operator=operator, reason=reason)
    found = [name for name in NAMES if plain_file(config.data, name).exists()]
    if not found:
        raise UsageProblem(
            GateReason.SECRETS_PLAIN, f"there is no key in the clear in {config.data}", "start the gateway"
        )
    async with _stopped(config) as (database, identity):
        _require_ours(config, found)
        with open_device(config.tpm) as device:
            require_same_tpm(device, identity.ak_public)
            known = vault.exists(config.data)
            kept = (Vault.open if known else Vault.create)(config.data, config.origin, device, identity)
        for name in found:
            kept.write(name, read_file(plain_file(config.data, name), "key", secret=True))
        done = await _record(config, database, "gateway.keys_sealed", {"keys": found, **asked.model_dump()})
        for name in found:
            plain_file(config.data, name).unlink()
    return done


async def export(config: GatewayConfig, file: Path, passphrase: bytes, *, operator: str, reason: str) -> dict[str, Any]:
    """Write every key to the new ``file``, under the passphrase. The lineage says so before there is anything in it."""
    asked = compose(Accountable, operator=operator, reason=reason)
    if config.data.resolve() in file.resolve().parents:  # noqa: ASYNC240 -- nobody else runs in this loop
        raise UsageProblem(
            GateReason.ENVIRONMENT_OUTPUT,
            f"{file} is in the data folder, whose copies are not to be of use elsewhere",
            "name a file on another medium",
        )
    vault.refuse_plain(config.data)  # whatever lies there, it is not what this gateway serves with
    async with _stopped(config) as (database, _):
        signer = Signer(config)
        try:
            data = recovery_export.pack(_collect(config, signer), passphrase)
            with new_secret(file) as written:
                body = {"digest": recovery_export.digest(data), **asked.model_dump()}
                done = await _record(config, database, "gateway.keys_exported", body, signer)
                written.write(data)
        finally:
            signer.close()
    return {**done, "file": str(file)}


async def restore_keys(config: GatewayConfig, recovered: Recovered, *, operator: str, reason: str) -> dict[str, Any]:
    """Seal the keys of an export anew, by the TPM that this gateway was made with, in place of those it has.

    A key that is not in the export stays where it can be read still; where not, it is ``lost``, and made anew where one is
    wanted. UsageProblem ``recovery.refused`` for another gateway's; EnvironmentProblem for another TPM or state.
    """
    asked = compose(Accountable, operator=operator, reason=reason)
    require_same_origin(recovered, config.origin)
    async with _stopped(config) as (database, identity):
        with open_device(config.tpm) as device:
            require_same_tpm(device, identity.ak_public)
            kept = _usable_vault(config, device, identity)
        put_recovered(recovered, config.data, kept)
        lost = _lose_unreadable(config, kept)
        return await _record(config, database, "gateway.keys_restored", {**asked.model_dump(), "lost": lost})


def require_same_origin(recovered: Recovered, origin: str) -> None:
    """UsageProblem ``recovery.refused`` for the export of a gateway of another trust domain."""
    if recovered.origin != origin:
        raise UsageProblem(
            GateReason.RECOVERY_REFUSED,
            f"the recovery export is of {recovered.origin!r:.100}, and this gateway's lineage is {origin}",
            "name the same trust domain, or the export of this one",
        )


def put_recovered(recovered: Recovered, folder: Path, kept: Vault) -> None:
    """The certificates where they belong, and the keys in the vault.

    Of TLS, none where the operator's own key is there: that is used, and goes with the certificate beside it only.
    """
    own = plain_file(folder, SERVER).exists()
    for name, data in recovered.files.items():
        if own and name in OF_SERVER:
            continue
        if name in CERTIFICATES:
            replace(folder / name, data)
        else:
            kept.write(name, data)


def _require_ours(config: GatewayConfig, names: list[str]) -> None:
    """EnvironmentProblem where a key in the clear is not the one of the certificate that is there, before anything is lost.

    What lies there may have been put there by mistake, or for us to seal it over our own.
    """
    if EXECUTOR_CA in names:
        authority(config, read_file(plain_file(config.data, EXECUTOR_CA), "key", secret=True))
    if SERVER in names:
        load_server_key(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config, None)


def _usable_vault(config: GatewayConfig, device: SecretDevice, identity: Identity) -> Vault:
    """The vault as it is, or a new one where nothing can open that. EnvironmentProblem in a state that is not approved."""
    try:
        pcrs = device.read_pcrs(SELECTION)
    except DeviceError as error:
        raise environment_problem(error) from error
    if pcrs != identity.pcrs:  # in which a good one does not open, and we could not record anything
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TPM,
            "this machine is not in the state that this gateway's keys work in",
            "bring it back to its approved state, or have this one approved: 'ztrooted gateway reseal'",
        )
    try:
        return Vault.open(config.data, config.origin, device, identity)
    except EnvironmentProblem:
        return Vault.create(config.data, config.origin, device, identity)


def _lose_unreadable(config: GatewayConfig, kept: Vault) -> list[str]:
    """Remove what a vault can't give out any more, as a start would stop there; what that was."""
    lost = []
    for name in NAMES:
        try:
            if kept.has(name):
                kept.read(name)
        except EnvironmentProblem:
            sealed_file(config.data, name).unlink()
            if name == ED25519:
                (config.data / PUBLIC_FILE).unlink(missing_ok=True)
            lost.append(name)
    return lost


def _collect(config: GatewayConfig, signer: Signer) -> Recovered:
    if signer.vault is None:
        raise EnvironmentProblem(GateReason.SECRETS_DAMAGED, "there are no keys to export", "restore a backup")
    files = {name: read_file(config.data / name, "certificate") for name in CERTIFICATES}
    for name in NAMES:
        own = plain_file(config.data, name)  # of a TLS certificate that the operator put there
        if own.exists():
            files[name] = read_file(own, "key", secret=True)
        elif signer.vault.has(name):
            files[name] = signer.vault.read(name)
    return Recovered(config.origin, files)


@asynccontextmanager
async def _stopped(config: GatewayConfig) -> AsyncIterator[tuple[Database, Identity]]:
    """The database of a gateway that does not run, and its identity. EnvironmentProblem where it runs."""
    identity = Identity.load(config.data)
    database = Database(config.data / DATABASE, on_failure=lambda: None, trusted=identity.trusts(config.origin))
    try:
        authorizations.check(database.reading)
        yield database, identity
    finally:
        await database.close()


async def _record(
    config: GatewayConfig, database: Database, kind: str, body: dict[str, Any], signer: Signer | None = None
) -> dict[str, Any]:
    """Say it in the lineage, and seal that."""
    used = signer or Signer(config)
    try:
        checkpointer = Checkpointer(config, database, SystemClock(), used)
        checkpointer.anchors.check()
        await checkpointer.finish()
        record = Record(kind, SystemClock().now_ms(), body)

        def store(tx: Transaction) -> None:
            tx.append(record)

        await database.write(store)
        size, _ = await checkpointer.seal(anchor=True)
    finally:
        if signer is None:
            used.close()
    return {**body, "size": size}
