"""Facts as people read them: sizes, ages and metrics, on one line or in a small table of a notebook.

    size_text(403_000_000)                                   # 403 MB
    age_text(130.0)                                          # 2 min
    line("Record", "ckpt-12", ["step 12", "403 MB"])         # <Record ckpt-12: step 12, 403 MB>
    table("runs/a", [("ckpt-12", "12")], headings=("checkpoint", "step"))     # HTML

Names of files and metrics may hold anything: here they do nothing to a terminal, and nothing to a page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["age_text", "count_text", "line", "metrics_text", "plain", "secs_text", "size_text", "table"]


def size_text(size_bytes: float) -> str:
    """Return a size with three digits: ``403 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def secs_text(secs: float) -> str:
    """Return how long something took: ``9.1 ms``, ``0.31 s``."""
    return f"{secs * 1000:.1f} ms" if secs < 0.00995 else f"{secs:.2f} s"


def age_text(secs: float) -> str:
    """Return how old something is: ``2 min``. A clock that was set back makes it new."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if secs >= length:
            return f"{secs / length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"


def count_text(count: int, one: str, many: str | None = None) -> str:
    """Return a number of things: ``1 save``, ``1,200 saves``; a plural of its own comes last."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return metrics with four digits: ``loss 0.3124, val_loss 0.31``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def plain(text: str) -> str:
    """Return a text as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def line(kind: str, name: str, facts: Iterable[str]) -> str:
    """Return what stands for an object where it is printed: ``<kind name: fact, fact>``."""
    return plain(f"<{f'{kind} {name}'.strip()}: {', '.join(facts)}>")


def table(caption: str, rows: Iterable[Sequence[str]], *, headings: Sequence[str] = ()) -> str:
    """Return a table in HTML, the first cell of each row its name; it has the colours of the page that it stands in."""
    head = f"<thead><tr>{_cells('th', headings)}</tr></thead>" if headings else ""
    body = "".join(f"<tr>{_cells('th', row[:1])}{_cells('td', row[1:])}</tr>" for row in rows)
    return f"<table><caption>{_escaped(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def _cells(kind: str, texts: Iterable[str]) -> str:
    return "".join(f"<{kind}>{_escaped(text)}</{kind}>" for text in texts)


def _escaped(text: str) -> str:
    return html.escape(plain(text))
