r"""What the commands print: texts that do nothing to a terminal, and times as people say them.

plain("a\nb")               # 'a\\nb'
age_text(7200.0)            # "2 h"
"""

from __future__ import annotations

__all__ = ["age_text", "plain"]


def age_text(secs: float) -> str:
    """Return a time in the largest unit that fits."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if secs >= length:
            return f"{secs / length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"


def plain(text: str) -> str:
    """Return a text as one line that does nothing to a terminal: file names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
