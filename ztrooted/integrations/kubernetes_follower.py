"""Kubernetes, after the fact: a node whose machine is not proved any more is emptied, and gets nothing until it is again.

``python -m ztrooted.integrations.kubernetes_follower --nodes nodes.json`` runs in the cluster (deploy/kubernetes). Every
two seconds it asks the gateway how the executors behind the nodes stand, and has the API server do what follows:

1. A node that the gateway calls trusted is believed for ``believe_s``, 30 s, from before the question, and no longer: a
   gateway that does not answer is no reason to go on. So is a node believed that was never asked about, from our start on.
2. Any other node gets a taint that evicts (``NoExecute``), and every pod on it is deleted with grace 0, again and again
   until there is none. Pods may tolerate a taint, and the eviction API may refuse (a disruption budget): a deletion asks
   nobody.
3. Pods of ``kube-system`` and ``ztrooted-system`` stay, which the admission leaves out as well.
4. A node that is trusted again loses our taint, and no other.

What the API server does not do is tried again at the next look. Two of these may run: what they do is the same.
"""

import argparse
import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog

from ztrooted import strict_json
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.clock import Clock, SystemClock
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.executor_set import ExecutorSet, read_executor_set
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason

log = structlog.get_logger()

TAINT = "ztrooted.io/untrusted"
KEPT = frozenset({"kube-system", "ztrooted-system"})  # as in deploy/kubernetes/configuration.json
EVERY_S = 2.0
BELIEVE_S = 30.0
ANSWER_S = 10.0
MAX_ANSWER = 16 << 20  # bytes: the metadata of a node's pods, of which there are some hundreds
CONFLICT = 409  # somebody else changed the node meanwhile
GONE = 404
AT_ONCE = 16  # nodes that the API server is asked about at once
CONFLICTS = 8
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where a pod finds its token, and the cluster's CA
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server, and the file of the token that it knows us by; read each time, since it is replaced every hour."""

    url: str
    ca: Path
    token: Path

    async def empty(self, node: str) -> int:
        """Taint a node and delete its pods; how many there were. EnvironmentProblem where that is not done."""
        async with self._asking() as call:
            await self._taint(call, node, wanted=True)
            path = f"/api/v1/pods?fieldSelector={quote(f'spec.nodeName={node}', safe='')}"
            found = [_name(one) for one in (await call("GET", path)).value.get("items") or []]
            pods = [f"/api/v1/namespaces/{namespace}/pods/{name}" for namespace, name in found if namespace not in KEPT]
            gone = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
            done = await asyncio.gather(*(call("DELETE", pod, gone) for pod in pods), return_exceptions=True)
        for failed in done:  # after all were tried: one that is refused keeps no other
            if isinstance(failed, BaseException):
                raise failed
        return len(pods)

    async def free(self, node: str) -> None:
        """Take our taint off a node. EnvironmentProblem where that is not done."""
        async with self._asking() as call:
            await self._taint(call, node, wanted=False)

    async def _taint(self, call: "Call", node: str, *, wanted: bool) -> None:
        """Have our taint among the others, or not: a patch replaces the list, and others change it meanwhile."""
        path = f"/api/v1/nodes/{quote(node, safe='')}"
        for _ in range(CONFLICTS):
            found = await call("GET", path)
            if found.status == GONE:
                return
            taints = found.value.get("spec", {}).get("taints") or []
            kept = [one for one in taints if one.get("key") != TAINT]
            after = [*kept, {"key": TAINT, "effect": "NoExecute", "value": "true"}] if wanted else kept
            if after == taints:
                return
            version = found.value.get("metadata", {}).get("resourceVersion")
            patch = {"metadata": {"resourceVersion": version}, "spec": {"taints": after}}
            if (await call("PATCH", path, patch)).status != CONFLICT:
                return
        raise _refused(self.url, "PATCH", path, CONFLICT)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator["Call"]:
        try:
            connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(self.ca)))
            headers = {"Authorization": f"Bearer {self.token.read_text().strip()}"}
        except (OSError, ValueError) as error:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_KEY_FILE,
                f"the service account's {self.token} or {self.ca} can't be used: {error}",
                "run it with automountServiceAccountToken, as deploy/kubernetes does",
            ) from error
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as http:
            yield Call(self.url.rstrip("/"), http)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server says: its status, and the object."""

    status: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One question to the API server."""

    url: str
    http: aiohttp.ClientSession

    async def __call__(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask. EnvironmentProblem for anything but done, gone already, and in conflict."""
        media = "application/merge-patch+json" if method == "PATCH" else "application/json"
        accept = METADATA if method == "GET" and "?" in path else "application/json"
        headers = {"Content-Type": media, "Accept": accept}
        data = None if body is None else json.dumps(body)
        try:
            async with self.http.request(
                method, self.url + path, data=data, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status not in {200, 202, GONE, CONFLICT}:
                    raise _refused(self.url, method, path, answer.status)
                text = await answer.content.read(MAX_ANSWER + 1)
                while len(text) <= MAX_ANSWER and (more := await answer.content.read(MAX_ANSWER + 1 - len(text))):
                    text += more
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _silent(self.url, error) from error
        value = strict_json.parse(
            text, lambda detail: _silent(self.url, ValueError(detail)), maximum=MAX_ANSWER, depth=64
        )
        return Answer(answer.status, value if isinstance(value, dict) else {})


class Follower:
    """One cluster's."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        cluster: Cluster,
        nodes: ExecutorSet,
        *,
        clock: Clock | None = None,
        believe_s: float = BELIEVE_S,
    ) -> None:
        self._orchestrator = orchestrator
        self._cluster = cluster
        self._nodes = nodes
        self._clock = clock or SystemClock()
        self._believe_s = believe_s
        self._until = dict.fromkeys(nodes, self._clock.monotonic() + believe_s)
        self._why = dict.fromkeys(nodes, "the gateway has not said yet how it stands")
        self._some = asyncio.Semaphore(AT_ONCE)
        self._free: set[str] = set()  # nodes that are without our taint, as far as we know

    async def follow(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Ask once how the executors stand, and have done what follows. Raises nothing that could end this."""
        # 1.
        asked = self._clock.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                known = {one.executor: one for one in await self._orchestrator.gateway.executors()}
        except (GateError, TimeoutError) as error:
            log.warning("the gateway does not say how its executors stand", detail=str(error) or type(error).__name__)
        else:
            for node, executor in self._nodes.items():
                found = known.get(executor)
                if found is not None and found.trusted:
                    self._until[node] = asked + self._believe_s
                    self._why[node] = "it was not proved again in time"
                else:
                    self._until[node] = asked
                    self._why[node] = f"{found.reason}: {found.detail}" if found else "no such executor is enrolled"
        await asyncio.gather(*(self._bounded(node) for node in self._nodes))

    async def _bounded(self, node: str) -> None:
        async with self._some:
            await self._hold(node)

    async def _hold(self, node: str) -> None:
        try:
            if self._clock.monotonic() >= self._until[node]:
                # 2., 3.
                self._free.discard(node)
                gone = await self._cluster.empty(node)
                log.warning("a node is emptied", node=node, executor=self._nodes[node], why=self._why[node], pods=gone)
            elif node not in self._free:
                # 4.
                await self._cluster.free(node)
                self._free.add(node)
        except GateError as error:
            log.error("the API server does not do it", node=node, reason=str(error.reason), detail=error.detail)


def _name(item: Any) -> tuple[str, str]:
    """A pod's namespace and name, for a path."""
    metadata = item.get("metadata", {}) if isinstance(item, dict) else {}
    return quote(str(metadata.get("namespace", "")), safe=""), quote(str(metadata.get("name", "")), safe="")


def _silent(url: str, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE,
        f"no answer from the API server at {url}: {error or type(error).__name__}",
        "check its address and certificate; until it answers, delete the pods by hand",
    )


def _refused(url: str, method: str, path: str, status: int) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_NOT_A_GATEWAY,
        f"the API server at {url} answers {method} {path} with {status}",
        "the service account needs 'get' and 'patch' on nodes, 'list' and 'delete' on pods",
    )


async def serve(arguments: argparse.Namespace) -> None:
    """Follow until this is cancelled."""
    asked, nodes = OrchestratorSettings.from_environment(), read_executor_set(arguments.nodes)
    cluster = Cluster(arguments.server, arguments.account / "ca.crt", arguments.account / "token")
    async with Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
        await Follower(orchestrator, cluster, nodes).follow()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        "ztrooted.integrations.kubernetes_follower", description="Empty nodes whose machines are not trusted any more."
    )
    parser.add_argument("--nodes", type=Path, required=True, help="JSON object: executor id by node")
    parser.add_argument("--server", default="https://kubernetes.default.svc", help="the API server")
    parser.add_argument(
        "--account", type=Path, default=ACCOUNT, help="folder of the service account's token and ca.crt"
    )
    try:
        asyncio.run(serve(parser.parse_args()))
    except GateError as error:
        sys.exit(str(NotStarted.of(error)))


if __name__ == "__main__":
    main()
