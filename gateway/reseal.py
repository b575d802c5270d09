"""Another state of the gateway's own machine, once its approver signed for it: same keys, and the old state is over.

After firmware or boot loader were replaced the log key refuses, as it should. Three steps, of which the second needs no TPM:
the machine says in which state it is (``request``), the approver looks at it and signs (``approve``), and the gateway,
stopped, takes that as its state and says so in the lineage (``reseal``).
"""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.app import DATABASE
from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig, read_file
from gateway.identity import IDENTITY_FILE, SEALED_PCRS, Identity
from gateway.own_tpm import environment_problem, open_device
from gateway.recover import Accountable
from gateway.signer import Signer
from gateway.storage import authorizations, lineage
from gateway.storage.database import Database, Transaction
from tpm.counter import parse_nv_public
from tpm.errors import DeviceError, EvidenceError
from tpm.sealing import Approval, Approver, decode_pcrs, encode_pcrs
from ztrooted import canonical
from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem, GateError, UsageProblem
from ztrooted.kept_files import replace
from ztrooted.keys import load_p256, spki
from ztrooted.models import compose
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.strict_json import parse as parse_json

REQUEST, APPROVAL = "ztrooted-reseal-request/1", "ztrooted-reseal-approval/1"
MAX_DOCUMENT = 1 << 16  # bytes


def approver_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The approver's private key (PEM, P-256, for its owner's eyes only). EnvironmentProblem where it is none."""
    data = read_file(path, "approver's key", secret=True)
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise _not_a_key(path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _not_a_key(path, "it is not on P-256")
    return key


def request(config: GatewayConfig) -> dict[str, Any]:
    """What the approver has to see: the state that this machine is in, and the one that was approved. No secret."""
    identity = Identity.load(config.data)
    approver = _approver(identity, config.origin)
    with open_device(config.tpm) as device:
        try:
            pcrs, floor = device.read_pcrs(SEALED_PCRS), device.counter(approver.floor)
        except DeviceError as error:
            raise environment_problem(error) from error
    return {
        "format": REQUEST,
        "origin": config.origin,
        "approver": spki(approver.key).hex(),
        "floor": approver.floor.marshal().hex(),
        "version": str(floor + 1),
        "pcrs": encode_pcrs(pcrs),
        "approved": encode_pcrs(identity.pcrs),
    }


def approve(document: bytes, private: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The approval of a request. UsageProblem for what is none, and for another approver's."""
    value = _read(document, REQUEST)
    try:
        key, floor = load_p256(bytes.fromhex(value["approver"])), parse_nv_public(bytes.fromhex(value["floor"]))
        approver = Approver(key, value["origin"].encode(), floor)
        if spki(private.public_key()) != spki(key):
            raise _unusable("another approver is asked for: this key's approval would count for nothing")
        approval = approver.approve(private, decode_pcrs(value["pcrs"]), int(value["version"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, EvidenceError) as error:
        raise _unusable(f"it is damaged: {error}") from error
    return {"format": APPROVAL, "origin": value["origin"], **approval.encode()}


def changes(value: dict[str, Any]) -> list[str]:
    """What a request asks for, for people: one line for each PCR that is not as it was approved."""
    before, now = value["approved"], value["pcrs"]
    return [
        f"{bank}:{index} was {before.get(bank, {}).get(index)}, is {one}"
        for bank, values in now.items()
        for index, one in values.items()
        if before.get(bank, {}).get(index) != one
    ]


async def reseal(config: GatewayConfig, document: bytes, *, operator: str, reason: str) -> dict[str, Any]:
    """Take what was approved as this gateway's state; what was done, for people. Again after being killed, if need be.

    The approver's signature, the machine's state and the version are looked at before anything changes. GateError
    ``reseal.refused`` for what was not approved or is not the next version, EnvironmentProblem for another state.
    """
    asked = compose(Accountable, operator=operator, reason=reason)
    identity = Identity.load(config.data)
    approver = _approver(identity, config.origin)
    approval = _approval(document, config.origin)
    if not approver.approved(approval):
        raise GateError(
            GateReason.RESEAL_REFUSED,
            "the approver of this gateway did not sign that",
            "have 'ztrooted gateway approve' done with its key",
        )
    _compare(config, identity, approver, approval)
    database = Database(config.data / DATABASE, on_failure=lambda: None, trusted=identity.trusts(config.origin))
    try:
        authorizations.check(database.reading)
        if identity.approval != approval:
            identity = identity.resealed(approval, lineage.size(database.reading))
            replace(config.data / IDENTITY_FILE, canonical.encode(identity.encode()))
        return await _record(config, database, approval, asked)
    finally:
        await database.close()


def _compare(config: GatewayConfig, identity: Identity, approver: Approver, approval: Approval) -> None:
    """The machine must be in the state that was approved, and that be the next version, or the one begun before."""
    with open_device(config.tpm) as device:
        try:
            pcrs, floor = device.read_pcrs(SEALED_PCRS), device.counter(approver.floor)
        except DeviceError as error:
            raise environment_problem(error) from error
    if pcrs != approval.pcrs:
        raise EnvironmentProblem(
            GateReason.RESEAL_REFUSED,
            "this machine is in another state than was approved",
            "ask again: 'ztrooted gateway reseal --request'",
        )
    begun = identity.approval == approval and floor in {approval.version - 1, approval.version}
    if not begun and approval.version != floor + 1:
        raise GateError(
            GateReason.RESEAL_REFUSED,
            f"it is version {approval.version}, and the TPM's floor is {floor}, so the next one is {floor + 1}",
            "an approval counts once; ask again: 'ztrooted gateway reseal --request'",
        )


async def _record(config: GatewayConfig, database: Database, approval: Approval, asked: Accountable) -> dict[str, Any]:
    """Raise the floor, say so in the lineage, and seal that."""
    signer = Signer(config)  # raises the floor
    try:
        checkpointer = Checkpointer(config, database, SystemClock(), signer)
        checkpointer.anchors.check()
        await checkpointer.finish()
        body = {"version": str(approval.version), "pcrs": encode_pcrs(approval.pcrs), **asked.model_dump()}
        if not _recorded(database, body["version"]):
            record = Record("gateway.resealed", SystemClock().now_ms(), body)

            def store(tx: Transaction) -> None:
                tx.append(record)

            await database.write(store)
        size, _ = await checkpointer.seal(anchor=True)
    finally:
        signer.close()
    return {**body, "size": size}


def _recorded(database: Database, version: str) -> bool:
    rows = database.reading.execute("SELECT bytes FROM records WHERE type = 'gateway.resealed'")
    return any(json.loads(bytes(data))["body"]["version"] == version for (data,) in rows)


def _approver(identity: Identity, origin: str) -> Approver:
    approver = identity.approver(origin)
    if approver is None:
        raise EnvironmentProblem(
            GateReason.RESEAL_NO_APPROVER,
            "this gateway was made without an approver, so its keys work in one state for ever",
            "bring the machine back to that state, or initialise a new gateway, with --approver",
        )
    return approver


def _approval(document: bytes, origin: str) -> Approval:
    value = _read(document, APPROVAL)
    try:
        approval = Approval.decode(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(f"it is damaged: {error}") from error
    if value["origin"] != origin:
        raise _unusable(f"it is for {value['origin']!r:.100}, and this gateway's lineage is {origin}")
    return approval


def _read(document: bytes, form: str) -> dict[str, Any]:
    if len(document) > MAX_DOCUMENT:
        raise _unusable(f"over {MAX_DOCUMENT} bytes")
    value = parse_json(document, _unusable)
    if not isinstance(value, dict) or value.get("format") != form or not isinstance(value.get("origin"), str):
        raise _unusable(f"it is not of format {form}")
    return value


def _unusable(detail: str) -> UsageProblem:
    return UsageProblem(GateReason.RESEAL_DOCUMENT, detail, "see 'ztrooted gateway reseal --help'")


def _not_a_key(path: Path, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_KEY_FILE,
        f"the approver's key {path} can't be used: {detail}",
        "make one: 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256'",
    )
