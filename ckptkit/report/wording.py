"""Times, shares and names as a page says them; what else people read is of ``readable``.

length_text(0.0123)         # "12 ms"
length_text(11520)          # "3 h 12 min"
date_text(1_790_000_000.0)  # "2026-09-21 14:13:20"
escaped("<b>")              # "&lt;b&gt;"
"""

from __future__ import annotations

import html
from datetime import datetime, timedelta, timezone
from itertools import pairwise

from ckptkit.readable import plain

__all__ = [
    "LAST_MOMENT",
    "chart_text",
    "date_text",
    "escaped",
    "length_text",
    "number_text",
    "share_text",
    "stamp",
]

LAST_MOMENT = 253402300799.0  # of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_UNITS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


def length_text(secs: float) -> str:
    """Return a length of time, in two units at most."""
    if secs <= 0:
        return "0 s"
    secs = min(secs, LAST_MOMENT)  # a file may say anything
    if secs < 0.9995:
        return f"{secs * 1000:.2g} ms" if secs < 0.0995 else f"{secs * 1000:.0f} ms"
    for unit, below in pairwise(_UNITS):
        whole, rest = divmod(round(secs / _UNITS[below]), _UNITS[unit] // _UNITS[below])
        if whole:
            return f"{whole} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{secs:.3g} s"


def date_text(at: float) -> str:
    """Return a moment, to the second, in UTC."""
    return stamp(at)[:19].replace("T", " ")


def stamp(at: float) -> str:
    """Return a moment as ISO 8601 has it, in UTC and without saying so."""
    moment = _EPOCH + timedelta(seconds=min(max(at, 0.0), LAST_MOMENT))
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")


def number_text(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}"


def share_text(part: float, whole: float) -> str:
    """Return a share in per cent; "" of nothing."""
    if whole <= 0:
        return ""
    percent = 100 * part / whole
    if 0 < percent < 0.001:
        return "< 0.001 %"
    return f"{percent:.2g} %" if percent < 9.95 else f"{percent:.0f} %"


def escaped(text: str) -> str:
    """Return a text as HTML that is nothing but this text."""
    return html.escape(plain(text))


def chart_text(text: str) -> str:
    """Return a text as plotly has it, which knows some markup and has no name for a quote."""
    return html.escape(plain(text), quote=False)
