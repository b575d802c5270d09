"""Traces for OpenTelemetry: off unless a collector is named, and then what is decided is still the same.

What is observed (``tpm.observation``) becomes spans, sent to the collector in OTLP over HTTP. A trace goes on over the
borders of a process by W3C Trace Context: ``traceparent`` is a header of requests, and a member of challenges. Who may not
ask for anything can't choose the trace either: it is taken from callers that are known.

Only this module knows of OpenTelemetry, and imports it when it is needed (``pip install 'ztrooted[otel]'``).
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

from tpm.observation import observe
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.reasons import GateReason

HEADER = "traceparent"
VARIABLE = "TRACEPARENT"  # how a command is told the trace that it is part of
# W3C Trace Context §3.2: version 00; neither id is all zeros.
TRACEPARENT = r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$"
TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
COLLECTOR = re.compile(r"https?://[^\s?#@]+")
SEND_S = 5.0  # for one batch; and for the last one when a process ends

_active: "Tracing | None" = None


class Tracing:
    """Spans of one process on their way to a collector. One at a time; ``close`` sends what is left."""

    def __init__(self, service: str, exporter: Any = None, *, collector: str | None = None) -> None:
        """``exporter`` is any of the SDK's; or else spans go to ``collector``, an address to which ``/v1/traces`` is added.

        EnvironmentProblem ``config.invalid`` where OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 -- an extra
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415
        except ImportError as error:
            raise EnvironmentProblem(
                GateReason.CONFIG_INVALID,
                f"traces were asked for, and OpenTelemetry is not installed: {error}",
                "pip install 'ztrooted[otel]', or leave 'otlp_endpoint' out",
            ) from error
        ours = version("ztrooted")
        self._failed = Status(StatusCode.ERROR)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.version": ours}), shutdown_on_exit=False
        )
        if exporter is not None:
            self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        else:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(f"{collector}/v1/traces")))
        self._tracer = self._provider.get_tracer("ztrooted", ours)

    def start(self) -> "Tracing":
        """Observe what this process does from now on."""
        global _active  # noqa: PLW0603
        _active = self
        observe(self.span)
        return self

    def close(self) -> None:
        """Observe nothing any more, and send what was. Blocks for some seconds where the collector is silent."""
        global _active  # noqa: PLW0603
        if _active is self:
            _active = None
            observe(None)
        self._provider.shutdown()

    @contextmanager
    def span(self, what: str, about: Mapping[str, Any]) -> Iterator[Any]:
        """One piece of work. Of an error only its kind is told, and its reason code: what it says may be about anybody."""
        with self._tracer.start_as_current_span(
            what, attributes=dict(about), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("error.type", str(getattr(error, "reason", type(error).__name__)))
                span.set_status(self._failed)
                raise


def _exporter(address: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- an extra

    return OTLPSpanExporter(endpoint=address, timeout=SEND_S)


def tracing_to(collector: str | None, service: str) -> Tracing | None:
    """Traces of this process, begun, if a collector is named. UsageProblem for what is no address of one."""
    if collector is None:
        return None
    try:
        return Tracing(service, collector=collector_address(collector).rstrip("/")).start()
    except ValueError as error:
        raise UsageProblem(GateReason.CONFIG_INVALID, f"{collector!r}: {error}", "name the collector") from error


def collector_address(text: str) -> str:
    """The address of a collector as it was given. ValueError for what is none; credentials belong into its headers."""
    if not COLLECTOR.fullmatch(text):
        raise ValueError("a collector's address is such as http://127.0.0.1:4318, with neither user nor query")
    return text


@contextmanager
def _continued(parent: str) -> Iterator[None]:
    from opentelemetry import context  # noqa: PLC0415 -- an extra
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    token = context.attach(TraceContextTextMapPropagator().extract({HEADER: parent}))
    try:
        yield
    finally:
        context.detach(token)


def continued(parent: str | None) -> AbstractContextManager[None]:
    """What is observed within is part of the trace that ``parent`` names; of a new one where it names none."""
    return nullcontext() if _active is None or parent is None else _continued(parent)


def trace_id() -> str | None:
    """The trace of the piece of work that is under way here, 32 hexadecimal digits; None where nothing is traced."""
    if _active is None:
        return None
    current = _current()
    return None if current is None else current.split("-")[1]


def trace_member() -> dict[str, str]:
    """The same as a member of a record; records of what is not traced have none."""
    found = trace_id()
    return {} if found is None else {"trace": found}


def traceparent() -> str | None:
    """For whoever is asked next: the piece of work under way, of ours or of a program that uses us; or the one around us."""
    return _current() or _around()


def trace_headers() -> dict[str, str]:
    """The same as a header of a request."""
    told = traceparent()
    return {} if told is None else {HEADER: told}


def traceparent_of_ours() -> str | None:
    """For an executor: it is told of a trace only while this process traces."""
    return None if _active is None else _current()


def _current() -> str | None:
    trace = sys.modules.get("opentelemetry.trace")  # who has not imported it traces nothing
    if trace is None:
        return None
    found = trace.get_current_span().get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else None


def _around() -> str | None:
    told = os.environ.get(VARIABLE, "")
    return told if re.fullmatch(TRACEPARENT.strip("^$"), told) else None  # '$' would take a line's end along
