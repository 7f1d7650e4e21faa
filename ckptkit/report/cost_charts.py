"""What saves cost, a bar a save: how long training waited, by how much it came later, and how large the files are.

for chart in cost_charts(facts.saves):
    chart.title, chart.data
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptkit.readable import count_text, size_text
from ckptkit.report.chart import Chart, Key, axis_title, layout
from ckptkit.report.saves import Save
from ckptkit.report.thinning import spread, tops
from ckptkit.report.wording import chart_text, length_text

__all__ = ["cost_charts"]

_MOST_BARS = 200
_MOST_TICKS = 4
_TIME_KEYS = (
    Key("blocked: training waited", "square", "--blocked"),
    Key("lost beyond that: steps were slower", "square", "--slower"),
)
_SIZE_KEYS = (Key("there", "square", "--there"), Key("gone or damaged", "square", "--gone"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_TIMES = ((60.0, "min"), (1.0, "s"), (1e-3, "ms"))


def cost_charts(saves: Sequence[Save]) -> tuple[Chart, ...]:
    """Return the charts of times and of sizes, each only where anything is known."""
    return (*_times(saves), *_sizes(saves))


def _times(saves: Sequence[Save]) -> tuple[Chart, ...]:
    known = [save for save in saves if save.blocked_secs is not None or save.lost_secs is not None]
    if not known:
        return ()
    places = tops([_dearest(save) for save in known], _MOST_BARS)
    shown = [known[at] for at in places]
    scale, unit = _unit(max(map(_dearest, shown)), _TIMES)
    told = [
        f"{chart_text(save.name)}: blocked {_known_secs(save.blocked_secs)}, lost {_known_secs(save.lost_secs)}, "
        f"written in {_known_secs(save.written_secs)}"
        for save in shown
    ]
    blocked = [(save.blocked_secs or 0.0) / scale for save in shown]
    later = [max(_dearest(save) - (save.blocked_secs or 0.0), 0.0) / scale for save in shown]
    dearest = max(known, key=_dearest)
    summary = (
        f"{count_text(len(known), 'save')}; the dearest is {dearest.name}: "
        f"blocked {_known_secs(dearest.blocked_secs)}, lost {_known_secs(dearest.lost_secs)}."
    )
    return (
        Chart(
            title="Training time lost by each save",
            summary=summary + _thinning(known, shown, "dearest"),
            keys=_TIME_KEYS,
            data=[_bars(values, told, key) for values, key in zip((blocked, later), _TIME_KEYS)],
            layout=_layout(shown, places, unit),
        ),
    )


def _sizes(saves: Sequence[Save]) -> tuple[Chart, ...]:
    known = [save for save in saves if save.size_bytes is not None]
    if not known:
        return ()
    sizes = [float(save.size_bytes or 0) for save in known]
    places = tops(sizes, _MOST_BARS)
    shown = [known[at] for at in places]
    scale, unit = _unit(max(sizes), _SIZES)
    told = [f"{chart_text(save.name)}: {size_text(save.size_bytes or 0)}" for save in shown]
    summary = f"From {size_text(min(sizes))} to {size_text(max(sizes))} a checkpoint."
    return (
        Chart(
            title="Size of each checkpoint",
            summary=summary + _thinning(known, shown, "largest"),
            keys=_SIZE_KEYS,
            data=[
                _bars([sizes[at] / scale if known[at].is_there == is_there else 0.0 for at in places], told, key)
                for is_there, key in zip((True, False), _SIZE_KEYS)
            ],
            layout=_layout(shown, places, unit),
        ),
    )


def _dearest(save: Save) -> float:
    return max(save.blocked_secs or 0.0, save.lost_secs or 0.0)


def _known_secs(secs: float | None) -> str:
    return "unknown" if secs is None else length_text(secs)


def _unit(largest: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    return next((unit for unit in units if largest >= unit[0]), units[-1])


def _thinning(known: Sequence[Save], shown: Sequence[Save], what: str) -> str:
    if len(shown) == len(known):
        return ""
    return f" {len(shown):,} bars are drawn for {len(known):,} saves: the {what} of each stretch."


def _bars(values: list[float], told: list[str], key: Key) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": list(range(len(values))),
        "y": [float(f"{value:.4g}") for value in values],
        "name": key.meaning,
        "marker": {"color": key.color, "line": {"width": 0}},
        "hovertext": told,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _layout(shown: Sequence[Save], places: Sequence[int], unit: str) -> dict[str, Any]:
    ticks = spread(len(shown), _MOST_TICKS)
    x = {
        "title": axis_title("saves, oldest first"),
        "tickvals": ticks,
        "ticktext": [chart_text(_short(shown[at].name)) for at in ticks],
        "tickangle": 0,
        "showgrid": False,
    }
    y = {"title": axis_title(unit), "rangemode": "tozero", "tickformat": ".4~g"}
    return layout(x, y, barmode="stack", bargap=0.15)


def _short(name: str) -> str:
    return name if len(name) <= 14 else "…" + name[-13:]
