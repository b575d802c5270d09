"""The keys of the data folder: of no use on another machine, in another state, or altered; and the explicit way out."""

import asyncio
import json
import os
import resource
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import recovery, recovery_export
from gateway import reseal as resealing
from gateway.app import DATABASE, Gateway
from gateway.certificates import Authority, private_pem
from gateway.config import GatewayConfig, load_config
from gateway.config_view import check
from gateway.fsck import fsck
from gateway.identity import Identity
from gateway.own_tpm import open_device
from gateway.plain_key import PUBLIC_FILE
from gateway.recovery_export import read_passphrase, unpack
from gateway.setup import create_data_folder
from gateway.vault import ED25519, EXECUTOR_CA, NAMES, SEALED_KEY_FILE, SERVER, Vault, plain_file, sealed_file
from tests.support.commands import run
from tests.support.gateway_in_process import HOST, SWTPM_VENDOR, TRUST_DOMAIN, GatewayInProcess
from tests.support.tpm import SoftwareTpms
from tpm.device import Device
from ztrooted import canonical
from ztrooted.errors import EnvironmentProblem, GateError, UsageProblem
from ztrooted.reasons import GateReason

pytestmark = pytest.mark.asyncio
KEY = ec.generate_private_key(ec.SECP256R1())
PASSPHRASE = b"correct horse battery staple"
ACCOUNTABLE = {"operator": "olivia", "reason": "the yearly copy"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial of a passphrase costs is no matter of these tests."""
    assert recovery_export.COST >= 1 << 17
    monkeypatch.setattr(recovery_export, "COST", 1 << 10)


@pytest.fixture
async def gate(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> AsyncIterator[GatewayInProcess]:
    """A gateway with an approver, which was started once and stopped."""
    key = tmp_path / "approver.pem"
    key.touch(0o600)
    key.write_bytes(
        KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    made = GatewayInProcess(tmp_path, software_tpms(fresh=True), ek_ca, {}, approver=key)
    await made.start()
    await made.stop()
    yield made
    await made.stop()


def config(gate: GatewayInProcess) -> GatewayConfig:
    return load_config(gate.data)


def opened(gate: GatewayInProcess, identity: Identity | None = None, address: str | None = None) -> Vault:
    """The vault alone, by somebody who leaves out every check that a gateway makes before."""
    with open_device(address or gate.tpm.address) as device:
        return Vault.open(gate.data, config(gate).origin, device, identity or Identity.load(gate.data))


def refused(gate: GatewayInProcess) -> GateError:
    with pytest.raises((EnvironmentProblem, GateError)) as refusal:
        Gateway(config(gate))
    return refusal.value


def drift(gate: GatewayInProcess) -> None:
    with Device.open(gate.tpm.address) as device:
        device.extend(4, {"sha256": b"\7" * 32})


def said(gate: GatewayInProcess, kind: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(gate.data / DATABASE)) as connection:
        rows = connection.execute("SELECT bytes FROM records WHERE type = ? ORDER BY seq", [kind]).fetchall()
    return [json.loads(bytes(data))["body"] for (data,) in rows]


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


async def exported(gate: GatewayInProcess, file: Path) -> bytes:
    await recovery.export(config(gate), file, PASSPHRASE, **ACCOUNTABLE)
    return await asyncio.to_thread(file.read_bytes)


def in_the_clear(gate: GatewayInProcess) -> None:
    """As gateways were before keys were sealed."""
    vault = opened(gate)
    for name in (EXECUTOR_CA, SERVER):
        plain_file(gate.data, name).touch(0o600)
        plain_file(gate.data, name).write_bytes(vault.read(name))
        sealed_file(gate.data, name).unlink()
    (gate.data / SEALED_KEY_FILE).unlink()


async def test_no_file_of_a_data_folder_has_a_private_key_in_the_clear(gate: GatewayInProcess) -> None:
    vault = opened(gate)
    secrets = []
    for name in (EXECUTOR_CA, SERVER):
        key = serialization.load_pem_private_key(vault.read(name), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        secrets.append(key.private_numbers().private_value.to_bytes(32, "big"))
    files = [path for path in gate.data.rglob("*") if path.is_file()]
    assert sealed_file(gate.data, SERVER) in files
    for path in files:
        data = path.read_bytes()
        assert b"PRIVATE KEY" not in data, path
        assert not any(secret in data or secret.hex().encode() in data for secret in secrets), path


async def test_a_process_with_keys_leaves_no_core_file(gate: GatewayInProcess) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("nobody may have core files here")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        opened(gate)
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


async def test_a_copied_folder_is_of_no_use_with_another_tpm(
    gate: GatewayInProcess, software_tpms: SoftwareTpms
) -> None:
    other = software_tpms(fresh=True).address
    with pytest.raises(EnvironmentProblem, match="did not seal it") as refusal:
        opened(gate, address=other)
    assert refusal.value.reason is GateReason.ENVIRONMENT_TPM
    settings = gate.data / "gateway.toml"
    settings.write_text(settings.read_text().replace(gate.tpm.address, other))
    problem = refused(gate)
    assert problem.reason is GateReason.ENVIRONMENT_TPM
    assert "is not the one" in problem.detail
    assert "init --recovery" in problem.remedy


async def test_a_changed_machine_gets_no_key_until_it_is_approved_and_the_state_before_gets_none_again(
    gate: GatewayInProcess,
) -> None:
    before = Identity.load(gate.data)
    drift(gate)
    with pytest.raises(EnvironmentProblem, match="not those that were approved"):
        opened(gate)
    assert refused(gate).reason is GateReason.ENVIRONMENT_TPM
    request = canonical.encode(resealing.request(config(gate)))
    approval = canonical.encode(resealing.approve(request, KEY))
    await resealing.reseal(config(gate), approval, operator="olivia", reason="firmware 2.1")
    await gate.restart()
    await gate.stop()
    with pytest.raises(EnvironmentProblem, match="replaced by a later one"):
        opened(gate, before)


async def test_a_gateway_without_an_approver_has_its_keys_in_one_state(
    tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes
) -> None:
    (tmp_path / "plain").mkdir()
    plain = GatewayInProcess(tmp_path / "plain", software_tpms(fresh=True), ek_ca, {})
    assert opened(plain).read(SERVER).startswith(b"-----BEGIN")
    drift(plain)
    with pytest.raises(EnvironmentProblem, match="not those it was sealed to"):
        opened(plain)


async def test_what_was_altered_is_not_used(gate: GatewayInProcess) -> None:
    file = gate.data / SEALED_KEY_FILE
    good = file.read_bytes()
    value = json.loads(good)
    for part in ("public", "private"):
        data = bytes.fromhex(value[part])
        for position in (0, 3, len(data) // 2, len(data) - 1):
            file.write_bytes(canonical.encode(value | {part: flipped(data, position).hex()}))
            assert refused(gate).reason is GateReason.SECRETS_DAMAGED, (part, position)
    for text in (b"", b"{}", good[:-9], good.replace(b"key/1", b"key/2")):
        file.write_bytes(text)
        assert refused(gate).reason is GateReason.SECRETS_DAMAGED
    file.write_bytes(good)
    for name in (EXECUTOR_CA, SERVER):
        data = sealed_file(gate.data, name).read_bytes()
        for changed in (*(flipped(data, at) for at in (0, 20, 40, len(data) - 1)), data[:20], b""):
            sealed_file(gate.data, name).write_bytes(changed)
            assert refused(gate).reason is GateReason.SECRETS_DAMAGED, (name, changed)
        sealed_file(gate.data, name).write_bytes(data)
    ca, server = (sealed_file(gate.data, name) for name in (EXECUTOR_CA, SERVER))
    before = ca.read_bytes()
    ca.write_bytes(server.read_bytes())  # one key in place of another
    assert refused(gate).reason is GateReason.SECRETS_DAMAGED
    ca.write_bytes(before)
    await gate.start()


async def test_a_key_that_opens_in_other_states_is_not_put_in_its_place(gate: GatewayInProcess) -> None:
    """Sealed by this TPM, by somebody who wants what we encrypt from now on, or us to use keys of his."""
    approved = Identity.load(gate.data)
    with open_device(gate.tpm.address) as device:
        loose = Identity.load(gate.data).sealing("another.test/lineage")
        sealed = device.seal_secret(b"k" * 32, loose, approved.pcrs)
    parts = {"parent": sealed.parent.hex(), "public": sealed.public.hex(), "private": sealed.private.hex()}
    file = gate.data / SEALED_KEY_FILE
    file.write_bytes(canonical.encode(json.loads(file.read_bytes()) | parts))
    problem = refused(gate)
    assert problem.reason is GateReason.SECRETS_DAMAGED
    assert "not bound to this gateway's states" in problem.detail


async def test_keys_in_the_clear_are_not_served_until_they_are_sealed(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_clear(gate)
    looks: tuple[Callable[[GatewayConfig], object], ...] = (Gateway, check)
    for look in looks:
        with pytest.raises(EnvironmentProblem) as refusal:
            look(config(gate))
        assert refusal.value.reason is GateReason.SECRETS_PLAIN
        assert "seal-keys" in refusal.value.remedy
    with pytest.raises(EnvironmentProblem):
        await exported(gate, gate.data.parent / "export.json")
    certificate = (gate.data / "tls" / "ca.pem").read_bytes()

    async def killed(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_record", killed)
        with pytest.raises(asyncio.CancelledError):
            await recovery.seal_keys(config(gate), **ACCOUNTABLE)
    assert refused(gate).reason is GateReason.SECRETS_PLAIN  # nothing is lost, and nothing half done is served
    await recovery.seal_keys(config(gate), **ACCOUNTABLE)
    assert not any(plain_file(gate.data, name).exists() for name in NAMES)
    assert said(gate, "gateway.keys_sealed") == [{"keys": [EXECUTOR_CA, SERVER], **ACCOUNTABLE}]
    with pytest.raises(UsageProblem):
        await recovery.seal_keys(config(gate), **ACCOUNTABLE)
    await gate.start()
    assert (await gate.call("GET", "/livez")).status == 200
    assert (gate.data / "tls" / "ca.pem").read_bytes() == certificate
    await gate.stop()
    plain_file(gate.data, EXECUTOR_CA).touch(0o600)  # beside the sealed one
    assert refused(gate).reason is GateReason.SECRETS_PLAIN
    with pytest.raises(EnvironmentProblem) as refusal:  # nor is it what an export gets, in place of that
        await exported(gate, gate.data.parent / "export.json")
    assert refusal.value.reason is GateReason.SECRETS_PLAIN


async def test_an_export_makes_a_gateway_with_another_tpm_that_clients_know(
    gate: GatewayInProcess, software_tpms: SoftwareTpms, tmp_path: Path
) -> None:
    file = tmp_path / "export.json"
    data = await exported(gate, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" not in data
    assert said(gate, "gateway.keys_exported") == [{"digest": recovery_export.digest(data), **ACCOUNTABLE}]
    assert list(fsck(config(gate))[1]) == []
    with pytest.raises(EnvironmentProblem):  # never over a file
        await exported(gate, file)
    assert file.read_bytes() == data
    away = gate.data.rename(tmp_path / "away")
    options: dict[str, Any] = {
        "tpm": software_tpms(fresh=True).address,
        "ek_roots": [tmp_path / "roots.pem"],
        "ek_vendors": [SWTPM_VENDOR],
        "host": HOST,
        "port": 0,
        "names": [HOST],
        "recovered": unpack(data, PASSPHRASE),
    }
    with pytest.raises(UsageProblem) as refusal:
        create_data_folder(gate.data, trust_domain="another.test", **options)
    assert refusal.value.reason is GateReason.RECOVERY_REFUSED
    assert not gate.data.exists()
    create_data_folder(gate.data, trust_domain=TRUST_DOMAIN, **options)
    for name in recovery_export.CERTIFICATES:
        assert (gate.data / name).read_bytes() == (away / name).read_bytes()
    gate.ca = away / "tls" / "ca.pem"  # what its clients were told before
    await gate.start()
    assert (await gate.call("GET", "/livez")).status == 200


async def test_an_export_mends_a_damaged_vault(gate: GatewayInProcess, tmp_path: Path) -> None:
    data = await exported(gate, tmp_path / "export.json")
    (gate.data / SEALED_KEY_FILE).write_bytes(b"{}")
    assert refused(gate).reason is GateReason.SECRETS_DAMAGED
    await recovery.restore_keys(config(gate), unpack(data, PASSPHRASE), **ACCOUNTABLE)
    assert said(gate, "gateway.keys_restored") == [{**ACCOUNTABLE, "lost": []}]
    await gate.start()
    with pytest.raises(EnvironmentProblem):  # not under a gateway that runs
        await recovery.restore_keys(config(gate), unpack(data, PASSPHRASE), **ACCOUNTABLE)


async def test_the_command_line(gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_export, "COST", 1 << 17)
    file, secret, other = tmp_path / "export.json", tmp_path / "passphrase", tmp_path / "other"
    for path, text in ((secret, PASSPHRASE), (other, PASSPHRASE[::-1])):
        path.touch(0o600)
        path.write_bytes(text)

    async def command(name: str, passphrase: Path) -> tuple[int, str]:
        words = ("gateway", name, str(gate.data), str(file), "--passphrase-file", str(passphrase))
        done = await asyncio.to_thread(run, *words, "--operator", "olivia", "--reason", "a drill")
        return done.returncode, done.stdout + done.stderr

    code, text = await command("recovery-export", secret)
    assert code == 0, text
    assert "Warning" in text
    assert PASSPHRASE.decode() not in text
    assert "PRIVATE KEY" not in text
    assert set(unpack(await asyncio.to_thread(file.read_bytes), PASSPHRASE).files) >= {EXECUTOR_CA, SERVER}
    code, text = await command("recovery-import", other)
    assert code == 2
    assert "recovery.refused" in text
    code, text = await command("recovery-import", secret)
    assert code == 0, text
    await gate.start()


async def test_an_import_loses_no_key_that_the_export_does_not_have_unless_nothing_opens_it(
    gate: GatewayInProcess, tmp_path: Path
) -> None:
    """Exports are older than what they mend: a key that was made since is in none."""
    recovered = unpack(await exported(gate, tmp_path / "export.json"), PASSPHRASE)
    settings = gate.data / "gateway.toml"
    settings.write_text("ed25519_signatures = true\n" + settings.read_text())
    await gate.restart()
    await gate.stop()
    public = (gate.data / PUBLIC_FILE).read_bytes()
    sealed_file(gate.data, SERVER).write_bytes(b"damaged")
    await recovery.restore_keys(config(gate), recovered, **ACCOUNTABLE)
    await gate.restart()
    await gate.stop()
    assert (gate.data / PUBLIC_FILE).read_bytes() == public
    (gate.data / SEALED_KEY_FILE).unlink()
    drift(gate)
    with pytest.raises(EnvironmentProblem, match="not in the state"):
        await recovery.restore_keys(config(gate), recovered, **ACCOUNTABLE)
    assert not (gate.data / SEALED_KEY_FILE).exists()
    gate.tpm.power_cycle()
    done = await recovery.restore_keys(config(gate), recovered, **ACCOUNTABLE)
    assert done["lost"] == [ED25519]
    await gate.restart()
    await gate.stop()
    assert (gate.data / PUBLIC_FILE).read_bytes() != public
    assert [body["lost"] for body in said(gate, "gateway.keys_restored")] == [[], [ED25519]]
    assert list(fsck(config(gate))[1]) == []


async def test_an_import_leaves_a_certificate_of_the_operators_with_its_key(
    gate: GatewayInProcess, tmp_path: Path
) -> None:
    recovered = unpack(await exported(gate, tmp_path / "export.json"), PASSPHRASE)
    authority, key = Authority.create("another CA", datetime.now(UTC)), ec.generate_private_key(ec.SECP256R1())
    own = authority.issue_server(key.public_key(), [HOST], datetime.now(UTC)).public_bytes(serialization.Encoding.PEM)
    (gate.data / "tls" / "ca.pem").write_bytes(authority.pem())
    (gate.data / "tls" / "cert.pem").write_bytes(own)
    plain_file(gate.data, SERVER).touch(0o600)
    plain_file(gate.data, SERVER).write_bytes(private_pem(key))
    (gate.data / SEALED_KEY_FILE).unlink()
    await recovery.restore_keys(config(gate), recovered, **ACCOUNTABLE)
    assert (gate.data / "tls" / "cert.pem").read_bytes() == own
    await gate.start()
    assert (await gate.call("GET", "/livez")).status == 200


@pytest.mark.parametrize("name", [EXECUTOR_CA, SERVER])
async def test_a_key_that_is_not_the_certificates_is_not_sealed_over_the_one_that_is(
    name: str, gate: GatewayInProcess
) -> None:
    """``secrets.plain`` tells operators to seal what somebody put there."""
    plain_file(gate.data, name).touch(0o600)
    plain_file(gate.data, name).write_bytes(private_pem(KEY))
    with pytest.raises(EnvironmentProblem):
        await recovery.seal_keys(config(gate), **ACCOUNTABLE)
    assert said(gate, "gateway.keys_sealed") == []
    plain_file(gate.data, name).unlink()
    await gate.start()


async def test_an_export_is_on_the_disk_before_anybody_relies_on_it(
    gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, file = [], os.fsync, tmp_path / "export.json"

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    data = await exported(gate, file)
    assert (file.stat().st_ino, len(data)) in synced


async def test_an_export_is_restored_by_its_own_tpm_only(
    gate: GatewayInProcess, software_tpms: SoftwareTpms, tmp_path: Path
) -> None:
    data = await exported(gate, tmp_path / "export.json")
    settings = gate.data / "gateway.toml"
    settings.write_text(settings.read_text().replace(gate.tpm.address, software_tpms(fresh=True).address))
    before = (gate.data / SEALED_KEY_FILE).read_bytes()
    with pytest.raises(EnvironmentProblem, match="is not the one"):
        await recovery.restore_keys(config(gate), unpack(data, PASSPHRASE), **ACCOUNTABLE)
    assert (gate.data / SEALED_KEY_FILE).read_bytes() == before


async def test_an_export_opens_by_its_passphrase_alone_and_whole(gate: GatewayInProcess, tmp_path: Path) -> None:
    data = await exported(gate, tmp_path / "export.json")
    value = json.loads(data)
    hexadecimal = bytes.fromhex(value["data"])
    for altered, passphrase, detail in (
        (data, PASSPHRASE + b"r", "another one"),
        (canonical.encode(value | {"data": flipped(hexadecimal, 100).hex()}), PASSPHRASE, "altered"),
        (canonical.encode(value | {"origin": "another.test/lineage"}), PASSPHRASE, "altered"),
        (canonical.encode(value | {"more": 1}), PASSPHRASE, "damaged"),
        (canonical.encode({**value, "salt": "00"}), PASSPHRASE, "damaged"),
        (data[:-5], PASSPHRASE, "can't be used"),
        (b"[]", PASSPHRASE, "format"),
        (b"x" * (recovery_export.MAX_EXPORT + 1), PASSPHRASE, "over"),
    ):
        with pytest.raises(UsageProblem, match=detail) as refusal:
            unpack(altered, passphrase)
        assert refusal.value.reason is GateReason.RECOVERY_REFUSED
    assert set(unpack(data, PASSPHRASE).files) == {EXECUTOR_CA, SERVER, *recovery_export.CERTIFICATES}


async def test_where_an_export_and_its_passphrase_may_be(gate: GatewayInProcess, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem) as refusal:
        await exported(gate, gate.data / "tls" / "export.json")
    assert refusal.value.reason is GateReason.ENVIRONMENT_OUTPUT
    assert said(gate, "gateway.keys_exported") == []
    file = tmp_path / "passphrase"
    file.touch(0o600)
    file.write_bytes(PASSPHRASE + b"\nanother line\n")
    assert read_passphrase(file) == PASSPHRASE
    os.chmod(file, 0o640)  # noqa: PTH101
    with pytest.raises(EnvironmentProblem):
        read_passphrase(file)
    os.chmod(file, 0o600)  # noqa: PTH101
    file.write_bytes(b"too short\n")
    with pytest.raises(UsageProblem) as refusal:
        read_passphrase(file)
    assert refusal.value.reason is GateReason.RECOVERY_PASSPHRASE


async def test_a_tls_key_that_the_operator_put_there_is_used_and_goes_along(
    gate: GatewayInProcess, tmp_path: Path
) -> None:
    vault, own = opened(gate), plain_file(gate.data, SERVER)
    own.touch(0o600)
    own.write_bytes(vault.read(SERVER))
    sealed_file(gate.data, SERVER).unlink()
    check(config(gate))
    await gate.restart()
    await gate.stop()
    recovered = unpack(await exported(gate, tmp_path / "export.json"), PASSPHRASE)
    assert recovered.files[SERVER] == own.read_bytes()
    shutil.copy(own, tmp_path / "kept.pem")
    own.chmod(0o644)
    assert refused(gate).reason is GateReason.ENVIRONMENT_KEY_FILE
