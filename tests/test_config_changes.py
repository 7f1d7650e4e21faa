"""What is said of a run that goes on with another configuration."""

from __future__ import annotations

import json
import math

import pytest

from ckptkit.config_changes import report
from ckptkit.options import CheckpointManagerOptions, TrainingCheckpointOptions


def training(**options):
    made = TrainingCheckpointOptions(directory="runs/a", **options)
    return {made.section: made.effective()}


def test_each_option_that_changed_is_told_with_both_sides():
    told = report("runs/a", 1200, training(save_freq="500 steps"), training(save_freq="1 epoch", max_to_keep=3))
    assert told == (
        "runs/a is gone on with another configuration than step 1200 was saved with: "
        "save_freq 'EverySteps(n=500)' -> 'EveryEpochs(n=1)', max_to_keep 5 -> 3."
    )


def test_the_same_configuration_in_another_spelling_is_no_change():
    assert report("a", 1, training(save_freq=500), training(save_freq="500 steps")) is None


@pytest.mark.parametrize(
    "name", ["directory", "resume", "read_only", "last_checkpoint_step", "tensorboard_dir", "verbose"]
)
def test_where_the_run_is_how_it_begins_and_what_it_tells_is_no_change(name):
    saved = (
        CheckpointManagerOptions(directory="a", max_to_keep=1).effective()
        | TrainingCheckpointOptions(directory="a").effective()
    )
    assert name in saved
    assert report("a", 1, {"s": saved}, {"s": {**saved, name: "another"}}) is None
    assert report("a", 1, {"s": saved}, {"s": {**saved, "durable": "another"}}) is not None


@pytest.mark.parametrize(
    ("saved", "now"),
    [
        ({}, training()),
        (training(), {}),
        (training(), {"checkpoint_manager": {"max_to_keep": 3}}),
        ({"training_checkpoint": {"max_to_keep": 5}}, training()),
        (training(), {"training_checkpoint": {"max_to_keep": 5}}),
        ({"training_checkpoint": {"of_another_version": 1}}, training()),
    ],
    ids=["an old checkpoint", "nothing today", "another kind", "fewer then", "fewer now", "another version"],
)
def test_what_only_one_side_knows_is_no_change(saved, now):
    assert report("a", 1, saved, now) is None


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        10**4000,
        [[]] * 10**5,
        {str(i): i for i in range(10**5)},
        json.loads("[" * 900 + "]" * 900),
        "\x1b[2J\n\r\u202e",
        math.nan,
        "\udcff",
    ],
    ids=["long", "large", "many", "wide", "deep", "controls", "NaN", "surrogate"],
)
def test_a_hostile_value_is_told_in_few_words_and_in_one_line(value):
    told = report("a", 1, {"training_checkpoint": {"max_to_keep": value}}, training())
    assert told is not None
    assert len(told) < 500
    assert told.isprintable()


@pytest.mark.parametrize(
    "section", [None, 3, "text", ["max_to_keep"], {3: 4}, {"max_to_keep": 5, "durable": 1}], ids=repr
)
def test_a_section_that_is_none_of_ours_is_no_change(section):
    assert report("a", 1, {"training_checkpoint": section}, training()) is None
