"""A gateway, an executor with its agent, and orchestrators."""

from tests.orchestrators.condor_starter import point
from tests.support.agent_in_process import machine, shared_folder, shared_machine
from tests.support.executor import executor, executors
from tests.support.gate import blueprint, shared_gates
from tests.support.gateway_in_process import gate

__all__ = [
    "blueprint",
    "executor",
    "executors",
    "gate",
    "machine",
    "point",
    "shared_folder",
    "shared_gates",
    "shared_machine",
]
