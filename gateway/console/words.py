"""How values are written for people: times, ids, states. Templates use these as filters."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from ztrooted.explanations import explain
from ztrooted.reasons import parse_reason

SHORT = 12
_YEAR_10000_MS = 253_402_300_800_000
# The shape beside each state, so that no colour is needed to read it, and the colour.
MARKS: Mapping[str, tuple[str, str]] = {
    "trusted": ("good", "✓"),
    "untrusted": ("bad", "✕"),
    "overdue": ("warn", "◔"),
    "retired": ("quiet", "—"),
    "requested": ("quiet", "…"),
    "authorized": ("live", "◇"),
    "activated": ("live", "◆"),
    "running": ("live", "▶"),
    "denied": ("bad", "✕"),
    "revoked": ("bad", "■"),
    "interrupted": ("bad", "■"),
    "killed": ("bad", "■"),
    "closed": ("quiet", "●"),
    "quarantined": ("bad", "⊘"),
    "in force": ("good", "✓"),
    "approved before": ("quiet", "●"),
    "expired": ("warn", "◔"),
    "proposed": ("warn", "◇"),
    "connected": ("good", "●"),
    "away": ("quiet", "○"),
    "ready": ("good", "✓"),
    "not ready": ("bad", "✕"),
    "pass": ("good", "✓"),
    "fail": ("bad", "✕"),
    "not checked": ("warn", "?"),
    "elapsed": ("quiet", "◔"),
    "virtual": ("warn", "◌"),
    "hardware": ("good", "▣"),
}

# Control characters, and those that hide others or turn the text around them: those of ``visible`` in the viewer's dom.js.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def visible(value: Any) -> Any:
    """A text in which nothing is hidden, before a template shows it; markup and other values as they are."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _HIDDEN.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", value)


def clock(at_ms: int | None, kind: str = "ago") -> Markup:
    """An instant (ms since the epoch): as text in UTC, which a script turns into what it is from now.

    ``kind``: ``ago`` for the past, ``until`` for a deadline, ``at`` stays as it is.
    """
    if not at_ms:
        return Markup('<span class="quiet">never</span>')
    if not 0 < at_ms < _YEAR_10000_MS:
        return Markup("<code>{}</code>").format(at_ms)  # whoever wrote this meant no time
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" data-at="{}" data-kind="{}" title="{} UTC">{} UTC</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"), at_ms, kind, text, text
    )


def short(text: str) -> Markup:
    """The beginning of a digest or an id, with all of it where a pointer rests."""
    if len(text) <= SHORT + 4:
        return Markup("<code>{}</code>").format(text)
    return Markup('<code title="{}">{}…</code>').format(text, text[:SHORT])


def mark(state: str, text: str = "") -> Markup:
    """A state: shape, colour and word."""
    colour, shape = MARKS.get(state, ("quiet", "●"))
    return Markup('<span class="mark {}"><span class="shape" aria-hidden="true">{}</span>{}</span>').format(
        colour, shape, text or state
    )


def reason(code: str | None) -> Mapping[str, str]:
    """A reason code with what it means and what to do; nothing for a code that is not one of ours."""
    try:
        known = explain(parse_reason(code or ""))
    except KeyError:
        return {"code": code or "", "meaning": "", "remedy": ""}
    return {"code": code or "", "meaning": known.meaning, "remedy": known.remedy}


def plural(number: int, one: str, many: str = "") -> str:
    """``1 executor``, ``12,000 executors``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(milliseconds: int) -> str:
    """A length of time, in the two largest units that say something."""
    seconds = max(0, milliseconds) // 1000
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "clock": clock,
    "short": short,
    "mark": mark,
    "reason": reason,
    "plural": plural,
    "span": span,
}
