"""When a run was at work, and what broke it off: a bar a turn, its saves as ticks, its end as a symbol.

for chart in time_line(facts):
    chart.title, chart.data
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from ckptkit.readable import count_text
from ckptkit.report.chart import Chart, Key, axis_title, layout
from ckptkit.report.facts import Facts, Incident
from ckptkit.report.saves import Save
from ckptkit.report.thinning import spread
from ckptkit.report.turns import Turn
from ckptkit.report.wording import chart_text, date_text, length_text, stamp

__all__ = ["MOST_TURNS", "time_line", "turn_text"]

MOST_TURNS = 40
_MOST_TICKS = 1000
_AT_WORK = Key("at work", "square", "--turn")
_LOST = Key("work lost", "square", "--bad")
_SAVED = Key("saved", "line-ns", "--tick")
_ENDS = {
    "killed": Key("killed", "x", "--bad"),
    "preempted": Key("preempted", "triangle-down", "--preempted"),
    "failed": Key("ended by an error", "diamond", "--bad"),
    "ended": Key("ended", "circle", "--there"),
    "running": Key("at work still", "triangle-right", "--line-1"),
    "unknown": Key("last sign of life", "circle-open", "--gone"),
}
_INCIDENTS = {
    "failed": Key("a save failed", "hexagram", "--preempted"),
    "skipped": Key("a save was skipped", "line-ew", "--gone"),
    "restored": Key("restored in mid run", "triangle-left", "--resumed"),
}


def time_line(facts: Facts) -> tuple[Chart, ...]:
    """Return the chart; none where nobody noted when the run was at work."""
    turns = facts.turns[-MOST_TURNS:]
    if not turns:
        return ()
    summary = _summary(facts)
    if len(turns) < len(facts.turns):
        summary += f" The last {len(turns)} are drawn."
    if len(facts.saves) > _MOST_TICKS:
        summary += f" Of their saves {_MOST_TICKS:,} at most are, evenly spread."
    y = {
        "title": axis_title("turn"),
        "range": [turns[-1].number + 0.6, turns[0].number - 0.6],
        "tickmode": "array",
        "tickvals": [turns[at].number for at in spread(len(turns), 20)],
        "showgrid": False,
    }
    x = {"type": "date", "title": axis_title("time (UTC)"), "tickangle": 0, "nticks": 4}
    traces = [*_spans_of(turns), *_ticks(turns, facts.saves), *_incidents(facts, turns), *_ends(turns)]
    return (
        Chart(
            title="Turns on the time line",
            summary=summary,
            keys=tuple(key for key, _ in traces),
            data=[trace for _, trace in traces],
            layout=layout(x, y, height=130 + 24 * max(len(turns), 3), barmode="overlay"),
            is_wide=True,
        ),
    )


def turn_text(turn: Turn) -> str:
    """Return what a turn did, in a sentence of plain text."""
    origin = f"went on from {turn.resumed_from}" if turn.resumed_from else "began afresh"
    if turn.first_step is None:
        origin = "began before the history does"
    step = "" if turn.last_step is None else f" at step {turn.last_step:,}"
    after = f"{step} after {length_text(turn.seen_at - turn.began_at)}"
    end = {
        "killed": f"was killed; its last sign of life came{after}",
        "preempted": f"was preempted{after}",
        "failed": f"ended by an error{after}",
        "ended": f"ended{after}",
        "running": f"is at work still; it was last heard of{after}",
        "unknown": f"was last heard of{after}",
    }[turn.ended]
    why = f": {turn.why}" if turn.why else ""
    lost = f"; {count_text(turn.repeated_steps, 'step')} or more had to be trained again" if turn.repeated_steps else ""
    return f"turn {turn.number} {origin} on {date_text(turn.began_at)}, and {end}{why}{lost}"


def _spans_of(turns: Sequence[Turn]) -> list[tuple[Key, dict[str, Any]]]:
    """Return a bar for each turn, and shaded in it what of its work was lost."""
    spans = [(turn, turn.began_at, turn.seen_at) for turn in turns]
    told = [chart_text(turn_text(turn)) for turn in turns]
    traces = [(_AT_WORK, _bars(spans, told, {"color": _AT_WORK.color}))]
    lost = [(turn, turn.lost_from, turn.seen_at) for turn in turns if turn.lost_from is not None]
    if lost:
        told = [
            f"turn {turn.number}: {length_text(end - begin)} of work lost, or more"
            + (f"; {count_text(turn.repeated_steps, 'step')} trained again" if turn.repeated_steps else "")
            for turn, begin, end in lost
        ]
        pattern = {"shape": "/", "fgcolor": _LOST.color, "bgcolor": "--lost", "size": 6, "solidity": 0.35}
        traces.append((_LOST, _bars(lost, told, {"color": "--lost", "pattern": pattern})))
    return traces


def _bars(spans: Sequence[tuple[Turn, float, float]], told: list[str], marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "y": [turn.number for turn, _, _ in spans],
        "base": [stamp(begin) for _, begin, _ in spans],
        "x": [max(end - begin, 0.0) * 1000 for _, begin, end in spans],
        "width": 0.65,
        "marker": marker,
        "hovertext": told,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _ticks(turns: Sequence[Turn], saves: Sequence[Save]) -> list[tuple[Key, dict[str, Any]]]:
    begins = [turn.began_at for turn in turns]
    ticks = []
    for save in saves:
        at = -1 if save.at is None else bisect_right(begins, save.at) - 1
        # What is older than the history belongs to no turn that is known.
        if at >= 0 and save.at is not None and save.at <= turns[at].seen_at:
            ticks.append((save.at, turns[at].number, chart_text(f"{save.name} saved at {date_text(save.at)}")))
    return _points(ticks, _SAVED, 12)


def _incidents(facts: Facts, turns: Sequence[Turn]) -> list[tuple[Key, dict[str, Any]]]:
    traces = []
    for kind, key in _INCIDENTS.items():
        found = [each for each in facts.incidents if each.kind == kind and each.turn >= turns[0].number]
        points = [(each.at, each.turn, chart_text(_incident_text(key.meaning, each))) for each in found]
        traces += _points(points, key, 10)
    return traces


def _incident_text(meaning: str, incident: Incident) -> str:
    where = "" if incident.step is None else f" at step {incident.step:,}"
    return f"{meaning}{where}, {date_text(incident.at)}" + (f": {incident.why}" if incident.why else "")


def _ends(turns: Sequence[Turn]) -> list[tuple[Key, dict[str, Any]]]:
    traces = []
    for ended, key in _ENDS.items():
        points = [(turn.seen_at, turn.number, chart_text(turn_text(turn))) for turn in turns if turn.ended == ended]
        traces += _points(points, key, 13)
    return traces


def _points(points: Sequence[tuple[float, int, str]], key: Key, size: int) -> list[tuple[Key, dict[str, Any]]]:
    shown = [points[at] for at in spread(len(points), _MOST_TICKS)]
    # Of a line and of an open symbol the outline is all there is; of others it sets them off.
    is_outline = key.symbol.startswith("line") or key.symbol.endswith("-open")
    line = {"color": key.color, "width": 1.5} if is_outline else {"color": "--page", "width": 1}
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [stamp(at) for at, _, _ in shown],
        "y": [turn for _, turn, _ in shown],
        "marker": {"symbol": key.symbol, "size": size, "color": key.color, "line": line},
        "hovertext": [told for _, _, told in shown],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
    }
    return [(key, trace)] if shown else []


def _summary(facts: Facts) -> str:
    kinds = [f"{count} {_ENDS[kind].meaning}" for kind, count in facts.totals.interruptions.items()]
    told = (
        f"{count_text(len(facts.turns), 'turn')} from {date_text(facts.turns[0].began_at)} to "
        f"{date_text(max(turn.seen_at for turn in facts.turns))}: {', '.join(kinds) or 'none was interrupted'}."
    )
    if facts.totals.repeated_steps:
        told += f" {count_text(facts.totals.repeated_steps, 'step')} or more had to be trained again."
    return told
