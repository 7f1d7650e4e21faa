"""One page of HTML that holds all it needs: facts in words, charts, and the table of checkpoints.

with open("report.html", "w", encoding="utf-8") as file:
    file.write(page(facts, chart_library()))

Nothing is fetched from anywhere, and the page forbids it to the browser. What names and metrics hold is shown as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files

from ckptkit.errors import MissingExtraError
from ckptkit.report.chart import Chart, Key
from ckptkit.report.cost_charts import cost_charts
from ckptkit.report.facts import Facts
from ckptkit.report.metric_charts import MARKS, MOST_MARKS, left_out, metric_charts
from ckptkit.report.summary import summary, tiles
from ckptkit.report.table import checkpoint_table
from ckptkit.report.time_line import time_line, turn_text
from ckptkit.report.wording import date_text, escaped

__all__ = ["chart_library", "page"]

_MOST_TOLD = 50  # turns in words
# As plotly draws them, in a square of 16 by 16.
_SYMBOLS = {
    "circle": '<circle cx="8" cy="8" r="5"/>',
    "circle-open": '<circle cx="8" cy="8" r="5" class="line"/>',
    "diamond": '<path d="M8 1l6 7-6 7-6-7z"/>',
    "dotted": '<path d="M1 8h3m2.5 0h3m2.5 0h3" class="line"/>',
    "hexagram": '<path d="M8 0l2.3 4H15l-2.4 4L15 12h-4.7L8 16l-2.3-4H1l2.4-4L1 4h4.7z"/>',
    "line-ew": '<path d="M1 8h14" class="line"/>',
    "line-ns": '<path d="M8 2v12" class="line"/>',
    "square": '<path d="M2 2h12v12H2z"/>',
    "star": '<path d="M8 .8l2 5.2h5.5l-4.3 3.4 1.6 5.4L8 11.6l-4.8 3.2 1.6-5.4L.5 6H6z"/>',
    "triangle-down": '<path d="M2 3h12L8 14z"/>',
    "triangle-left": '<path d="M14 2v12L3 8z"/>',
    "triangle-right": '<path d="M2 2l11 6-11 6z"/>',
    "x": '<path d="M3 5l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z"/>',
}


def chart_library() -> str:
    """Return the source of plotly.js, as the Python package of plotly brings it.

    Raises:
        MissingExtraError: That package is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(
            "the charts of a report are drawn by plotly, which is not installed.\n"
            "Install it with: pip install 'keras-ckptkit[report]'. What the page is made of comes without it: --json."
        ) from error
    return str(get_plotlyjs())


def page(facts: Facts, library: str) -> str:
    """Return the page.

    Args:
        facts: What is known of a directory.
        library: The source of plotly.js.
    """
    figures = _Figures()
    body = "".join(
        [
            _summary(facts),
            _metrics(facts, figures),
            _turns(facts, figures),
            figures.section("What saves cost", cost_charts(facts.saves)),
            _section("Checkpoints", checkpoint_table(facts.saves, facts.made_at)) if facts.saves else "",
        ]
    )
    scripts = [_inert(library), _inert(_source("page.js"))]
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {_hashes(scripts)}"
    title = f"Checkpoints of {escaped(facts.name)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="ckptkit report">
<title>{title}</title>
<style>
{_source("page.css")}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="muted">{escaped(facts.directory)}, as it was on {date_text(facts.made_at)}. All times are UTC.</p>
</header>
<main>
{body}</main>
<script type="application/json" id="charts">{figures.to_json()}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


class _Figures:
    """The charts of a page, in the order in which they come: a place for each, and what is to be drawn there."""

    def __init__(self) -> None:
        self._charts: list[Chart] = []

    def section(self, heading: str, charts: Iterable[Chart], before: str = "", after: str = "") -> str:
        """Return a section with charts, nothing where there are none."""
        places = "".join(self._place(chart) for chart in charts)
        return _section(heading, f'{before}<div class="charts">\n{places}</div>\n{after}') if places else ""

    def to_json(self) -> str:
        """Return what is to be drawn, as a script element can hold it."""
        drawn = [{"data": chart.data, "layout": chart.layout} for chart in self._charts]
        # Nothing in it ends the element, or begins a comment in it.
        return json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")

    def _place(self, chart: Chart) -> str:
        at = len(self._charts)
        self._charts.append(chart)
        wide = ' class="wide"' if chart.is_wide else ""
        height = chart.layout["height"]
        return (
            f"<figure{wide}>\n<figcaption><h3>{escaped(chart.title)}</h3><p>{escaped(chart.summary)}</p></figcaption>\n"
            f"{_keys(chart.keys)}"
            f'<div class="chart" id="chart-{at}" style="height:{height}px" role="img" '
            f'aria-label="Chart: {escaped(chart.title)}. {escaped(chart.summary)}"></div>\n</figure>\n'
        )


def _summary(facts: Facts) -> str:
    entries = "".join(
        f"<div><dt>{escaped(name)}</dt>"
        f"<dd><strong>{escaped(number)}</strong> <small>{escaped(below)}</small></dd></div>\n"
        for name, number, below in tiles(facts)
    )
    notes = "".join(f"<li>{escaped(sentence)}</li>\n" for sentence in facts.unknown)
    aside = f'<aside aria-label="What cannot be known">\n<ul>\n{notes}</ul>\n</aside>\n' if notes else ""
    script = "<noscript><p>The charts need JavaScript. All else is here without it.</p></noscript>\n"
    return _section("In short", f"<p>{escaped(summary(facts))}</p>\n<dl>\n{entries}</dl>\n{aside}{script}")


def _metrics(facts: Facts, figures: _Figures) -> str:
    counts = {mark.key: sum(map(mark.fits, facts.saves)) for mark in MARKS}
    keys = [key for key, count in counts.items() if count]
    thinned = f" {MOST_MARKS} of a kind are marked, evenly spread." if max(counts.values()) > MOST_MARKS else ""
    before = f"<p>Below each curve, the checkpoints of these steps.{thinned}</p>\n{_keys(keys)}" if keys else ""
    names = ", ".join(left_out(facts))
    after = f"<p>Not drawn: {escaped(names)}.</p>\n" if names else ""
    return figures.section("Metrics", metric_charts(facts), before, after)


def _turns(facts: Facts, figures: _Figures) -> str:
    told = "".join(f"<li>{escaped(turn_text(turn))}</li>\n" for turn in facts.turns[-_MOST_TOLD:])
    before = "<p>A turn is what one process did here, from its start to its end.</p>\n"
    after = f"<details>\n<summary>The same in words</summary>\n<ul>\n{told}</ul>\n</details>\n"
    return figures.section("Turns", time_line(facts), before, after)


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}</section>\n"


def _keys(keys: Iterable[Key]) -> str:
    entries = "".join(
        f'<li><svg viewBox="0 0 16 16" aria-hidden="true" style="color:var({key.color})">{_SYMBOLS[key.symbol]}</svg> '
        f"{escaped(key.meaning)}</li>\n"
        for key in keys
    )
    return f'<ul class="keys">\n{entries}</ul>\n'


def _source(file: str) -> str:
    return files("ckptkit.report").joinpath(file).read_text(encoding="utf-8")


def _inert(script: str) -> str:
    """Return a script in which nothing ends its element."""
    return script.replace("</script", "<\\/script")


def _hashes(scripts: Iterable[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
