"""What operators ask: executors, baselines, policies, orders."""

from typing import Literal
from urllib.parse import quote

from ztrooted.baseline_models import ApprovalRequest, BaselineList, BaselineView, CaptureRequest
from ztrooted.client.answers import stranger
from ztrooted.client.orchestrators import OrchestratorCalls
from ztrooted.models import AuthorizationView, ExecutorPage, ExecutorView, LabelsRequest, compose
from ztrooted.operator_models import (
    OrderRequest,
    OrderView,
    Quarantined,
    QuarantineList,
    RetirementRequest,
    RetirementView,
    WebhookList,
    WebhookView,
)
from ztrooted.policy_models import ActivationOfPolicies, PoliciesView, TrialOfPolicies, TrialView
from ztrooted.reference import MAXIMUM as BASELINE

POLICIES = 8 << 20  # three documents, or a thousand changes


class OperatorCalls(OrchestratorCalls):
    """What a good machine is, what is permitted, and what ends now."""

    async def executors(self) -> list[ExecutorView]:
        """All executors, by id; asked for page by page."""
        found: list[ExecutorView] = []
        after = ""
        while True:
            page = await self._call("GET", f"/v1/executors?after={after}", ExecutorPage)
            found += page.executors
            if page.next is None:
                return found
            if page.next <= after:
                raise stranger(self.url, "its pages go round in a circle")
            after = page.next

    async def capture_baseline(self, executor: str) -> BaselineView:
        """Propose an executor's present state as the baseline of its class."""
        return await self._call("POST", "/v1/baselines", BaselineView, compose(CaptureRequest, executor=executor))

    async def propose_baseline(self, data: bytes, executor_class: str) -> BaselineView:
        """Propose a baseline, as canonical bytes, for a class."""
        path = f"/v1/classes/{quote(executor_class, safe='')}/baselines"
        return await self._call("POST", path, BaselineView, data)

    async def approve_baseline(self, baseline: str, *, expires_in_s: int | None = None) -> BaselineView:
        """Put a proposed baseline in force, for ever or for a time."""
        asked = compose(ApprovalRequest, expires_in_s=expires_in_s)
        return await self._call("POST", f"/v1/baselines/{quote(baseline, safe='')}/approval", BaselineView, asked)

    async def baselines(self) -> list[BaselineView]:
        """The baselines, the latest proposal first."""
        return [one for page in await self._pages("/v1/baselines", BaselineList) for one in page.baselines]

    async def baseline(self, baseline: str) -> bytes:
        """A baseline's exact bytes."""
        return await self._bytes("GET", f"/v1/baselines/{quote(baseline, safe='')}", maximum=BASELINE)

    async def policies(self) -> PoliciesView:
        """The policies in force."""
        return await self._call("GET", "/v1/policies", PoliciesView, maximum=POLICIES)

    async def activate_policies(self, documents: dict[str, str], *, allow_rollback: bool = False) -> PoliciesView:
        """Put documents in force, by role."""
        asked = compose(ActivationOfPolicies, **documents, allow_rollback=allow_rollback)
        return await self._call("POST", "/v1/policies", PoliciesView, asked, maximum=POLICIES)

    async def try_policies(self, documents: dict[str, str], *, last: int) -> TrialView:
        """The last recorded decisions under other documents. Nothing changes."""
        asked = compose(TrialOfPolicies, **documents, last=last)
        return await self._call("POST", "/v1/policies/trial", TrialView, asked, maximum=POLICIES)

    async def label(self, executor: str, labels: dict[str, str]) -> None:
        """Replace an executor's labels."""
        await self._bytes("PUT", f"/v1/executors/{executor}/labels", compose(LabelsRequest, labels=labels))

    async def webhooks(self) -> list[WebhookView]:
        """How each webhook stands."""
        return (await self._call("GET", "/v1/webhooks", WebhookList)).webhooks

    async def revoke(self, authorization: str, reason: str = "no reason given") -> AuthorizationView:
        """End an authorization."""
        await self.order("revocations", "authorization", authorization, reason)
        return await self.authorization(authorization)

    async def order(
        self, what: Literal["revocations", "quarantines", "releases"], kind: str, name: str, reason: str
    ) -> OrderView:
        """Give an operator's order about an authorization, executor, orchestrator or class."""
        asked = compose(OrderRequest, subject={"kind": kind, "id": name}, reason=reason)
        return await self._call("POST", f"/v1/{what}", OrderView, asked)

    async def retire(self, executor: str, reason: str, *, successor: str | None = None) -> RetirementView:
        """Take an executor out of service for good; ``successor`` is the id of who comes in its place."""
        asked = compose(RetirementRequest, reason=reason, successor=successor)
        path = f"/v1/executors/{quote(executor, safe='')}/retirement"
        return await self._call("POST", path, RetirementView, asked)

    async def quarantined(self) -> list[Quarantined]:
        """Who is in quarantine."""
        return [one for page in await self._pages("/v1/quarantines", QuarantineList) for one in page.quarantined]
