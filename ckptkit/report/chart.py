"""One chart: what plotly draws, and what stands beside it for those who do not see it.

chart = Chart("loss", "lowest 0.1 at step 900", (Key("loss", "line-ew", "--line-1"),), [trace], layout(x_axis, y_axis))

Colours are names of CSS variables, ``--kept``: the page puts in those of the light or the dark scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Chart", "Key", "axis_title", "layout"]


@dataclass(frozen=True)
class Key:
    """What a symbol means: plotly's name for it, or ``square`` or ``dotted``, and the variable of its colour."""

    meaning: str
    symbol: str
    color: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: What it is of, as plain text.
        summary: What it shows, in a few sentences of plain text.
        keys: What is drawn as what.
        data: Traces, as plotly has them.
        layout: Axes and the like, as plotly has them.
        is_wide: Whether it takes the whole width of the page.
    """

    title: str
    summary: str
    keys: tuple[Key, ...]
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    is_wide: bool = False


def layout(x: dict[str, Any], y: dict[str, Any], *, height: int = 300, **more: Any) -> dict[str, Any]:
    """Return what all charts have in common, with two axes."""
    axis = {"gridcolor": "--grid", "linecolor": "--grid", "zeroline": False}
    return {
        "height": height,
        "margin": {"l": 8, "r": 28, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "--text", "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--grid", "font": {"color": "--text"}},
        "hovermode": "closest",
        "showlegend": False,
        "xaxis": {**axis, "automargin": "height", **x},
        "yaxis": {**axis, "automargin": "width", **y},
        **more,
    }


def axis_title(text: str) -> dict[str, Any]:
    """Return an axis' title, with little room around it."""
    return {"text": text, "standoff": 6}
