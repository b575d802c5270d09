"""What adapters to orchestrators ask of a machine, of one whose gateway and agent are processes of their own."""

import os

from tests.support.agent_in_process import ROOT
from tests.support.gate import Gate
from ztrooted.anchors import Anchors
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.settings import OrchestratorSettings


class MachineApart:
    """What adapters ask of a machine, of one whose gateway and agent are processes."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.folder = gate.data

    @property
    def id(self) -> str:
        return self.gate.executor.id

    @property
    def anchors(self) -> Anchors:
        return self.gate.anchors()

    @property
    def agent(self) -> LocalAgent:
        return LocalAgent(self.anchors, self.id, self.gate.executor.socket)

    async def orchestrator(self, url: str | None = None) -> Orchestrator:
        token = (self.folder / "orchestrator.token").read_text().strip()
        state = self.folder / "state"
        return Orchestrator(url or self.gate.url, ca=self.gate.ca, anchors=self.anchors, token=token, state=state)

    async def settings(self) -> OrchestratorSettings:
        token = (self.folder / "orchestrator.token").read_text().strip()
        return OrchestratorSettings(self.gate.url, self.gate.ca, token, self.anchors)

    async def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ZTROOTED_GATEWAY": self.gate.url,
            "ZTROOTED_CA": str(self.gate.ca),
            "ZTROOTED_TOKEN_FILE": str(self.folder / "orchestrator.token"),
            "ZTROOTED_ANCHORS": str(self.folder / "anchors.toml"),
            "ZTROOTED_EXECUTOR": self.id,
            "ZTROOTED_SOCKET": str(self.gate.executor.socket),
            "ZTROOTED_STATE": str(self.folder / "state"),
            "PYTHONPATH": str(ROOT),
        }
