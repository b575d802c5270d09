"""What tables of the console show of an executor and an authorization, and what the public is not shown of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.console.page import Viewer
from gateway.console.words import reason
from gateway.routes.executors import executor_view
from gateway.storage import executors, listings
from gateway.storage.authorizations import Authorization
from gateway.storage.executors import Executor
from ztrooted.errors import PolicyError
from ztrooted.models import ExecutorView

if TYPE_CHECKING:
    from gateway.app import Gateway

LEASE_MS = 30_000  # drawn as a whole lease where no class says how long one is


@dataclass(frozen=True, slots=True)
class ExecutorRow:
    """One executor: how it stands in a word, since when it is proved, and until when."""

    view: ExecutorView
    standing: str
    quarantined: bool
    proved_at: int
    why: Mapping[str, str]
    named: bool  # whether labels and details are shown


@dataclass(frozen=True, slots=True)
class AuthorizationRow:
    """One authorization, and how it stands in a word; ``lease_ms`` is how long a whole lease is."""

    found: Authorization
    standing: str
    why: Mapping[str, str]
    lease_ms: int
    named: bool  # whether it is said whose work it is, and which


def executor_row(gateway: "Gateway", executor: Executor, viewer: Viewer) -> ExecutorRow:
    """An executor as a viewer may see it."""
    view = executor_view(gateway, executor)
    if view.reason == "operator.retired":
        standing = "retired"
    elif view.trusted:
        standing = "trusted"
    else:
        standing = "overdue" if executor.trusted else "untrusted"
    row = gateway.database.reading.execute(
        "SELECT 1 FROM quarantines WHERE kind = 'executor' AND id = ?", (executor.id,)
    ).fetchone()
    return ExecutorRow(view, standing, row is not None, executor.proved_at, reason(view.reason), viewer.signed_in)


def authorization_row(gateway: "Gateway", found: Authorization, viewer: Viewer) -> AuthorizationRow:
    """An authorization as a viewer may see it."""
    standing = listings.stands(gateway.database.reading, found.id, found.state, found.reason)
    return AuthorizationRow(found, standing, reason(found.reason), _lease_ms(gateway, found), viewer.signed_in)


def _lease_ms(gateway: "Gateway", found: Authorization) -> int:
    executor = executors.find(gateway.database.reading, found.executor) if found.live else None
    try:
        return LEASE_MS if executor is None else round(gateway.rounds.policy_of(executor).lease_s * 1000)
    except PolicyError:
        return LEASE_MS
