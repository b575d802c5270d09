"""The flow of the contract suite."""

from prefect import flow

from tests.orchestrators import tools


@flow
def contract(what: str, base: str) -> None:
    getattr(tools, what)(base)
