"""How a program finds its gateway, its agent and what to trust: by variables of its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.errors import EnvironmentProblem
from ztrooted.guard.agent import SOCKET, LocalAgent
from ztrooted.reasons import GateReason
from ztrooted.token_file import read_token

MAX_ANCHORS = 1 << 20  # bytes of an anchors file: roots of makers of TPMs are most of it


@dataclass(frozen=True, slots=True)
class OrchestratorSettings:
    """Where to ask, and as whom."""

    gateway: str
    ca: Path
    token: str
    anchors: Anchors

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> "OrchestratorSettings":
        """``ZTROOTED_GATEWAY``, ``ZTROOTED_CA``, ``ZTROOTED_TOKEN_FILE``, ``ZTROOTED_ANCHORS``.

        EnvironmentProblem ``config.missing`` naming the one that is not there.
        """
        return cls(
            _required(variables, "ZTROOTED_GATEWAY", "the gateway's address, https://host:port"),
            Path(_required(variables, "ZTROOTED_CA", "the gateway's tls/ca.pem")),
            read_token(Path(_required(variables, "ZTROOTED_TOKEN_FILE", "the file of an orchestrator's token"))),
            read_anchors(variables),
        )


def agent_from_environment(variables: Mapping[str, str] = os.environ) -> LocalAgent:
    """This machine's agent: ``ZTROOTED_EXECUTOR``, ``ZTROOTED_ANCHORS`` and, where it is another, ``ZTROOTED_SOCKET``."""
    executor = _required(variables, "ZTROOTED_EXECUTOR", "this machine's executor id, ex-…")
    return LocalAgent(read_anchors(variables), executor, Path(variables.get("ZTROOTED_SOCKET") or SOCKET))


def listening_agent(before: str) -> LocalAgent:
    """The same, which listens. EnvironmentProblem ``execution.agent_lost`` otherwise: who can't refuse does not start.

    ``before`` names what is about to.
    """
    agent = agent_from_environment()
    if not agent.path.is_socket():
        raise EnvironmentProblem(
            GateReason.EXECUTION_AGENT_LOST,
            f"no executor agent listens at {agent.path}",
            f"start it before the {before}: 'ztrooted executor run'",
        )
    return agent


def read_anchors(variables: Mapping[str, str] = os.environ) -> Anchors:
    """The file that ``ZTROOTED_ANCHORS`` names."""
    path = Path(_required(variables, "ZTROOTED_ANCHORS", "the anchors file, which the gateway's operator gives out"))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ANCHORS)
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            f"the anchors {path} can't be read: {error.strerror}",
            "get them from the gateway's operator, by another way than from the gateway",
        ) from error
    return parse_anchors(data, str(path))


def _required(variables: Mapping[str, str], name: str, what: str) -> str:
    value = variables.get(name, "").strip()
    if not value:
        raise EnvironmentProblem(GateReason.CONFIG_MISSING, f"{name} is not set", f"set it: {what}")
    return value
