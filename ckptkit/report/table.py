"""The table of checkpoints, newest first, as HTML.

checkpoint_table(facts.saves, now=time.time())      # "<p>…</p><table>…</table>"
"""

from __future__ import annotations

from collections.abc import Sequence

from ckptkit.readable import age_text, count_text, size_text
from ckptkit.report.saves import GONE, Save
from ckptkit.report.wording import date_text, escaped, number_text

__all__ = ["MOST_ROWS", "checkpoint_table"]

MOST_ROWS = 300
_HEADINGS = ("name", "step", "epoch", "time", "size", "metrics", "state")
_TOLD = {"pruned": "pruned", "replaced": "saved again later", "missing": "gone, and nobody noted why"}


def checkpoint_table(saves: Sequence[Save], now: float) -> str:
    """Return a table of what is there, and folded up one of what is gone; of many those that matter most."""
    gone = [save for save in saves if save.fate in GONE]
    folded = _table(gone, now)
    rest = f"<details>\n<summary>{len(gone):,} more, gone since</summary>\n{folded}</details>\n" if gone else ""
    return _table([save for save in saves if save.fate not in GONE], now) + rest


def _table(saves: Sequence[Save], now: float) -> str:
    if not saves:
        return ""
    # First what is marked, then the rest; of equals the newest.
    order = sorted(range(len(saves)), key=lambda at: (_is_marked(saves[at]), at), reverse=True)
    shown = [saves[at] for at in sorted(order[:MOST_ROWS], reverse=True)]
    left_out = len(saves) - len(shown)
    note = f"<p>The newest are listed, and those that are marked; {left_out:,} are left out.</p>\n" if left_out else ""
    head = "".join(f'<th scope="col" class="{heading}">{heading}</th>' for heading in _HEADINGS)
    rows = "".join(_row(save, now) for save in shown)
    return f"{note}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def _is_marked(save: Save) -> bool:
    return save.is_latest or save.is_best or save.fate == "damaged" or save.resumed_times > 0


def _row(save: Save, now: float) -> str:
    age = "" if save.at is None else f"{date_text(save.at)} <br><small>{age_text(now - save.at)} ago</small>"
    metrics = (f"<span><i>{escaped(name)}</i> {number_text(value)}</span>" for name, value in save.metrics.items())
    cells = {
        "step": "" if save.step is None else f"{save.step:,}",
        "epoch": _epoch(save),
        "time": age,
        "size": "" if save.size_bytes is None else size_text(save.size_bytes),
        "metrics": " ".join(metrics),
        "state": _state(save),
    }
    marked = "".join(f'<td class="{name}" data-label="{name}">{cell}</td>' for name, cell in cells.items())
    return f'<tr><th scope="row" class="name">{escaped(save.name)}</th>{marked}</tr>\n'


def _epoch(save: Save) -> str:
    if save.epoch is None:
        return ""
    return f"{save.epoch:,}" + (f" + {count_text(save.batch, 'batch', 'batches')}" if save.batch else "")


def _state(save: Save) -> str:
    badges = {"latest": save.is_latest, "best": save.is_best, "resumed from": save.resumed_times > 0}
    told = [_badge(name) for name, is_so in badges.items() if is_so]
    if save.fate == "damaged":
        told += [_badge("damaged"), escaped(save.damage)]
    elif save.fate == "foreign":
        told.append("written by plain TensorFlow, not verified")
    elif save.fate == "kept":
        told.append(f"kept: {escaped(', '.join(save.kept_by))}" if save.kept_by else "goes with the next save")
    else:
        told.append(_TOLD[save.fate])
    return " ".join(told)


def _badge(name: str) -> str:
    return f'<b class="{name.split()[0]}">{name}</b>'
