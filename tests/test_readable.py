"""What people read: sizes, times and facts, on a line that does nothing to a terminal or in a table that is HTML."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.readable import age_text, count_text, line, metrics_text, plain, secs_text, size_text, table

pytestmark = pytest.mark.core

anything = st.text(st.characters())  # line ends, escapes and half a surrogate pair among it


@pytest.mark.parametrize(
    ("size_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (3e9, "3 GB"),
        (4.5e12, "4.5 TB"),
    ],
)
def test_a_size_is_told_with_three_digits_in_the_largest_unit_that_fits(size_bytes, told):
    assert size_text(size_bytes) == told


@given(st.integers(1, 10**15 - 10**13))
def test_a_size_that_is_told_is_the_size_within_its_three_digits(size_bytes):
    number, unit = size_text(size_bytes).split()
    power = ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert math.isclose(float(number) * 1000**power, size_bytes, rel_tol=0.0051)
    assert "e" not in number
    assert len(number.replace(".", "")) <= 3


@pytest.mark.parametrize(
    ("secs", "told"), [(0.0, "0.0 ms"), (0.00004, "0.0 ms"), (0.0099, "9.9 ms"), (0.01, "0.01 s"), (75.5, "75.50 s")]
)
def test_short_times_are_told_in_milliseconds(secs, told):
    assert secs_text(secs) == told


@pytest.mark.parametrize(
    ("secs", "told"),
    [(-5.0, "0 s"), (59.0, "59 s"), (60.0, "1 min"), (3599.0, "60 min"), (7200.0, "2 h"), (86400.0 * 40, "40 d")],
)
def test_an_age_is_told_in_the_largest_unit_that_fits_and_a_clock_that_went_back_makes_it_new(secs, told):
    assert age_text(secs) == told


@pytest.mark.parametrize(
    ("count", "many", "told"), [(0, None, "0 saves"), (1, "x", "1 save"), (1200, None, "1,200 saves"), (2, "x", "2 x")]
)
def test_a_number_of_things_has_their_plural(count, many, told):
    assert count_text(count, "save", many) == told


def test_metrics_are_told_with_four_digits_those_that_are_no_numbers_too():
    assert metrics_text({"loss": 0.312449, "mae": math.nan, "n": 5}) == "loss 0.3124, mae nan, n 5"


def test_a_line_has_kind_name_and_facts():
    assert line("Record", "ckpt-12", ["step 12", "403 MB"]) == "<Record ckpt-12: step 12, 403 MB>"
    assert line("Stats", "", ["no saves"]) == "<Stats: no saves>"


@given(anything, anything)
def test_a_line_is_one_line_of_what_can_be_seen_whatever_is_in_it(name, fact):
    assert line("Record", name, [fact]).isprintable()


@pytest.mark.parametrize(
    ("text", "told"), [("läufe/a b", "läufe/a b"), ("a\nb\x1b[2J", r"a\nb\x1b[2J"), ("\u202ea", r"\u202ea")]
)
def test_a_text_becomes_one_line_without_anything_that_a_terminal_obeys(text, told):
    assert plain(text) == told


@given(anything, anything, anything)
def test_a_table_has_its_cells_as_they_are_and_nothing_in_them_is_html(caption, heading, cell):
    page = ElementTree.fromstring(table(caption, [("row", cell)], headings=("name", heading)))
    assert page.findtext("caption") == plain(caption)
    assert [each.text or "" for each in page.iter("th")] == ["name", plain(heading), "row"]
    assert [each.text or "" for each in page.iter("td")] == [plain(cell)]


def test_a_table_without_headings_has_rows_alone_and_brings_no_colours_into_a_notebook():
    html = table("runs/a", [("step", "1 < 2")])
    assert html == "<table><caption>runs/a</caption><tbody><tr><th>step</th><td>1 &lt; 2</td></tr></tbody></table>"
