"""A gateway, an executor with its agent, and orchestrators."""

from tests.support.agent_in_process import machine
from tests.support.executor import executor, executors
from tests.support.gateway_in_process import gate

__all__ = ["executor", "executors", "gate", "machine"]
