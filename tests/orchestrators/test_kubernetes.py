"""The admission webhook, over real HTTPS, with reviews as an API server sends them. No cluster was run."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority, private_pem
from tests.support.agent_in_process import ROOT, MachineInProcess
from ztrooted.client import tls_context
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.executor_set import ExecutorSet, read_executor_set
from ztrooted.integrations.kubernetes import API, TAINT, Admission, Evictor, application, parse_review

pytestmark = pytest.mark.asyncio(loop_scope="module")

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
DEPLOY = ROOT / "deploy" / "kubernetes"


def review(what: str = "binding", *, node: str | None = "node-1", **changes: Any) -> dict[str, Any]:
    """As the API server sends it when the scheduler binds a pod, or when somebody creates one."""
    metadata = {"name": "job-7", "namespace": "batch", "uid": "b1", "managedFields": [{"fieldsV1": {"f:spec": {}}}]}
    if what == "binding":
        made: dict[str, Any] = {"kind": "Binding", "apiVersion": "v1", "metadata": metadata}
        made["target"] = {"kind": "Node", "name": node}
    else:
        made = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": [{"name": "c"}]}}
        made["spec"] |= {"nodeName": node} if node else {}
    request = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": made["kind"]},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        **({"subResource": "binding"} if what == "binding" else {}),
        "requestKind": {"group": "", "version": "v1", "kind": made["kind"]},
        "name": "job-7",
        "namespace": "batch",
        "operation": "CREATE",
        "userInfo": {"username": "system:kube-scheduler", "groups": ["system:authenticated"]},
        "object": made,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return {"kind": "AdmissionReview", "apiVersion": API, "request": request | changes}


class Webhook:
    def __init__(self, machine: MachineInProcess, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        self.machine = machine
        self.tls = tls

    @asynccontextmanager
    async def serving(self, orchestrator: Orchestrator, *, within_s: float = 8.0) -> AsyncIterator[str]:
        nodes = ExecutorSet({"node-1": self.machine.id, "ghost": "ex-" + "0" * 32})
        async with served(application(Admission(orchestrator, nodes, within_s=within_s)), self.tls[0]) as url:
            yield url

    async def post(self, url: str, body: Any) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connector = aiohttp.TCPConnector(ssl=self.tls[1])
        async with aiohttp.ClientSession(connector=connector) as http, http.post(f"{url}/admit", data=data) as answer:
            assert answer.status == 200
            told: dict[str, Any] = await answer.json()
            assert (told["apiVersion"], told["kind"]) == (API, "AdmissionReview")
            response: dict[str, Any] = told["response"]
            return response


@asynccontextmanager
async def served(app: web.Application, context: ssl.SSLContext) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webhook(shared_machine: MachineInProcess, shared_folder: Path) -> Webhook:
    """With a certificate of its own, that the API server's caBundle would vouch for."""
    now = datetime.now(UTC)
    authority, key = Authority.create("cluster", now), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_server(key.public_key(), ["127.0.0.1"], now)
    (shared_folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (shared_folder / "tls.key").write_bytes(private_pem(key))
    (shared_folder / "cluster.pem").write_bytes(authority.pem())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shared_folder / "tls.crt", shared_folder / "tls.key")
    return Webhook(shared_machine, (context, tls_context(shared_folder / "cluster.pem")))


async def test_a_binding_and_a_pod_with_a_node_are_dispatches(webhook: Webhook) -> None:
    async with await webhook.machine.orchestrator() as orchestrator, webhook.serving(orchestrator) as url:
        for what in ("binding", "pod"):
            response = await webhook.post(url, review(what))
            assert response["allowed"] is True, response
            assert response["uid"] == UID
            issued = webhook.machine.gate.records("authorization.issued")[-1]
            assert response["auditAnnotations"]["authorization"] == issued["authorization"]
        before = len(webhook.machine.gate.records("dispatch.requested"))
        assert (await webhook.post(url, review("pod", node=None)))["allowed"] is True, "its binding is asked about"
        dry = await webhook.post(url, review(dryRun=True))
        assert dry["allowed"] is True
        assert len(webhook.machine.gate.records("dispatch.requested")) == before, "a dry run has no side effects"


async def test_whatever_is_not_in_good_standing_gets_no_pod(webhook: Webhook) -> None:
    async with await webhook.machine.orchestrator() as orchestrator, webhook.serving(orchestrator) as url:
        for node in ("node-2", "ghost"):
            for dry in (False, True):
                response = await webhook.post(url, review(node=node, dryRun=dry))
                assert response["allowed"] is False
                assert "dispatch.executor_unknown" in response["status"]["message"]
        await webhook.machine.drift()
        try:
            for dry in (False, True):
                response = await webhook.post(url, review(dryRun=dry))
                assert response["allowed"] is False
                assert response["status"]["code"] == 403
            refused = await webhook.post(url, review())
            assert "ima.not_allowed" in refused["status"]["message"]
            assert "baseline" in refused["status"]["message"], "the remedy is where people look"
        finally:
            await webhook.machine.trust()


NO_REVIEWS: dict[str, Any] = {
    "no JSON": b"{",
    "nothing": {},
    "another version": review() | {"apiVersion": "admission.k8s.io/v1beta1"},
    "no request": {"apiVersion": API, "kind": "AdmissionReview"},
    "another operation": review(operation="UPDATE"),
    "another resource": review(resource={"group": "apps", "version": "v1", "resource": "deployments"}),
    "another subresource": review("pod", subResource="status"),
    "no node": review(node=None),
    "an empty node": review(node=""),
    "no object": review(object=None),
    "two nodes": json.dumps(review()).replace('"name": "node-1"', '"name": "node-1", "name": "node-2"').encode(),
    "a number": review(object={"target": {"kind": "Node", "name": 7}, "metadata": {}}),
    "another target": review(object={"target": {"kind": "Pod", "name": "node-1"}, "metadata": {}}),
}


async def test_what_is_no_review_is_no(webhook: Webhook) -> None:
    async with await webhook.machine.orchestrator() as orchestrator, webhook.serving(orchestrator) as url:
        for what, body in NO_REVIEWS.items():
            response = await webhook.post(url, body)
            assert (what, response["allowed"]) == (what, False)
            assert "request.malformed" in response["status"]["message"], what


async def test_a_gateway_that_does_not_answer_is_no(webhook: Webhook) -> None:
    async with (
        await webhook.machine.orchestrator("https://127.0.0.1:1") as orchestrator,
        webhook.serving(orchestrator, within_s=0.3) as url,
    ):
        for dry in (False, True):
            response = await webhook.post(url, review(dryRun=dry))
            assert response["allowed"] is False
            assert "environment.gateway_unreachable" in response["status"]["message"]


async def test_a_revoked_node_is_tainted_and_its_pods_are_deleted_without_grace(
    webhook: Webhook, shared_folder: Path
) -> None:
    asked: list[tuple[str, str, Any]] = []
    answers = {"status": 200}
    others = [{"key": "other", "effect": "NoSchedule"}]

    async def handle(request: web.Request) -> web.Response:
        """The node is changed by somebody else between our first look and our first patch."""
        assert request.headers["Authorization"] == "Bearer t"
        if request.method == "GET":
            version = str(sum(method == "PATCH" for method, *_ in asked))
            return web.json_response({"metadata": {"resourceVersion": version}, "spec": {"taints": others}})
        asked.append((request.method, request.path, await request.json()))
        changed = request.method == "PATCH" and asked[-1][2]["metadata"]["resourceVersion"] == "0"
        return web.json_response({}, status=409 if changed else answers["status"])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with served(app, webhook.tls[0]) as url:
        evictor = Evictor(url, ca=shared_folder / "cluster.pem", token="t")
        await evictor.revoke("node-1", {"job-7": "batch"})
        patches = [body for method, path, body in asked if (method, path) == ("PATCH", "/api/v1/nodes/node-1")]
        assert len(patches) == 2
        assert patches[1]["spec"]["taints"] == [*others, {"key": TAINT, "effect": "NoExecute", "value": "true"}]
        (gone,) = [body for method, path, body in asked if path == "/api/v1/namespaces/batch/pods/job-7"]
        assert gone["gracePeriodSeconds"] == 0
        answers["status"] = 403
        with pytest.raises(EnvironmentProblem, match="403"):
            await evictor.revoke("node-1", {})
    with pytest.raises(EnvironmentProblem, match="no answer"):
        await evictor.revoke("node-1", {})


async def test_the_manifests_fail_closed_and_ask_about_both_places() -> None:
    configuration = json.loads((DEPLOY / "configuration.json").read_text())
    (hook,) = configuration["webhooks"]
    assert (hook["failurePolicy"], hook["sideEffects"]) == ("Fail", "NoneOnDryRun")
    assert hook["admissionReviewVersions"] == ["v1"]
    (rule,) = hook["rules"]
    assert set(rule["resources"]) == {"pods", "pods/binding"}
    assert rule["operations"] == ["CREATE"]
    kinds = [one["kind"] for one in json.loads((DEPLOY / "webhook.json").read_text())["items"]]
    assert kinds == ["Namespace", "Service", "Deployment"]


async def test_nodes_come_from_a_file_in_which_somebody_is(tmp_path: Path) -> None:
    for text in ("{}", "[]", '{"node-1": 1}', "{"):
        (tmp_path / "nodes.json").write_text(text)
        with pytest.raises(GateError):
            read_executor_set(tmp_path / "nodes.json")
    with pytest.raises(EnvironmentProblem, match="can't be read"):
        read_executor_set(tmp_path / "none.json")
    assert parse_review(json.dumps(review()).encode()).node == "node-1"
