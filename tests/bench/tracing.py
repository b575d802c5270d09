"""The rows of ``scripts/bench tracing``: what an observation costs where nobody asks for one, and where somebody does."""

from collections.abc import Iterator

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.bench.measure import Row, compare, row
from tests.support.attestation import SoftwareAk
from tpm.algorithms import Alg
from tpm.attest import QuoteInfo
from tpm.observation import observed
from tpm.pcr import PcrSelection, pcr_digest
from tpm.quote import parse_quote, verify_quote
from ztrooted.tracing import Tracing

OFF, ON = 200.0, 2.0  # how many times as long as an observation a quote's verification takes, at least
AT_ONCE = 100  # observations that are timed together: one is too short for the clock


class _Nowhere(SpanExporter):
    """Takes everything and keeps nothing."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def rows(*, rounds: int = 51) -> Iterator[Row]:
    """Both rows."""
    yield _row("observed_off", rounds, OFF)
    tracing = Tracing("bench", _Nowhere()).start()
    try:
        yield _row("observed_on", rounds, ON)
    finally:
        tracing.close()


def _row(name: str, rounds: int, wanted: float) -> Row:
    """One observation against what the cheapest observed piece of work takes, the verification of a quote."""
    selection = PcrSelection.of({"sha256": list(range(8))})
    values = {"sha256": {pcr: bytes([pcr]) * 32 for pcr in range(8)}}
    ak, nonce = SoftwareAk.ecc(), bytes(32)
    attest, signature = ak.quote(
        attested=QuoteInfo(selection, pcr_digest(selection, values, Alg.SHA256)), extra_data=nonce
    )

    def nothing() -> None:
        for _ in range(AT_ONCE):
            with observed("nothing", purpose="runtime"):
                pass

    def quote() -> None:
        verify_quote(parse_quote(attest, signature), ak.key, nonce=nonce, selection=selection, pcr_values=values)

    found = compare(nothing, quote, rounds=rounds)
    ratio = found.speed * AT_ONCE
    made = row(name, found, "us", 1e6 / AT_ONCE, "a quote's verification", f"ratio >= {wanted:g}", ratio >= wanted)
    return Row(
        made.name,
        made.value,
        made.unit,
        made.reference,
        found.reference * 1e6,
        ratio,
        made.target,
        made.met,
        made.best,
    )
