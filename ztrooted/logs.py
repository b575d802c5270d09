"""Logging: one line on standard error for each event. Whatever is in a value can't start a new one, and no secret is in it.

``json`` is for programs: one object a line, in ASCII. ``console`` is for people; whatever could move a terminal's cursor or
hide text stands as an escape. The line of an event has its name, time and level, and what the event is about; within a
request also ``instance``, which its problem document names too.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import structlog

from ztrooted.inspect.plain import printable
from ztrooted.redaction import redact

Form: TypeAlias = Literal["json", "console"]
_Event: TypeAlias = MutableMapping[str, Any]


def configure(*, verbose: bool = False, quiet: bool = False, form: Form = "json") -> None:
    """Set up logging for this process. ``quiet``: warnings and worse, for a command that says what it did by itself."""
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            *_ENDS[form],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def take_over() -> None:
    """For a process that only serves: what Python and its libraries say by themselves comes as such lines, too."""
    root = logging.getLogger()
    root.handlers[:] = [_PassOn()]
    root.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    log = structlog.get_logger()

    def crashed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            log.critical("crashed", exc_info=(kind, error, trace))

    sys.excepthook = crashed
    threading.excepthook = lambda thrown: log.critical(
        "thread crashed", exc_info=(thrown.exc_type, thrown.exc_value, thrown.exc_traceback)
    )
    sys.unraisablehook = lambda thrown: log.error("not raised", what=thrown.err_msg or "", exc_info=thrown.exc_value)


class _PassOn(logging.Handler):
    """Gives what others log to structlog, which knows the level and the form."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        try:
            said = record.getMessage()
        except (TypeError, ValueError, LookupError):  # arguments that are not of the message
            said = str(record.msg)
        # A level of their own counts as the one below it that we know: structlog has no name for it, and would raise.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        structlog.get_logger().log(level, said, logger=record.name, exc_info=record.exc_info or None)


def _without_secrets(_logger: Any, _method: str, event: _Event) -> _Event:
    found: _Event = redact(event)
    return found


def _visible(_logger: Any, _method: str, event: _Event) -> _Event:
    """Each value in what a terminal shows as it is; a traceback on its line like everything else."""
    if "exception" in event:
        event["traceback"] = event.pop("exception")
    return {printable(name): _shown(value) for name, value in event.items()}


def _shown(value: Any) -> Any:
    return printable(value if isinstance(value, str) else repr(value))


_ENDS: Mapping[Form, tuple[Callable[[Any, str, _Event], Any], ...]] = MappingProxyType(
    {
        "json": (structlog.processors.JSONRenderer(),),
        "console": (_visible, structlog.dev.ConsoleRenderer(colors=False)),
    }
)
