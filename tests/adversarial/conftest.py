"""A gateway and executors for the tests that attack the running service."""

from tests.support.executor import channel, executor, executors
from tests.support.gateway_in_process import gate

__all__ = ["channel", "executor", "executors", "gate"]
