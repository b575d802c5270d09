"""The admission webhook, over real HTTPS, with reviews as an API server sends them. No cluster was run."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
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
from tests.support.gateway_in_process import MovedClock
from ztrooted.client import tls_context
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.executor_set import ExecutorSet, read_executor_set
from ztrooted.integrations.kubernetes import API, Admission, application, parse_review
from ztrooted.integrations.kubernetes_follower import BELIEVE_S, KEPT, TAINT, Cluster, Follower

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


class ApiServer:
    """What the follower uses of one: nodes with taints, pods by node; whoever has the token may do all of it.

    ``refuse``: the status for a path that begins so. ``meddle``: somebody else changes nodes before each patch but the last.
    """

    def __init__(self) -> None:
        self.taints: list[dict[str, str]] = [{"key": "other", "effect": "NoSchedule"}]
        self.version = 1
        self.pods = {("batch", "job-7"): "node-1", ("batch", "job-8"): "node-2", ("kube-system", "proxy"): "node-1"}
        self.refuse: dict[str, int] = {}
        self.meddle = 0
        self.graces: list[Any] = []

    def tainted(self) -> bool:
        """Whether our taint is there."""
        return {"key": TAINT, "effect": "NoExecute", "value": "true"} in self.taints

    async def handle(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer t"
        for path, status in self.refuse.items():
            if request.path.startswith(path):
                return web.json_response({"kind": "Status"}, status=status)
        if request.path == "/api/v1/nodes/node-1":
            return await self._node(request)
        if request.method == "GET" and request.path == "/api/v1/pods":
            field, _, node = request.query["fieldSelector"].partition("=")
            assert field == "spec.nodeName"
            found = [name for name, on in self.pods.items() if on == node]
            items = [{"metadata": {"namespace": namespace, "name": name}} for namespace, name in found]
            return web.json_response({"kind": "PartialObjectMetadataList", "items": items})
        if request.method == "DELETE" and (parts := request.path.split("/"))[3] == "namespaces":
            await asyncio.sleep(0.05)  # longer than a refusal takes
            self.graces.append((await request.json())["gracePeriodSeconds"])
            gone = self.pods.pop((parts[4], parts[6]), None)
            return web.json_response({}, status=404 if gone is None else 200)
        return web.json_response({"kind": "Status"}, status=404)

    async def _node(self, request: web.Request) -> web.Response:
        if request.method == "PATCH":
            assert request.content_type == "application/merge-patch+json"
            if self.meddle:
                self.meddle -= 1
                self.version += 1
            patch = await request.json()
            if patch["metadata"]["resourceVersion"] != str(self.version):
                return web.json_response({"kind": "Status"}, status=409)
            self.taints = patch["spec"]["taints"]
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "spec": {"taints": self.taints}})


@dataclass
class Following:
    follower: Follower
    server: ApiServer
    clock: MovedClock


@pytest_asyncio.fixture(loop_scope="module")
async def following(webhook: Webhook, shared_folder: Path) -> AsyncIterator[Following]:
    """A follower that has found its node in good standing."""
    server, app = ApiServer(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    (shared_folder / "service-token").write_text("t\n")
    nodes, clock = ExecutorSet({"node-1": webhook.machine.id}), MovedClock()
    async with await webhook.machine.orchestrator() as orchestrator, served(app, webhook.tls[0]) as url:
        cluster = Cluster(url, shared_folder / "cluster.pem", shared_folder / "service-token")
        follower = Follower(orchestrator, cluster, nodes, clock=clock)
        server.taints.append({"key": TAINT, "effect": "NoExecute", "value": "true"})  # left by one that ran before
        await follower.look()
        assert server.taints == [{"key": "other", "effect": "NoSchedule"}]
        yield Following(follower, server, clock)


async def test_a_node_that_drifted_is_emptied_and_taken_back_when_it_is_proved(
    webhook: Webhook, following: Following
) -> None:
    server = following.server
    await webhook.machine.drift()
    try:
        server.meddle = 3
        await following.follower.look()
        assert server.tainted()
        assert {"key": "other", "effect": "NoSchedule"} in server.taints, "nobody else's taint is lost"
        assert set(server.pods) == {("batch", "job-8"), ("kube-system", "proxy")}
        assert server.graces == [0]
        server.pods["batch", "tolerates-everything"] = "node-1"
        await following.follower.look()
        assert ("batch", "tolerates-everything") not in server.pods
    finally:
        await webhook.machine.trust()
    await following.follower.look()
    assert server.taints == [{"key": "other", "effect": "NoSchedule"}]


async def test_what_the_api_server_refuses_is_tried_again(webhook: Webhook, following: Following) -> None:
    server = following.server
    server.pods["batch", "another"] = "node-1"
    server.refuse = {"/api/v1/namespaces/batch/pods/job-7": 403}
    await webhook.machine.drift()
    try:
        await following.follower.look()
        with pytest.raises(EnvironmentProblem, match="403"):
            await following.follower._cluster.empty("node-1")
        assert ("batch", "job-7") in server.pods
        assert ("batch", "another") not in server.pods, "one that is refused keeps no other"
        server.refuse = {}
        await following.follower.look()
        assert ("batch", "job-7") not in server.pods
        cluster = following.follower._cluster
        server.refuse = {"/api/v1/nodes": 403}
        with pytest.raises(EnvironmentProblem, match="403") as refused:
            await cluster.empty("node-1")
        assert "'patch' on nodes" in refused.value.remedy
        server.refuse, server.meddle = {}, 10**6
        with pytest.raises(EnvironmentProblem, match="409"):
            await cluster.free("node-1")
        with pytest.raises(EnvironmentProblem, match="no answer"):
            await replace(cluster, url="https://127.0.0.1:1").empty("node-1")
        with pytest.raises(EnvironmentProblem, match="service account"):
            await replace(cluster, token=Path("/nowhere")).empty("node-1")
    finally:
        await webhook.machine.trust()


async def test_a_gateway_that_says_nothing_is_believed_for_a_while_and_no_longer(
    webhook: Webhook, following: Following
) -> None:
    follower, server, clock = following.follower, following.server, following.clock
    async with await webhook.machine.orchestrator("https://127.0.0.1:1") as nobody:
        known, follower._orchestrator = follower._orchestrator, nobody
        clock.passed_s += BELIEVE_S / 2
        await follower.look()
        assert not server.tainted()
        clock.passed_s += BELIEVE_S / 2
        await follower.look()
        assert server.tainted()
        assert ("batch", "job-7") not in server.pods
        follower._orchestrator = known
    await follower.look()
    assert not server.tainted()


async def test_a_node_behind_which_nobody_is_enrolled_is_emptied(webhook: Webhook, following: Following) -> None:
    follower = following.follower
    ghost = Follower(
        follower._orchestrator, follower._cluster, ExecutorSet({"node-1": "ex-" + "0" * 32}), clock=following.clock
    )
    await ghost.look()
    assert following.server.tainted()
    assert ("batch", "job-7") not in following.server.pods


async def test_the_manifests_fail_closed_and_ask_about_both_places() -> None:
    configuration = json.loads((DEPLOY / "configuration.json").read_text())
    (hook,) = configuration["webhooks"]
    assert (hook["failurePolicy"], hook["sideEffects"]) == ("Fail", "NoneOnDryRun")
    assert hook["admissionReviewVersions"] == ["v1"]
    (rule,) = hook["rules"]
    assert set(rule["resources"]) == {"pods", "pods/binding"}
    assert rule["operations"] == ["CREATE"]
    assert set(hook["namespaceSelector"]["matchExpressions"][0]["values"]) == KEPT
    kinds = [one["kind"] for one in json.loads((DEPLOY / "webhook.json").read_text())["items"]]
    assert kinds == ["Namespace", "Service", "Deployment"]
    follower = {one["kind"]: one for one in json.loads((DEPLOY / "follower.json").read_text())["items"]}
    allowed = {
        (kind, verb)
        for rule in follower["ClusterRole"]["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {("nodes", "get"), ("nodes", "patch"), ("pods", "list"), ("pods", "delete")}
    pod = follower["Deployment"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == follower["ServiceAccount"]["metadata"]["name"]
    assert pod["containers"][0]["command"][2] == "ztrooted.integrations.kubernetes_follower"


async def test_nodes_come_from_a_file_in_which_somebody_is(tmp_path: Path) -> None:
    for text in ("{}", "[]", '{"node-1": 1}', "{"):
        (tmp_path / "nodes.json").write_text(text)
        with pytest.raises(GateError):
            read_executor_set(tmp_path / "nodes.json")
    with pytest.raises(EnvironmentProblem, match="can't be read"):
        read_executor_set(tmp_path / "none.json")
    assert parse_review(json.dumps(review()).encode()).node == "node-1"
