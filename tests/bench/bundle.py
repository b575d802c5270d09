"""The row of ``scripts/bench bundle``: what it costs to verify the bundle of a job of an hour.

The bundle is a real one: a gateway in this process, a software TPM that boots in simulation, and one round of proof
after the other, with the gateway's clock moved on by ten seconds between two. The reference is every signature check
that verifying it contains, and nothing else: each quote, each artifact, the checkpoint with its seal, the certification
of the log key, the introductions of issuing keys, the chain of the EK.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from structlog.testing import capture_logs

from tests.bench.measure import Row, compare, row
from tests.support.executor import ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tpm.attestation_key import accept_attestation_key
from tpm.public import parse_public
from tpm.signature import parse_signature
from tpm.software import SoftwareTpm, ca_certificates, provision
from ztrooted.anchors import Anchors
from ztrooted.bundle import Bundle, parse_bundle
from ztrooted.checkpoint import SEAL_TYPE
from ztrooted.issuer import signed_digest
from ztrooted.jose import parse_jwk
from ztrooted.note import parse_note
from ztrooted.verify import verify_bundle

ROUNDS = 360  # an hour at one proof every ten seconds
APART_S = 10.0
FILES = 2000  # measured before the job begins: what a Debian server has after its boot
TARGET = 1 / 2.5

Check = Callable[[], object]


def rows(*, quotes: int = ROUNDS, files: int = FILES, rounds: int = 7) -> Iterator[Row]:
    """The row; smaller numbers make a quick run that proves nothing about speed."""
    with capture_logs():  # each round is a line
        data, anchors = asyncio.run(made(quotes, files))
    report = verify_bundle(data, anchors)
    assert report.verified, report.failed
    checks = signature_checks(parse_bundle(data), anchors)

    def bare() -> None:
        for check in checks:
            check()

    found = compare(lambda: verify_bundle(data, anchors), bare, rounds=rounds)
    reference = f"its {len(checks)} signature checks alone"
    yield row("bundle_360", found, "ms", 1e3, reference, f"ratio >= {TARGET}", found.speed >= TARGET)


async def made(quotes: int, files: int) -> tuple[bytes, Anchors]:
    """The bundle of a job with so many renewals on a machine that has measured so many files, and its anchors."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in ("gateway-tpm", "machine-tpm"):
            provision(folder / one, ca=folder / "ca", certificates=True)
        with SoftwareTpm(folder / "gateway-tpm") as gateway_tpm, SoftwareTpm(folder / "machine-tpm") as tpm:
            gate = GatewayInProcess(folder, gateway_tpm, ca_certificates(folder / "ca"), {})
            await gate.start()
            try:
                return await _job(gate, ScriptedExecutor(gate, tpm, folder / "machine"), quotes, files), gate.anchors()
            finally:
                await gate.stop()


async def _job(gate: GatewayInProcess, executor: ScriptedExecutor, quotes: int, files: int) -> bytes:
    for number in range(files):
        executor.simulator.measure(f"/usr/lib/x86_64-linux-gnu/package{number // 20}/lib{number}.so.1", b"%d" % number)
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        grant = await executor.authorize(job(), max_runtime_s=2 * quotes * round(APART_S) + 60)
        await channel.activate(grant)
        await channel.started(grant)
        for _ in range(quotes):
            await gate.pass_time(APART_S)
            await channel.renew()
        await channel.ended(grant)
    executor.device.close()
    async with await gate.client("auditor") as auditor:
        return await auditor.bundle(grant.authorization)


def signature_checks(bundle: Bundle, anchors: Anchors) -> list[Check]:
    """Each signature that has to be checked, with everything the check needs prepared."""
    values = [json.loads(one.data) for one in bundle.records]
    log_key, gateway_ak = anchors.log_key.public_key, anchors.gateway_ak.key
    checks: list[Check] = []
    for value in values:
        body = value["body"]
        if value["type"] == "gateway.started":
            identity = body["identity"]
            attest, signature = (bytes.fromhex(identity[name]) for name in ("certify_attest", "certify_signature"))
            checks.append(_tpm(gateway_ak, attest, signature))
        elif value["type"] == "key.introduced":
            checks.append(_digest(log_key, signed_digest(body["statement"].encode()), bytes.fromhex(body["signature"])))
        elif value["type"] == "executor.enrolled":
            ak = accept_attestation_key(parse_public(bundle.blob(body["ak_public"]))).key
            checks += _chain([bundle.blob(digest) for digest in body["ek_chain"]])
        judged = body.get("round", body)
        if judged.get("manifest"):
            manifest = judged["manifest"]
            checks.append(_tpm(ak, bundle.blob(manifest["attest"]), bundle.blob(manifest["signature"])))
    checks += _artifacts(bundle, values)
    return [*checks, *_checkpoint(bundle, log_key, gateway_ak)]


def _tpm(key: Any, attest: bytes, signature: bytes) -> Check:
    values = parse_signature(signature).values
    encoded, ecdsa = (
        encode_dss_signature(*(int.from_bytes(value, "big") for value in values)),
        ec.ECDSA(hashes.SHA256()),
    )
    return lambda: key.verify(encoded, attest, ecdsa)


def _digest(key: Any, digest: bytes, signature: bytes) -> Check:
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: PLC0415

    scheme = ec.ECDSA(Prehashed(hashes.SHA256()))
    return lambda: key.verify(signature, digest, scheme)


def _chain(chain: list[bytes]) -> Iterator[Check]:
    """One for each certificate, by the key of the next; for the last one the same check again, by another's key."""
    certificates = [x509.load_der_x509_certificate(data) for data in chain]
    for one, issuer in pairwise(certificates):
        key = issuer.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            yield lambda key=key, one=one: key.verify(
                one.signature, one.tbs_certificate_bytes, padding.PKCS1v15(), one.signature_hash_algorithm
            )


def _artifacts(bundle: Bundle, values: list[dict[str, Any]]) -> Iterator[Check]:
    from ztrooted import jose  # noqa: PLC0415

    statements = [json.loads(one["body"]["statement"]) for one in values if one["type"] == "key.introduced"]
    keys = {one["kid"]: parse_jwk(one["jwk"]) for one in statements}
    for digest in bundle.artifacts:
        token = bundle.blob(digest)
        parsed = jose.parse(token.decode(), typ="ztrooted-authz+jwt")
        raw = parsed.signature
        encoded = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        signed, key = token.rpartition(b".")[0], keys[parsed.kid]
        yield lambda key=key, encoded=encoded, signed=signed: key.verify(encoded, signed, ec.ECDSA(hashes.SHA256()))


def _checkpoint(bundle: Bundle, log_key: Any, gateway_ak: Any) -> Iterator[Check]:
    note = parse_note(bundle.checkpoint)
    for line in note.signatures:
        if line.value.startswith(SEAL_TYPE):
            rest = line.value[len(SEAL_TYPE) + 1 :]
            size = int.from_bytes(rest[:2], "big")
            attest, rest = rest[2 : 2 + size], rest[2 + size :]
            yield _tpm(gateway_ak, attest, rest[2 : 2 + int.from_bytes(rest[:2], "big")])
        else:
            yield lambda line=line: log_key.verify(line.value, note.text, ec.ECDSA(hashes.SHA256()))
