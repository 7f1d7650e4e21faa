"""What people are shown: ages in the largest unit that fits, and texts that do nothing to a terminal."""

import pytest

from ckptkit.printing import age_text, plain


@pytest.mark.parametrize(
    ("secs", "told"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (7200, "2 h"),
        (86400, "1 d"),
        (9e6, "104 d"),
    ],
)
def test_an_age_is_told_in_the_largest_unit_that_fits(secs, told):
    assert age_text(secs) == told


@pytest.mark.parametrize(
    ("text", "told"), [("läufe/a b", "läufe/a b"), ("a\nb\x1b[2J", r"a\nb\x1b[2J"), ("\u202ea", r"\u202ea")]
)
def test_a_text_becomes_one_line_without_anything_that_a_terminal_obeys(text, told):
    assert plain(text) == told
