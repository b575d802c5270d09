"""The schema, as migrations that are applied in order and never changed once released."""

from sqlite_utils import Database as SqliteUtils
from sqlite_utils.migrations import Migrations

MIGRATIONS = Migrations("ztrooted")

# The lineage and everything it refers to by digest can be added to and read, nothing else. These triggers stop mistakes;
# an attacker with write access to the file is stopped by the tree and its sealed checkpoints.
APPEND_ONLY = ("records", "tiles", "blobs", "checkpoints", "cosigned", "intents", "anchors", "artifacts", "approvals")


@MIGRATIONS()
def m0001_initial(db: SqliteUtils) -> None:
    """Everything of the first release."""
    db.table("records").create(
        {"seq": int, "leaf": bytes, "type": str, "at": int, "authorization": str, "bytes": bytes},
        pk="seq",
        not_null={"leaf", "type", "at", "bytes"},
        strict=True,
    )
    db.execute("CREATE INDEX records_by_authorization ON records(authorization, seq) WHERE authorization IS NOT NULL")
    # Few records are of no authorization, and those are looked for by their type.
    db.execute("CREATE INDEX records_by_type ON records(type, seq) WHERE authorization IS NULL")
    db.table("tiles").create(
        {"level": int, "idx": int, "hashes": bytes, "root": bytes},
        pk=("level", "idx"),
        not_null={"hashes", "root"},
        strict=True,
    )
    db.table("blobs").create({"digest": str, "bytes": bytes}, pk="digest", not_null={"bytes"}, strict=True)
    db.table("checkpoints").create(
        {"size": int, "root": bytes, "at": int, "note": bytes}, pk="size", not_null={"root", "at", "note"}, strict=True
    )
    # Checkpoints again, with what witnesses signed below them: those that are published where a quorum is required.
    db.table("cosigned").create(
        {"n": int, "size": int, "at": int, "note": bytes}, pk="n", not_null={"size", "at", "note"}, strict=True
    )
    # What the TPM's counter is about to stand for, and what it stands for: see gateway/rollback.py. ``counter`` has 64 bits,
    # of which no TPM lives to use the last.
    db.table("intents").create(
        {"n": int, "counter": int, "size": int, "root": bytes, "at": int, "signature": bytes},
        pk="n",
        not_null={"counter", "size", "root", "at", "signature"},
        strict=True,
    )
    db.table("anchors").create(
        {"counter": int, "size": int, "root": bytes, "at": int, "attest": bytes, "signature": bytes},
        pk="counter",
        not_null={"size", "root", "at", "attest", "signature"},
        strict=True,
    )
    db.table("executors").create(
        {
            "id": str,
            "class": str,
            "virtual": int,
            "manufacturer": str,
            "ak_public": bytes,
            "session_key": bytes,
            "enrollment": int,
            "event_log": str,
            "progress": str,
            "pcrs": str,
            "trusted": int,
            "verdict": str,
            "proved_at": int,
            "proof_due": int,
        },
        pk="id",
        not_null={"class", "ak_public", "session_key", "enrollment", "event_log", "progress", "trusted", "verdict"},
        strict=True,
    )
    db.table("ima_entries").create(
        {"executor": str, "enrollment": int, "offset": int, "count": int, "blob": str},
        pk=("executor", "enrollment", "offset"),
        not_null={"count", "blob"},
        strict=True,
    )
    db.table("authorizations").create(
        {
            "id": str,
            "executor": str,
            "orchestrator": str,
            "state": str,
            "job": str,
            "job_digest": str,
            "max_runtime_s": int,
            "enrollment": int,
            "requested_at": int,
            "activated_at": int,
            "lease_expires": int,
            "renewals": int,
            "artifact": str,
            "reason": str,
            "last_seq": int,
            "last_leaf": bytes,
            "parent": str,
            "place": int,
            "depth": int,
            "delegation": str,
            "tier": int,
        },
        pk="id",
        not_null={
            "executor",
            "orchestrator",
            "state",
            "job",
            "job_digest",
            "requested_at",
            "renewals",
            "depth",
            "delegation",
        },
        strict=True,
    )
    db.execute(
        "CREATE INDEX authorizations_live ON authorizations(executor)"
        " WHERE state IN ('authorized', 'activated', 'running', 'revoked')"
    )
    # Each child has its own place among those of its parent; a denied one has none.
    db.execute("CREATE UNIQUE INDEX authorizations_by_parent ON authorizations(parent, place) WHERE parent IS NOT NULL")
    db.table("artifacts").create(
        {"authorization": str, "n": int, "digest": str}, pk=("authorization", "n"), not_null={"digest"}, strict=True
    )
    db.table("baselines").create(
        {
            "digest": str,
            "class": str,
            "proposed_at": int,
            "pcrs": int,
            "events": int,
            "files": int,
            "captured_from": str,
            "captured_at": int,
        },
        pk=("digest", "class"),
        not_null={"proposed_at", "pcrs", "events", "files", "captured_from", "captured_at"},
        strict=True,
    )
    db.table("approvals").create(
        {"class": str, "version": int, "digest": str, "operator": str, "at": int, "expires": int},
        pk=("class", "version"),
        not_null={"digest", "operator", "at"},
        strict=True,
    )
    db.table("labels").create({"executor": str, "labels": str}, pk="executor", not_null={"labels"}, strict=True)
    db.table("quarantines").create(
        {"kind": str, "id": str, "operator": str, "reason": str, "at": int},
        pk=("kind", "id"),
        not_null={"operator", "reason", "at"},
        strict=True,
    )
    db.table("webhooks").create(
        {"name": str, "cursor": int, "failing_since": int, "detail": str},
        pk="name",
        not_null={"cursor", "detail"},
        strict=True,
    )
    db.table("pending_policy").create({"appraisal": str, "dispatch": str, "entities": str}, strict=True)
    db.table("tokens").create(
        {"hash": str, "role": str, "name": str, "created_at": int, "expires": int},
        pk="hash",
        not_null={"role", "name", "created_at", "expires"},
        strict=True,
    )
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            db.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


@MIGRATIONS()
def m0002_replies(db: SqliteUtils) -> None:
    """Answers that are kept for a while under the Idempotency-Key of whoever asked: see gateway/storage/replies.py."""
    db.table("replies").create(
        {"name": str, "caller": str, "request": str, "at": int, "sealed": bytes},
        pk="name",
        not_null={"caller", "request", "at", "sealed"},
        strict=True,
    )
    db.execute("CREATE INDEX replies_by_age ON replies(at)")
    db.execute("CREATE INDEX replies_by_caller ON replies(caller)")
    # In the order in which lists show them.
    db.execute("CREATE INDEX authorizations_by_time ON authorizations(requested_at DESC, id)")


@MIGRATIONS()
def m0003_retirements(db: SqliteUtils) -> None:
    """Executors that are out of service for good: see gateway/retirement.py."""
    db.table("retirements").create(
        {"executor": str, "successor": str, "operator": str, "reason": str, "at": int},
        pk="executor",
        not_null={"operator", "reason", "at"},
        strict=True,
    )


@MIGRATIONS()
def m0004_searching(db: SqliteUtils) -> None:
    """What authorizations are looked for by, newest first: see gateway/storage/searching.py."""
    named = {
        "executor": "executor",
        "orchestrator": "orchestrator",
        "workflow": "json_extract(job, '$.workflow')",
        "run": "json_extract(job, '$.run')",
        "step": "json_extract(job, '$.step')",
        "job": "job_digest",
    }
    for name, expression in named.items():
        db.execute(f"CREATE INDEX authorizations_by_{name} ON authorizations({expression}, requested_at DESC, id)")
    # The latest denials and revocations of all.
    db.execute("CREATE INDEX authorizations_refused ON authorizations(requested_at DESC, id) WHERE reason IS NOT NULL")
    db.execute(
        "CREATE INDEX authorizations_by_reason ON authorizations(reason, requested_at DESC, id) WHERE reason IS NOT NULL"
    )
