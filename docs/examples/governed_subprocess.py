import sys

from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.guard.settings import OrchestratorSettings, agent_from_environment
from ztrooted.work import describe

asked = OrchestratorSettings.from_environment()
agent = agent_from_environment()
work = describe(sys.argv[1:], workflow="nightly", run="1", step="main")

with BlockingOrchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
    outcome = orchestrator.run(work, agent.executor, agent)

print(outcome.outcome, outcome.reason, "proved" if outcome.proved else "not proved", file=sys.stderr)
sys.exit(outcome.demand().exit_status)
