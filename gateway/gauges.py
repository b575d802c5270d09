"""What ``/metrics`` reads off a running gateway at the moment it is asked."""

import shutil
from functools import partial
from typing import TYPE_CHECKING

from gateway.history import History
from gateway.storage import lineage
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

# What one maker of TPMs promises of its memory (STMicroelectronics, ST33); none that we know promises less than a fifth.
NV_CYCLES = 500_000
# Whatever ``Gateway.not_ready`` can name.
NOT_READY = (
    GateReason.SERVICE_STOPPING,
    GateReason.DATABASE_UNAVAILABLE,
    GateReason.CLOCK_UNTRUSTED,
    GateReason.CHECKPOINT_STALE,
    GateReason.CHECKPOINT_UNWITNESSED,
    GateReason.ENVIRONMENT_TPM,
    GateReason.JWS_KEY_EXPIRED,
    GateReason.SERVICE_LATE,
    GateReason.SERVICE_NOT_READY,
)


def measure(gateway: "Gateway") -> History:
    """Have the metrics of ``gateway`` read what it is and has; what they were lately is kept in the history returned."""
    metrics, start = gateway.metrics, gateway.signer.identity.counter_start
    metrics.increments.set_function(lambda: gateway.checkpointer.anchors.counter - start)
    metrics.connected.set_function(lambda: len(gateway.channels.executors()))

    def left() -> float:
        return NV_CYCLES - (gateway.checkpointer.anchors.counter - start)

    def size() -> float:
        return lineage.size(gateway.database.reading)

    gauge = metrics.gauge
    gauge("ztrooted_tpm_counter_budget", f"Increments left of {NV_CYCLES:,}, which a TPM's memory may bear.", left)
    gauge("ztrooted_ready", "1 where an authorization could be given correctly now.", lambda: not gateway.not_ready())
    metrics.gauges(
        "ztrooted_not_ready",
        "1 for each reason why none could.",
        "reason",
        {str(reason): partial(_failing, gateway, str(reason)) for reason in NOT_READY},
    )
    gauge("ztrooted_log_records", "Records of the lineage.", size)
    gauge(
        "ztrooted_checkpoint_age_seconds", "Age of the last published checkpoint.", lambda: gateway.checkpointer.age_s
    )
    gauge(
        "ztrooted_feed_lag_records", "Records that the event feed has not read yet.", lambda: size() - gateway.feed.end
    )
    gauge(
        "ztrooted_webhook_lag_records", "Records that the slowest webhook has yet to take.", partial(_webhooks, gateway)
    )
    gauge(
        "ztrooted_evidence_age_max_seconds",
        "Age of the oldest proof of a connected executor.",
        partial(_oldest, gateway),
    )
    gauge("ztrooted_sweeper_lateness_seconds", "How late the last deadline was.", lambda: gateway.deadlines.lateness_s)
    gauge("ztrooted_sweeper_beat_age_seconds", "Since the sweeper looked.", lambda: gateway.beat_age_s)
    gauge(
        "ztrooted_data_free_bytes",
        "Left on the data folder's disk.",
        lambda: shutil.disk_usage(gateway.config.data).free,
    )
    return History(metrics, gateway.clock, gateway.not_ready)


def _failing(gateway: "Gateway", reason: str) -> float:
    return reason in gateway.not_ready()


def _webhooks(gateway: "Gateway") -> float:
    return max((view.behind for view in gateway.webhooks.views()), default=0)


def _oldest(gateway: "Gateway") -> float:
    connected = set(gateway.channels.executors())
    rows = gateway.database.reading.execute("SELECT id, proved_at FROM executors WHERE proved_at IS NOT NULL")
    proofs = [proved for executor, proved in rows if executor in connected and proved]
    return (gateway.clock.now_ms() - min(proofs)) / 1000 if proofs else 0.0
