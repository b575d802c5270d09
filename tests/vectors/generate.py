"""Write ``tests/vectors/data`` from real runs; see ``scripts/vectors``. The files are described in docs/bundle-format.md."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.anchors import anchors_file
from tests.adversarial import test_bundle, test_chain_bundles
from tests.adversarial.test_bundle import drift_away, export, run_job
from tests.adversarial.test_chain_bundles import ChainForger, chain
from tests.adversarial.test_chains import POLICY
from tests.support.attestation import SoftwareAk
from tests.support.executor import ScriptedExecutor, channel, executor, executors, job
from tests.support.forger import Forger
from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.support.tpm import SoftwareTpms
from tests.vectors import lies, resealed
from tests.vectors.operations import apply, rehashed_difference
from tests.vectors.tears import packed_tears, tears
from ztrooted import artifact, canonical
from ztrooted.anchors import parse_anchors
from ztrooted.artifact import ArtifactClaims
from ztrooted.bundle import pack
from ztrooted.errors import GateError
from ztrooted.models import Grant
from ztrooted.note_keys import ecdsa_key
from ztrooted.verify import verify_bundle

__all__ = ["channel", "executor", "executors", "gate"]

DATA = Path(__file__).parent / "data"
# Of the lies about a chain, those that say different things to a verifier.
OF_A_CHAIN = (
    "another parent",
    "itself as parent",
    "no parent",
    "another step was allowed",
    "another executor was allowed",
    "no depth was allowed",
    "no child was allowed",
    "root allowed no such delegation",
    "root allowed fewer steps",
    "child hands on as much",
    "no record of the parent",
    "no decision on the parent",
    "parent does not tell of it",
    "parent revoked before the question",
    "parent revoked before a renewal",
    "root revoked before a renewal",
    "parent closed before",
    "parent's lease was over",
    "parent with a higher tier than the root",
    "asked as a dispatch",
    "artifact of another parent",
    "more time",
    "more time was asked for",
    "parent with more time",
    "parent of another parent",
    "another place",
    "a sibling in a taken place",
    "told too late",
    "blamed on a live parent",
    "a story too many",
)


class Index:
    """What is written: files, and cases that say what is to be expected of which."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cases: list[dict[str, Any]] = []

    def case(self, name: str, bundle: str, operations: list[Any], *, anchors: str = "anchors.toml") -> None:
        """One more case, with what Python finds in it."""
        report = verify_bundle(apply(self.files[bundle], operations), parse_anchors(self.files[anchors], anchors))
        failed = report.failed
        self.cases.append(
            {
                "name": name,
                "bundle": bundle,
                "anchors": anchors,
                "operations": operations,
                "verified": report.verified,
                "check": None if failed is None else failed.name,
                "reason": None if failed is None else failed.reason,
            }
        )

    def write(self) -> None:
        DATA.mkdir(exist_ok=True)
        for old in DATA.iterdir():
            old.unlink()
        for name, data in self.files.items():
            (DATA / name).write_bytes(data)
        lines = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in self.cases)
        (DATA / "index.json").write_text(f'{{"format":"ztrooted-vectors/1","cases":[\n{lines}\n]}}\n')


def other_anchors(text: str) -> Iterator[tuple[str, str]]:
    """Anchors of somebody else: each differs in one thing."""
    found = re.search(r'(?m)^4 = "(..)', text)
    assert found
    yield "state", text.replace(found.group(), f'4 = "{int(found.group(1), 16) ^ 1:02x}')
    yield "selection", re.sub(r'(?m)^4 = ".*\n', "", text)
    key = ecdsa_key("gate.test/lineage", ec.generate_private_key(ec.SECP256R1()).public_key())
    yield "log-key", re.sub(r"(?m)^log_key = .*$", f'log_key = "{key.vkey}"', text)
    yield (
        "ak",
        re.sub(r"(?m)^gateway_ak = .*$", f'gateway_ak = "{SoftwareAk.ecc(fresh=True).public.marshal().hex()}"', text),
    )
    key = re.sub(r"gate\.test/lineage\+[0-9a-f]+", lambda found: found.group().replace("gate", "other"), text)
    yield "domain", key.replace('"gate.test"', '"other.test"')


async def forged(
    index: Index, name: str, forger: Callable[[], Forger], tales: dict[str, Any], *, anchors: str = "anchors.toml"
) -> None:
    """Cases signed with every key, as what is to be changed in the same bundle signed anew without any lie."""
    base = f"{name}-signed-anew.json"
    index.files[base] = await forger().forge()
    index.case(f"{name}, signed anew", base, [], anchors=anchors)
    for title, tell in tales.items():
        liar = forger()
        tell(liar)
        lie = await liar.forge()
        operations = rehashed_difference(json.loads(index.files[base]), json.loads(lie))
        assert apply(index.files[base], operations) == lie
        index.case(f"{name}: {title.replace('_', ' ')}", base, operations, anchors=anchors)


def sign_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same claims are the same artifact each time, so that mutations hold what differs and nothing else."""
    made: dict[bytes, str] = {}
    issue = artifact.issue

    def again(claims: ArtifactClaims, key: Any, kid: str) -> str:
        said = canonical.encode([claims.model_dump(), kid])
        if said not in made:
            made[said] = issue(claims, key, kid)
        return made[said]

    monkeypatch.setattr(artifact, "issue", again)


@pytest.mark.timeout(600)
async def write_vectors(
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    software_tpms: SoftwareTpms,
    ek_ca: bytes,
) -> None:
    """One gateway, one machine, five authorizations; and another gateway, whose state was replaced."""
    sign_once(monkeypatch)
    gate.set_dispatch_policy(POLICY)
    await gate.restart()
    await executor.enroll()
    index, bundles = Index(), {}
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        granted = await run_job(executor, channel, renewals=1)
        older = await export(gate, granted)
        root, middle, leaf = await chain(executor, channel, renewals=1)
        for one in (middle, root):
            await channel.ended(one)
        drifted = await drift_away(executor, channel)
        with pytest.raises(GateError) as refused:
            await executor.authorize(job("denied"))
        with pytest.raises(GateError) as unasked:
            await executor.authorize(job("child"), parent=granted.authorization)
        denied, never = (Grant.model_construct(authorization=one.value.authorization) for one in (refused, unasked))  # type: ignore[attr-defined]
        for name, grant in (
            ("grant", granted),
            ("chain", leaf),
            ("drift", drifted),
            ("denial", denied),
            ("unasked", never),
        ):
            bundles[name] = await export(gate, grant)
    anchors = anchors_file(gate.gateway.config)
    index.files = {"anchors.toml": anchors.encode()} | {f"{name}.json": data for name, data in bundles.items()}
    for name in bundles:
        index.case(name, f"{name}.json", [])
    for name, text in other_anchors(anchors):
        index.files[f"anchors-other-{name}.toml"] = text.encode()
        index.case(f"grant, for another {name}", "grant.json", [], anchors=f"anchors-other-{name}.toml")
    index.files["grant.json.gz"] = pack(bundles["grant"])
    index.case("grant, packed", "grant.json.gz", [])
    for name, operations in packed_tears(index.files["grant.json.gz"]):
        index.case(name.replace("_", " "), "grant.json.gz", operations)
    for name, operations in tears(bundles["grant"], older):
        index.case(name.replace("_", " "), "grant.json", operations)
    about_one = {name: tell for name, (tell, _) in test_bundle.LIES.items()} | lies.LIES
    await forged(index, "grant", lambda: Forger(bundles["grant"], gate), about_one)
    about_drift = {name: tell for name, (tell, _) in test_bundle.LIES_ABOUT_DRIFT.items()}
    await forged(index, "drift", lambda: Forger(bundles["drift"], gate), about_drift)
    names = (root.authorization, middle.authorization, leaf.authorization)
    about_chains = {name: test_chain_bundles.LIES[name][0] for name in OF_A_CHAIN}
    await forged(index, "chain", lambda: ChainForger(bundles["chain"], gate, names), about_chains)
    await forged(index, "denial", lambda: Forger(bundles["denial"], gate), lies.LIES_ABOUT_DENIAL)
    await resealed_cases(index, tmp_path / "resealed", software_tpms, ek_ca)
    index.write()


async def resealed_cases(index: Index, folder: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> None:
    """A gateway with an approver, before and after its state was replaced."""
    async with resealed.run(folder, software_tpms, ek_ca) as done:
        for name, bundle in done.bundles.items():
            index.files[f"{name}.json"] = bundle
        for name, text in resealed.anchors(done).items():
            index.files[f"anchors-{name}.toml"] = text.encode()
        for title, bundle_name, anchors_name in resealed.CASES:
            index.case(title, f"{bundle_name}.json", [], anchors=f"anchors-{anchors_name}.toml")
        for title, operations in resealed.anchor_tears(done.bundles["resealed-anchor"]):
            name = f"resealed, the counter's line {title}"
            index.case(name, "resealed-anchor.json", operations, anchors="anchors-resealed.toml")
        tales = resealed.LIES
        forger = partial(Forger, done.bundles["resealed"], done.gate)
        await forged(index, "resealed", forger, tales, anchors="anchors-resealed.toml")
