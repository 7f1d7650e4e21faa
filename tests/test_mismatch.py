"""What a failed restore tells: both sides, the first five, and a near name for one that is missing."""

from __future__ import annotations

import pytest

from ckptkit import mismatch
from ckptkit.mismatch import Difference, report


def test_a_report_shows_both_sides_and_what_to_do():
    differences = [Difference("dense/kernel", "(64, 10) float32", "(64, 12) float32")]
    assert report("runs/a/ckpt-1200", differences, 14).splitlines() == [
        "cannot restore step 1200 from runs/a/ckpt-1200: 1 of 14 variables differ.",
        "  dense/kernel  checkpoint (64, 10) float32   model (64, 12) float32",
        "Build the model as it was saved, or pass strict=False to skip these.",
    ]


def test_a_side_that_has_nothing_says_nothing():
    told = report("p", [Difference("saved", "(1,) float32", None), Difference("alive", None, "(2,) float32")], 2)
    assert "  saved  checkpoint (1,) float32   model nothing" in told
    assert "  alive  checkpoint nothing   model (2,) float32" in told


def test_a_name_that_only_the_model_has_comes_with_the_near_one_that_only_the_checkpoint_has():
    differences = [Difference("dense/kernel", None, "()"), Difference("dense_1/kernel", "()", None)]
    lines = report("p", differences, 2).splitlines()
    assert lines[1].endswith("(the checkpoint has 'dense_1/kernel')")
    assert "the checkpoint has" not in lines[2]


@pytest.mark.parametrize(
    "other",
    [Difference("zzzzzz", "()", None), Difference("dense/kernal", "()", "(1,)")],
    ids=["nothing like it", "its object is there"],
)
def test_a_name_without_a_near_one_left_in_the_checkpoint_gets_no_hint(other):
    assert "the checkpoint has" not in report("p", [Difference("dense/kernel", None, "()"), other], 2)


@pytest.mark.parametrize(("count", "shown", "more"), [(5, 5, None), (6, 5, 1), (40, 5, 35)])
def test_only_five_are_shown_and_the_rest_are_counted(count, shown, more):
    lines = report("p", [Difference(f"v{i:02d}", "()", "(1,)") for i in range(count)], 40).splitlines()
    assert lines[0] == f"cannot restore p: {count} of 40 variables differ."
    assert sum(line.startswith("  v") for line in lines) == shown
    assert [line for line in lines if "more" in line] == ([] if more is None else [f"  … and {more} more."])


def test_sides_stand_under_each_other_however_long_the_names():
    lines = report("p", [Difference(name, "()", "(1,)") for name in ("a", "longer/name", "mid")], 3).splitlines()[1:-1]
    assert len({line.index("checkpoint ") for line in lines}) == 1


def test_the_example_at_the_top_of_the_module_can_be_run():
    call = next(line for line in mismatch.__doc__.splitlines() if line.startswith("raise "))
    call = call.removeprefix("raise CheckpointMismatchError(").removesuffix(")").replace("[...]", "differences")
    differences = [Difference("dense/kernel", "(64, 10) float32", "(64, 12) float32")]
    told = eval(call, {"report": report, "differences": differences})
    first = told.splitlines()[0].replace("1 of", "2 of")
    assert first in mismatch.__doc__
