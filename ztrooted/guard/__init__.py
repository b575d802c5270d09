"""What stands where work runs: a ticket is verified, the job runs under its lease, and dies with it.

Adapters to orchestrators are made of this: ``agent`` runs a ticket's job and holds on to it, ``function`` makes a job of a
function call, ``governed`` is a decorator, ``executor_set`` says which executor stands behind an orchestrator's names.
"""
