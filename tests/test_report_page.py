"""The page of a report: its words and numbers, its charts, and that what names hold stays text.

What a browser makes of it is in test_report_browser.py.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import sys
from dataclasses import replace

import pytest

from ckptkit.errors import MissingExtraError
from ckptkit.report.cost_charts import cost_charts
from ckptkit.report.metric_charts import MOST_CHARTS, metric_charts
from ckptkit.report.page import chart_library, page
from ckptkit.report.saves import FATES, Save
from ckptkit.report.summary import summary, tiles
from ckptkit.report.table import MOST_ROWS, checkpoint_table
from ckptkit.report.thinning import spread, thinned, tops
from ckptkit.report.time_line import MOST_TURNS, time_line, turn_text
from ckptkit.report.turns import ENDS
from ckptkit.report.wording import chart_text, date_text, escaped, length_text, share_text, stamp
from tests.report_cases import EVENTS, NOW, RECORDS, cost, event, facts, measured, record, saved

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[2J\udcff"


def rows(table):
    """The cells of a table, a list a row."""
    return [
        [html.unescape(re.sub(r"<[^>]*>", " ", cell)).split() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", table)
    ]


def drawn(content):
    """The charts in a page, as its script reads them."""
    return json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', content, re.DOTALL)[1])


def trace(chart, meaning):
    """The trace that a chart's key of that meaning stands for."""
    return next(data for key, data in zip(chart.keys, chart.data) if key.meaning == meaning)


# Words and numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secs", "told"),
    [
        (-1.0, "0 s"),
        (0.0, "0 s"),
        (0.000412, "0.41 ms"),
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (59.4, "59.4 s"),
        (59.97, "1 min"),
        (61.0, "1 min 1 s"),
        (3599.7, "1 h"),
        (11_520.0, "3 h 12 min"),
        (86_399.0, "1 d"),
        (1e7, "115 d 18 h"),
        (math.inf, "2932897 d"),
    ],
)
def test_a_length_of_time_is_told_in_two_units_at_most(secs, told):
    assert length_text(secs) == told


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [
        (1.0, 0.0, ""),
        (0.0, 5.0, "0 %"),
        (1e-9, 5.0, "< 0.001 %"),
        (0.031, 5.0, "0.62 %"),
        (0.6, 5.0, "12 %"),
        (5.0, 5.0, "100 %"),
    ],
)
def test_a_share_is_told_in_per_cent(part, whole, told):
    assert share_text(part, whole) == told


def test_a_moment_is_told_in_utc_however_far_away():
    assert date_text(1_790_000_000.25) == "2026-09-21 14:13:20"
    assert stamp(1_790_000_000.25) == "2026-09-21T14:13:20.250"
    assert [date_text(at) for at in (-5.0, 1e300)] == ["1970-01-01 00:00:00", "9999-12-31 23:59:59"]


def test_what_a_name_holds_is_text_in_html_and_in_a_chart():
    assert escaped(HOSTILE).startswith("&lt;script&gt;alert(1)&lt;/script&gt;&lt;img")
    assert escaped("\"'&\x1b\udcff") == "&quot;&#x27;&amp;\\x1b\\udcff"
    assert chart_text("<b>\"'&\x1b") == "&lt;b&gt;\"'&amp;\\x1b"


def test_the_summary_says_what_it_comes_down_to():
    assert summary(facts()) == (
        "3 of 5 checkpoints that were saved are there. "
        "Saves cost 400 ms of training, 0.068 % of the 9 min 51 s at work. "
        "2 of 3 turns were interrupted (1 killed, 1 preempted); 100 steps or more had to be trained twice."
    )


def test_the_summary_says_no_more_than_is_known():
    assert summary(facts(events=(), records=RECORDS[:1], damaged={"ckpt-9": "gone"})) == (
        "1 checkpoint is there, and 1 is damaged."
    )
    assert summary(facts(EVENTS[:3], ())).endswith("No turn of 1 was interrupted.")


def test_the_numbers_that_matter_stand_on_top():
    assert {name: (number, below) for name, number, below in tiles(facts())} == {
        "checkpoints there": ("3", "3 kB on disk, 5 kB written in all"),
        "newest": ("ckpt-400", "step 400, epoch 4, saved 1 h ago"),
        "best val_loss": ("0.4", "ckpt-200, step 200"),
        "training blocked": ("10 ms", "in all, while it waited for saves"),
        "training time lost": ("400 ms", "in all, 0.068 % of the 9 min 51 s at work"),
        "interruptions": ("2", "1 killed, 1 preempted"),
        "steps trained twice": ("100", "or more"),
        "saves not made": ("2", "1 failed, 1 skipped"),
    }


def test_turns_are_told_in_words():
    assert [turn_text(turn) for turn in facts().turns] == [
        "turn 1 began afresh on 2026-09-21 14:13:20, and was killed; "
        "its last sign of life came at step 300 after 5 min; 100 steps or more had to be trained again",
        "turn 2 went on from ckpt-200 on 2026-09-21 14:30:00, and was preempted at step 380 after 3 min 1 s: SIGTERM",
        "turn 3 went on from ckpt-380 on 2026-09-21 15:36:40, and ended at step 400 after 1 min 50 s",
    ]
    assert turn_text(facts(EVENTS[4:9]).turns[0]) == (
        "turn 1 began before the history does on 2026-09-21 14:16:40, "
        "and was last heard of at step 300 after 1 min 40 s"
    )


# The table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_what_is_there_newest_first_and_folds_up_what_is_gone():
    there, gone = checkpoint_table(facts().saves, NOW).split("<details>")
    assert [" ".join(row[0]) for row in rows(there)] == ["ckpt-400", "ckpt-380", "ckpt-200"]
    assert [" ".join(row[0]) for row in rows(gone)] == ["ckpt-300", "ckpt-100"]
    assert "2 more, gone since" in gone


def test_a_row_says_all_that_is_known():
    table = checkpoint_table(facts().saves, NOW)
    assert [" ".join(cell) for cell in rows(table)[0]] == [
        "ckpt-400",
        "400",
        "4",
        "2026-09-21 15:38:20 1 h ago",
        "1 kB",
        "loss 0.35 val_loss 0.5",
        "latest kept: latest 2",
    ]
    assert [" ".join(row[6]) for row in rows(table)[1:4]] == [
        "resumed from kept: latest 2, resumed from",
        "best resumed from kept: best val_loss",
        "pruned",
    ]


@pytest.mark.parametrize(
    ("save", "state"),
    [
        (Save("a", fate="damaged", damage="a file is <missing>"), "damaged a file is <missing>"),
        (Save("a", fate="foreign", is_latest=True), "latest written by plain TensorFlow, not verified"),
        (Save("a", fate="replaced"), "saved again later"),
        (Save("a", fate="missing"), "gone, and nobody noted why"),
        (Save("a"), "goes with the next save"),
    ],
    ids=lambda value: value.fate if isinstance(value, Save) else "",
)
def test_the_state_of_a_checkpoint_is_told_as_it_is(save, state):
    assert " ".join(rows(checkpoint_table([save], NOW))[0][6]) == state


def test_a_batch_in_an_epoch_is_told():
    table = checkpoint_table([Save("a", epoch=2, batch=1), Save("b", epoch=2, batch=30)], NOW)
    assert [" ".join(row[2]) for row in rows(table)] == ["2 + 30 batches", "2 + 1 batch"]


def test_of_many_checkpoints_the_newest_are_listed_and_those_that_are_marked():
    many = [Save(f"ckpt-{step}", step, is_best=step == 3) for step in range(MOST_ROWS + 50)]
    table = checkpoint_table(many, NOW)
    names = [row[0][0] for row in rows(table)]
    assert names[0] == f"ckpt-{MOST_ROWS + 49}"
    assert names[-2:] == ["ckpt-51", "ckpt-3"]
    assert len(names) == MOST_ROWS
    assert "50 are left out" in table


# The charts --------------------------------------------------------------------------------------------------------


def test_training_and_validation_are_in_one_chart_with_what_was_lost_dotted():
    (chart,) = metric_charts(facts())
    assert chart.title == "loss and val_loss"
    lines = [data for data in chart.data if data["mode"].startswith("lines")]
    assert [(line["x"], line["y"], line["line"].get("dash")) for line in lines] == [
        ([300], [0.41], "dot"),
        ([100, 200, 300, 400], [0.9, 0.5, 0.4, 0.35], None),
        ([300], [0.47], "dot"),
        ([100, 200, 300, 400], [0.8, 0.4, 0.45, 0.5], None),
    ]
    assert [key.meaning for key in chart.keys] == ["loss", "val_loss", "measured in work that was lost"]
    (whole,) = metric_charts(facts(EVENTS[9:]))
    assert [key.meaning for key in whole.keys] == ["loss", "val_loss"]


def test_saved_kept_damaged_best_and_resumed_from_are_marked_at_their_steps():
    (chart,) = metric_charts(facts(records=RECORDS[:2], damaged={"ckpt-400": "cut short"}))
    marks = {data["name"]: data["x"] for data in chart.data if data.get("yaxis") == "y2"}
    assert marks == {
        "saved, and gone since": [100, 300],
        "there": [200, 380],
        "damaged": [400],
        "resumed from": [200, 380],
        "best": [200],
    }
    star = next(data for data in chart.data if data["name"] == "best val_loss")
    assert (star["x"], star["y"]) == ([200], [0.4])
    assert [shape["x0"] for shape in chart.layout["shapes"]] == [200, 380]


def test_the_summary_of_a_chart_tells_what_it_shows():
    (chart,) = metric_charts(facts())
    assert chart.summary == (
        "loss: lowest 0.35 at step 400; highest 0.9 at step 100; last 0.35 at step 400. "
        "val_loss: lowest 0.4 at step 200; highest 0.8 at step 100; last 0.5 at step 400."
    )


def test_a_value_that_is_no_number_leaves_a_gap_and_is_counted():
    events = [EVENTS[0], *(measured(step, step, loss=value) for step, value in enumerate((1.0, math.nan, math.inf)))]
    (chart,) = metric_charts(facts(events, ()))
    assert chart.data[0]["y"] == [1.0, None, None]
    assert chart.summary == "loss: lowest 1 at step 0; highest 1 at step 0; 2 values not finite, a gap."
    (chart,) = metric_charts(facts([EVENTS[0], measured(1, 1, loss=math.nan)], ()))
    assert chart.summary == "loss: never finite; 1 value not finite, a gap."


def test_the_metric_that_ranks_checkpoints_comes_first():
    measures = [EVENTS[0], measured(1, 1, accuracy=0.5, loss=1.0, val_accuracy=0.4, val_loss=1.1)]
    assert [chart.title for chart in metric_charts(facts(measures))] == [
        "loss and val_loss",
        "accuracy and val_accuracy",
    ]


def test_more_metrics_than_charts_are_named():
    many = {f"metric_{at:02}": 1.0 for at in range(MOST_CHARTS + 2)}
    content = page(facts([EVENTS[0], measured(1, 1, **many)], ()), "")
    assert len(drawn(content)) == MOST_CHARTS + 1, "and the time line"
    assert "Not drawn: metric_12, metric_13." in content


def test_a_turn_is_a_bar_its_saves_ticks_its_end_a_symbol_and_lost_work_is_shaded():
    (chart,) = time_line(facts())
    bars, lost = trace(chart, "at work"), trace(chart, "work lost")
    assert (bars["y"], bars["x"]) == ([1, 2, 3], [300_000.0, 181_000.0, 110_000.0])
    assert bars["base"][0] == "2026-09-21T14:13:20.000"
    assert (lost["y"], lost["base"], lost["x"]) == ([1], ["2026-09-21T14:16:40.000"], [100_000.0])
    assert trace(chart, "saved")["y"] == [1, 1, 2, 2, 3]
    ends = {key.meaning: data["y"] for key, data in zip(chart.keys, chart.data) if key.meaning in ("killed", "ended")}
    assert ends == {"killed": [1], "ended": [3]}
    assert trace(chart, "preempted")["x"] == ["2026-09-21T14:33:01.000"]
    assert trace(chart, "a save failed")["hovertext"] == [
        "a save failed at step 350, 2026-09-21 14:32:30: OSError 28 No space left on device"
    ]
    assert trace(chart, "a save was skipped")["y"] == [1]


def test_a_save_of_which_the_history_knows_nothing_is_in_no_turn():
    (chart,) = time_line(facts(records=[*RECORDS, record(390, 3000, {}), record(10, -50, {})]))
    assert trace(chart, "saved")["y"] == [1, 1, 2, 2, 3]


def test_of_many_turns_the_last_are_drawn_and_it_is_said():
    events = [event("begun", 10 * at, f"{at}", step=0) for at in range(MOST_TURNS + 3)]
    skips = [event("skipped", 10 * at, f"{at}", step=0) for at in (0, MOST_TURNS)]
    (chart,) = time_line(facts([*events, *skips], ()))
    assert trace(chart, "at work")["y"] == list(range(4, MOST_TURNS + 4))
    assert trace(chart, "a save was skipped")["y"] == [MOST_TURNS + 1]
    assert f"The last {MOST_TURNS} are drawn." in chart.summary


def test_time_lost_is_what_was_blocked_and_what_came_on_top():
    times, _ = cost_charts(facts().saves)
    assert trace(times, "blocked: training waited")["y"] == [2.0] * 5
    assert trace(times, "lost beyond that: steps were slower")["y"] == [98.0, 298.0, 0.0, 0.0, 0.0]
    assert times.layout["yaxis"]["title"]["text"] == "ms"
    assert times.summary == "5 saves; the dearest is ckpt-200: blocked 2 ms, lost 300 ms."
    assert times.data[0]["hovertext"][3] == "ckpt-380: blocked 2 ms, lost unknown, written in unknown"


def test_sizes_are_drawn_in_a_unit_that_fits_and_what_is_gone_looks_gone():
    _, sizes = cost_charts(facts().saves)
    assert trace(sizes, "there")["y"] == [0.0, 1.0, 0.0, 1.0, 1.0]
    assert trace(sizes, "gone or damaged")["y"] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert sizes.layout["yaxis"]["title"]["text"] == "kB"


def test_without_any_time_or_size_there_is_no_chart_of_them():
    assert cost_charts([Save("a")]) == ()


# Fewer points ------------------------------------------------------------------------------------------------------


def test_few_points_all_stay():
    assert thinned([3.0, 1.0, 2.0], 3) == [0, 1, 2]
    assert tops([3.0, 1.0], 2) == [0, 1]
    assert spread(3, 3) == [0, 1, 2]


def test_of_many_points_whatever_sticks_out_stays_and_so_does_a_gap():
    values = [math.sin(at / 50) for at in range(10_000)]
    values[1234], values[5678], values[7777] = 9.0, -9.0, math.nan
    kept = thinned(values, 100)
    assert {0, 1234, 5678, 7777, 9999} <= set(kept)
    assert kept == sorted(set(kept))
    assert len(kept) <= 103
    assert thinned([math.nan] * 100, 10) == [0, 20, 40, 60, 80, 99]


def test_of_many_bars_the_largest_of_each_stretch_stays():
    values = [0.0] * 1000
    values[333] = 1.0
    assert len(tops(values, 10)) == 10
    assert 333 in tops(values, 10)


def test_marks_are_spread_from_the_first_to_the_last():
    places = spread(1000, 7)
    assert (len(set(places)), places[0], places[-1]) == (7, 0, 999)


def test_the_page_of_ten_thousand_saves_is_small():
    events = [event("begun", 0, step=0)]
    for step in range(1, 10_001):
        events += [
            saved(step, step, metrics={"loss": math.sin(step), "val_loss": math.cos(step)}),
            cost(step, step, 0.1 + step / 1e6),
        ]
    content = page(facts(events, [record(step, step, {}) for step in range(1, 10_001)]), "")
    assert len(content) < 500_000
    assert next(len(data["x"]) for data in drawn(content)[0]["data"] if data["name"] == "there") == 300
    for told in (
        "300 of a kind are marked, evenly spread.",
        "About 1,000 points a curve are drawn",
        "200 bars are drawn for 10,000 saves: the dearest of each stretch.",
        "200 bars are drawn for 10,000 saves: the largest of each stretch.",
        "Of their saves 1,000 at most are, evenly spread.",
        "9,700 are left out.",
    ):
        assert told in content


# The page ----------------------------------------------------------------------------------------------------------


def test_whatever_a_name_a_metric_or_an_error_holds_is_nothing_but_text():
    events = [
        event("begun", 0, step=0, resumed_from=HOSTILE),
        saved(1, 1, name=HOSTILE, metrics={HOSTILE: 1.0}),
        event("failed", 2, step=2, why=HOSTILE),
        event("preempted", 3, step=3, cause=HOSTILE),
    ]
    damaged = {HOSTILE: HOSTILE}
    content = page(facts([*events], (), damaged, directory=f"runs/{HOSTILE.replace('/', '')}"), "")
    content.encode()  # there is nothing that cannot be
    tags = re.findall(r"<\s*/?\s*(\w+)", re.sub(r'(?s)<script type="application/json".*?</script>', "", content))
    assert "img" not in tags
    assert tags.count("script") == 4, "the library and the page's own, each with its end"
    assert "alert(1)" in content, "it is shown"
    assert "<" not in re.search(r'(?s)<script type="application/json" id="charts">(.*?)</script>', content)[1]
    for text in re.findall(r"alert\(\d\)[^\"]*", json.dumps(drawn(content))):
        assert "<" not in text


def test_the_page_forbids_all_but_its_own_scripts_by_their_hashes():
    content = page(facts(), "draw('</script>')")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', content)[1]
    assert policy.startswith("default-src 'none';")
    for script in re.findall(r"(?s)<script>(.*?)</script>", content):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert r"draw('<\/script>')" in content


def test_nothing_is_fetched_and_the_page_says_what_it_is():
    content = page(facts(), "")
    assert not re.search(r"(?:src|href|url|@import)\s*[=(]", content)
    for part in ('<html lang="en">', "<title>Checkpoints of a</title>", 'name="viewport"', "<noscript>", "<main>"):
        assert part in content
    labels = re.findall(r'role="img" aria-label="([^"]+)"', content)
    assert len(labels) == len(drawn(content)) == 4
    assert labels[0].startswith("Chart: loss and val_loss. loss: lowest 0.35 at step 400")


def test_without_a_history_the_page_has_what_manifests_tell_and_says_the_rest_is_unknown():
    content = page(facts(events=(), seconds={"ckpt-400": {"blocked": 0.01}}), "")
    assert re.findall("<h2>(.*?)</h2>", content) == ["In short", "Metrics", "What saves cost", "Checkpoints"]
    assert "No history lies in this directory" in content


def test_every_colour_of_a_chart_is_one_of_the_page_in_light_and_dark():
    content = page(facts(), "")
    used = set(re.findall(r'"(--[\w-]+)"', json.dumps(drawn(content)))) | set(re.findall(r"var\((--[\w-]+)\)", content))
    light, dark = content.split("prefers-color-scheme: dark")[:2]
    for scheme in (light, dark.split("</style>")[0]):
        assert used <= set(re.findall(r"(--[\w-]+):", scheme))


def test_plotly_knows_everything_that_the_charts_say():
    figure = pytest.importorskip("plotly.graph_objects", reason="plotly draws the charts").Figure
    running = facts([*EVENTS, event("begun", 6000, "d", step=400), event("restored", 6001, "d", step=200)])
    for chart in drawn(page(running, "")):
        resolved = json.loads(re.sub(r'"--[\w-]+"', '"#123456"', json.dumps(chart)))
        figure(data=resolved["data"], layout=resolved["layout"])  # which raises for what it does not know


def test_without_plotly_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'keras-ckptkit\[report\]'"):
        chart_library()


def test_every_end_of_a_turn_and_every_fate_of_a_checkpoint_has_its_words_and_its_symbol():
    turn = facts().turns[0]
    turns = tuple(replace(turn, number=at, ended=end) for at, end in enumerate(ENDS, 1))
    saves = tuple(Save(f"ckpt-{at}", at, fate=fate) for at, fate in enumerate(FATES))
    content = page(replace(facts(), turns=turns, saves=saves), "")
    for words in ("was killed", "was preempted", "by an error", "turn 4 began", "at work still", "was last heard of"):
        assert words in content
    assert len(set(re.findall(r'<td class="state" data-label="state">(.*?)</td>', content))) == len(FATES)


def test_what_is_known_of_nothing_but_names_makes_a_page_as_well():
    content = page(replace(facts(), saves=(Save("a"), Save("b", fate="damaged")), turns=(), curves=()), "")
    assert drawn(content) == []
    assert "damaged" in content
