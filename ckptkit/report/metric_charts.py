"""Metrics over steps, and below each curve a strip of marks: the checkpoints of these steps.

for chart in metric_charts(facts):
    chart.title, chart.data
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ckptkit.readable import count_text
from ckptkit.report.chart import Chart, Key, axis_title, layout
from ckptkit.report.curves import Curve, families
from ckptkit.report.facts import Facts
from ckptkit.report.saves import GONE, Save
from ckptkit.report.thinning import spread, thinned
from ckptkit.report.wording import chart_text, number_text

__all__ = ["MARKS", "MOST_CHARTS", "MOST_MARKS", "Mark", "left_out", "metric_charts"]

MOST_CHARTS = 12
MOST_MARKS = 300  # of a kind
_MOST_POINTS = 1000  # of a curve
_MOST_LINES = 30
_COLORS = ("--line-1", "--line-2")


@dataclass(frozen=True)
class Mark:
    """How checkpoints of one kind are marked, and in which size, in pixels."""

    key: Key
    size: int
    fits: Callable[[Save], bool]


# In the order in which they are drawn: what matters more lies on top.
MARKS = (
    Mark(Key("saved, and gone since", "line-ns", "--gone"), 7, lambda save: save.fate in GONE),
    Mark(Key("there", "circle", "--there"), 8, lambda save: save.is_there),
    Mark(Key("damaged", "x", "--bad"), 9, lambda save: save.fate == "damaged"),
    Mark(Key("resumed from", "triangle-right", "--resumed"), 12, lambda save: save.resumed_times > 0),
    Mark(Key("best", "star", "--best"), 13, lambda save: save.is_best),
)


def metric_charts(facts: Facts) -> tuple[Chart, ...]:
    """Return a chart for each metric, training and validation together; no more than :data:`MOST_CHARTS`."""
    marks = [trace for mark in MARKS for trace in _marks(mark, facts.saves)]
    resumed = sorted({save.step for save in facts.saves if save.resumed_times and save.step is not None})
    lines = resumed if len(resumed) <= _MOST_LINES else []
    return tuple(_chart(family, facts, marks, lines) for family in _families(facts)[:MOST_CHARTS])


def left_out(facts: Facts) -> tuple[str, ...]:
    """Return the metrics for which there is no chart."""
    return tuple(curve.metric for family in _families(facts)[MOST_CHARTS:] for curve in family)


def _families(facts: Facts) -> list[tuple[Curve, ...]]:
    """Return what belongs into one chart, that of the metric that ranks checkpoints first."""
    return sorted(families(facts.curves), key=lambda family: facts.monitor not in [curve.metric for curve in family])


def _chart(family: Sequence[Curve], facts: Facts, marks: list[dict[str, Any]], lines: Sequence[int]) -> Chart:
    data = [trace for curve, color in zip(family, _COLORS) for trace in _lines(curve, color)]
    stars = [
        _star(curve, save) for curve in family for save in facts.saves if save.is_best and curve.metric == facts.monitor
    ]
    summary = " ".join(_summary(curve) for curve in family)
    if any(len(curve.steps) > _MOST_POINTS for curve in family):
        summary += f" About {_MOST_POINTS:,} points a curve are drawn, the smallest and the largest of each stretch."
    strip = {"domain": [0, 0.11], "range": [-1, 1], "visible": False, "fixedrange": True}
    shapes = [
        {
            "type": "line",
            "x0": step,
            "x1": step,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "layer": "below",
            "line": {"color": "--resumed", "width": 1, "dash": "dot"},
        }
        for step in lines
    ]
    return Chart(
        title=" and ".join(curve.metric for curve in family),
        summary=summary,
        keys=_keys(family),
        data=[*data, *stars, *marks],
        layout=layout(
            {"title": axis_title("step"), "anchor": "y2", "unifiedhovertitle": {"text": "step %{x:,}"}},
            {"domain": [0.15, 1], "tickformat": ".4~g"},
            hovermode="x unified",
            yaxis2=strip,
            shapes=shapes,
        ),
    )


def _keys(family: Sequence[Curve]) -> tuple[Key, ...]:
    keys = tuple(Key(curve.metric, "line-ew", color) for curve, color in zip(family, _COLORS))
    lost = (Key("measured in work that was lost", "dotted", "--text"),)
    return keys + (lost if any(curve.lost_steps for curve in family) else ())


def _lines(curve: Curve, color: str) -> list[dict[str, Any]]:
    """Return the curve, and dotted behind it what was lost."""
    traces = [_line(curve.steps, curve.values, {"name": chart_text(curve.metric)}, {"color": color, "width": 2})]
    if curve.lost_steps:
        lost = {"name": f"{chart_text(curve.metric)}, lost", "opacity": 0.55}
        dotted = {"color": color, "width": 2, "dash": "dot"}
        traces.insert(0, _line(curve.lost_steps, curve.lost_values, lost, dotted))
    return traces


def _line(steps: Sequence[int], values: Sequence[float], facts: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    places = thinned(values, _MOST_POINTS)
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(places) <= 40 else "lines",
        "x": [steps[at] for at in places],
        "y": [values[at] if math.isfinite(values[at]) else None for at in places],
        "line": line,
        "marker": {"size": 5, "color": line["color"]},
        "hovertemplate": "%{y:.4~g}",
        **facts,
    }


def _star(curve: Curve, save: Save) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [save.step],
        "y": [save.metrics[curve.metric]],
        "marker": {"symbol": "star", "size": 15, "color": "--best", "line": {"color": "--page", "width": 1}},
        "name": f"best {chart_text(curve.metric)}",
        "hovertemplate": "%{y:.4~g}",
    }


def _marks(mark: Mark, saves: Sequence[Save]) -> list[dict[str, Any]]:
    fitting = [save for save in saves if mark.fits(save) and save.step is not None]
    if not fitting:
        return []
    shown = [fitting[at] for at in spread(len(fitting), MOST_MARKS)]
    marker: dict[str, Any] = {"symbol": mark.key.symbol, "size": mark.size, "color": mark.key.color}
    if mark.key.symbol.startswith("line"):
        marker["line"] = {"color": mark.key.color, "width": 1.5}  # that is all there is of it
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [save.step for save in shown],
            "y": [0] * len(shown),
            "yaxis": "y2",
            "marker": marker,
            "name": mark.key.meaning,
            "text": [chart_text(save.name) for save in shown],
            "hovertemplate": "%{text}",
            "cliponaxis": False,
        }
    ]


def _summary(curve: Curve) -> str:
    finite = [at for at, value in enumerate(curve.values) if math.isfinite(value)]
    odd = len(curve.values) - len(finite)
    gaps = f"; {count_text(odd, 'value')} not finite, a gap" if odd else ""
    if not finite:
        return f"{curve.metric}: never finite{gaps}."
    low = min(finite, key=curve.values.__getitem__)
    high = max(finite, key=curve.values.__getitem__)

    def told(at: int) -> str:
        return f"{number_text(curve.values[at])} at step {curve.steps[at]:,}"

    last = f"; last {told(finite[-1])}" if len(finite) > 1 else ""
    return f"{curve.metric}: lowest {told(low)}; highest {told(high)}{last}{gaps}."
