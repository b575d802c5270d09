"""Kubernetes: a validating admission webhook. No pod is bound to a node that is not an executor in good standing.

``python -m ztrooted.integrations.kubernetes --nodes nodes.json --cert tls.crt --key tls.key`` serves ``POST /admit``.

The node of a pod is known at two places only: at the creation of ``pods/binding``, by the scheduler, and at the creation of
a pod whose ``nodeName`` is set already, by whoever goes around the scheduler. Both are asked about here. Other requests are
no dispatch that we know of, and are refused: a rule that sends them is not the one in deploy/kubernetes.

1. The review is an ``admission.k8s.io/v1`` AdmissionReview with a request, or the answer is no.
2. What is created is a binding, or a pod; the node is taken from it, and from nothing else.
3. A pod without a node has not been dispatched yet: it is let through, because its binding is what is asked about.
4. The node is in the executor set, which is never empty.
5. The gateway authorizes a job that names namespace, pod and the review's UID on that executor.

A dry run has no side effects (``sideEffects: NoneOnDryRun``): it is answered by steps 1 to 4 and what the gateway knows of
the executor, and nothing is authorized. Every failure to find out is a no, with reason and remedy in ``status.message``;
where we do not answer at all, ``failurePolicy: Fail`` is the no.

The job of a pod is not a process that our agent starts, so this is admission and not supervision: the authorization is an
admission's record, and what stops a pod is its deletion (``kubernetes_follower``).
"""

import argparse
import asyncio
import json
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from ztrooted import strict_json
from ztrooted.client import unreachable
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.errors import GateError
from ztrooted.guard.executor_set import ExecutorSet, read_executor_set
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason
from ztrooted.work import Work, describe

MAX_REVIEW = 4 << 20  # bytes: a pod is up to 1.5 MB in etcd, and a review has the old one and the new one
MAX_DEPTH = 64  # the managed fields of a pod nest as deep as its own
ANSWER_S = 8.0  # the API server waits 10 s (timeoutSeconds of the manifest), and then fails the request itself
API = "admission.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Placement:
    """A pod that is to run on a node; ``uid`` is the review's, ``node`` None where there is none yet."""

    uid: str
    namespace: str
    pod: str
    node: str | None
    dry_run: bool


def parse_review(data: bytes) -> Placement:
    """Read a review. GateError ``request.malformed`` for what is none, or asks about something else.

    Numbers: see the module.
    """
    review = strict_json.parse(data, _malformed, maximum=MAX_REVIEW, depth=MAX_DEPTH)
    # 1.
    if not isinstance(review, dict) or (review.get("apiVersion"), review.get("kind")) != (API, "AdmissionReview"):
        raise _malformed(f"this is no AdmissionReview of {API}")
    request = _object(review, "request")
    uid, resource = _text(request, "uid"), _object(request, "resource")
    if (resource.get("group"), resource.get("version"), resource.get("resource")) != ("", "v1", "pods"):
        raise _malformed("this webhook is asked about pods only")
    if request.get("operation") != "CREATE":
        raise _malformed("this webhook is asked about creations only")
    made = _object(request, "object")
    # 2.
    what = request.get("subResource", "")
    if what == "binding":
        target = _object(made, "target")
        if target.get("kind", "Node") != "Node":
            raise _malformed("a pod is bound to nodes only")
        node: str | None = _text(target, "name")
    elif what == "":
        node = _object(made, "spec").get("nodeName") or None
    else:
        raise _malformed(f"this webhook is not asked about pods/{what!s:.40}")
    if node is not None and not isinstance(node, str):
        raise _malformed("nodeName is no text")
    metadata = made.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    pod = request.get("name") or metadata.get("name") or metadata.get("generateName")
    if not isinstance(pod, str) or not pod:
        raise _malformed("the pod has no name")
    return Placement(uid, _text(request, "namespace"), pod, node, request.get("dryRun") is True)


class Admission:
    """Answers reviews."""

    def __init__(self, orchestrator: Orchestrator, nodes: ExecutorSet, *, within_s: float = ANSWER_S) -> None:
        self._orchestrator = orchestrator
        self._nodes = nodes
        self._within_s = within_s

    async def review(self, data: bytes) -> dict[str, Any]:
        """An AdmissionReview with the answer. No exception is a yes, and none gets out that is about the request."""
        uid = _uid_of(data)
        try:
            placement = parse_review(data)
            noted = await self._admit(placement)
        except GateError as error:
            told = NotStarted.of(error)
            refused = {"code": 403, "reason": "Forbidden", "message": f"ztrooted: {told}"}
            return _answer(uid, {"uid": uid, "allowed": False, "status": refused})
        return _answer(uid, {"uid": uid, "allowed": True, "auditAnnotations": noted})

    async def _admit(self, placement: Placement) -> dict[str, str]:
        # 3.
        if placement.node is None:
            return {"ztrooted": "not placed yet"}
        # 4.
        executor = self._nodes[placement.node]
        if placement.dry_run:
            await self._known_to_be_trusted(executor)
            return {"ztrooted": "dry run"}
        # 5.
        dispatch = await self._orchestrator.authorize(_work(placement), executor, within_s=self._within_s)
        return {"authorization": dispatch.authorization, "executor": executor}

    async def _known_to_be_trusted(self, executor: str) -> None:
        try:
            async with asyncio.timeout(self._within_s):
                known = {one.executor: one for one in await self._orchestrator.gateway.executors()}
        except TimeoutError as error:
            raise unreachable(self._orchestrator.gateway.url, error) from error
        found = known.get(executor)
        if found is None:
            raise GateError(GateReason.DISPATCH_EXECUTOR_UNKNOWN, f"no executor {executor} is enrolled")
        if not (found.connected and found.trusted):
            raise GateError(
                GateReason.DISPATCH_EXECUTOR_UNREACHABLE,
                f"executor {executor} is {'not trusted' if found.connected else 'not connected'}: {found.detail}",
            )

    async def handle(self, request: web.Request) -> web.Response:
        """``POST /admit``."""
        return web.json_response(await self.review(await request.read()))


def application(admission: Admission) -> web.Application:
    """What is served."""
    app = web.Application(client_max_size=MAX_REVIEW)
    app.router.add_post("/admit", admission.handle)
    return app


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until this is cancelled."""
    asked, nodes = OrchestratorSettings.from_environment(), read_executor_set(arguments.nodes)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(arguments.cert, arguments.key)
    async with Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
        runner = web.AppRunner(application(Admission(orchestrator, nodes)), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, arguments.host, arguments.port, ssl_context=context).start()
        await asyncio.Event().wait()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        "ztrooted.integrations.kubernetes", description="Admit pods to attested nodes only."
    )
    parser.add_argument("--nodes", type=Path, required=True, help="JSON object: executor id by node")
    parser.add_argument("--cert", type=Path, required=True, help="certificate that the webhook's caBundle vouches for")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 -- a pod's own address
    parser.add_argument("--port", type=int, default=8443)
    try:
        asyncio.run(serve(parser.parse_args()))
    except GateError as error:
        sys.exit(str(NotStarted.of(error)))


def _work(placement: Placement) -> Work:
    argv = ["kubernetes-pod", f"{placement.namespace}/{placement.pod}", placement.uid]
    return describe(argv, workflow="kubernetes", run=placement.uid, step=placement.namespace)


def _answer(uid: str, response: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "AdmissionReview", "response": {**response, "uid": uid}}


def _uid_of(data: bytes) -> str:
    """The review's UID for the answer, whatever else is wrong with it; empty where there is none."""
    try:
        found = json.loads(data)["request"]["uid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) and len(found) <= 64 else ""


def _object(holder: dict[str, Any], name: str) -> dict[str, Any]:
    found = holder.get(name)
    if not isinstance(found, dict):
        raise _malformed(f"{name!r} is missing or no object")
    return found


def _text(holder: dict[str, Any], name: str) -> str:
    found = holder.get(name)
    if not isinstance(found, str) or not found:
        raise _malformed(f"{name!r} is missing or no text")
    return found


def _malformed(detail: str) -> GateError:
    return GateError(
        GateReason.REQUEST_MALFORMED, detail, "use the webhook's configuration as it is in deploy/kubernetes"
    )


if __name__ == "__main__":
    main()
