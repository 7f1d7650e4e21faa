"""The options of each class: refused when they cannot be meant, and known as plain data."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from ckptkit.options import CheckpointManagerOptions, ExportOnCompletionOptions, Options, TrainingCheckpointOptions
from ckptkit.policies import EverySteps, SavePolicy
from ckptkit.preservation import Latest

KINDS = [CheckpointManagerOptions, TrainingCheckpointOptions, ExportOnCompletionOptions]
LEAST = {
    CheckpointManagerOptions: {"directory": "runs/a", "max_to_keep": 3},
    TrainingCheckpointOptions: {"directory": "runs/a"},
    ExportOnCompletionOptions: {"path": "export/a"},
}
of_each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.section)


class Own(SavePolicy):
    """A policy of a user's own."""


@of_each
def test_options_are_made_of_what_is_required_and_are_the_arguments_of_themselves(kind):
    options = kind(**LEAST[kind])
    assert kind.required() == list(LEAST[kind])
    assert list(options.arguments()) == [each.name for each in dataclasses.fields(kind)]
    assert kind(**options.arguments()) == options


@of_each
def test_options_are_frozen(kind):
    options = kind(**LEAST[kind])
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        options.durable = False


@of_each
def test_every_option_refuses_what_no_option_takes_and_names_itself(kind):
    for name in kind.rules():
        with pytest.raises((TypeError, ValueError), match=rf"(?s){name}.*, got <object object"):
            kind(**{**LEAST[kind], name: object()})


@of_each
def test_the_effective_options_are_all_of_them_as_json_has_them(kind):
    plain = kind(**LEAST[kind]).effective()
    assert list(plain) == list(kind.rules())
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_policies_are_their_text_among_the_effective_options():
    options = TrainingCheckpointOptions(
        directory=pathlib.PurePosixPath("runs/a"), save_freq="500 steps", preservation_policy=Latest(3) | Latest(5)
    )
    plain = options.effective()
    assert options.save_freq == EverySteps(500)
    assert plain["directory"] == "runs/a"
    assert plain["save_freq"] == "EverySteps(n=500)"
    assert plain["preservation_policy"] == "Latest(n=3) | Latest(n=5)"


def test_a_policy_that_has_no_text_is_left_out_of_the_effective_options_and_one_that_is_not_there_is_none():
    plain = CheckpointManagerOptions(
        directory="runs/a", max_to_keep=None, save_policy=Own() | EverySteps(3)
    ).effective()
    assert "save_policy" not in plain
    assert plain["preservation_policy"] is None
    assert plain["max_to_keep"] is None


def test_two_spellings_of_one_frequency_are_equal():
    spellings = ["500 steps", 500, EverySteps(500)]
    assert len({TrainingCheckpointOptions(directory="a", save_freq=each) for each in spellings}) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: TrainingCheckpointOptions(directory="a", mode="min"),
            "mode='min' says how to rank a metric; say which",
        ),
        (
            lambda: ExportOnCompletionOptions(path="a", versions=3, formats=["h5"]),
            "versions are SavedModels: put \"saved_model\" into formats, got ('h5',).",
        ),
        (
            lambda: CheckpointManagerOptions(directory="a", max_to_keep=0),
            "Expected a positive integer or `None` for `max_to_keep`, got 0.",
        ),
    ],
    ids=["mode without monitor", "versions of what is none", "TensorFlow's words"],
)
def test_what_cannot_be_meant_is_refused_when_it_is_built(build, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build()


def test_a_metric_may_be_monitored_before_anybody_knows_which_way_it_is_better():
    assert TrainingCheckpointOptions(directory="a", monitor="val_auc").mode is None


@of_each
@pytest.mark.parametrize(("said", "kept"), [(0, 0), (True, 1), (False, 0), (np.int64(1), 1)], ids=repr)
def test_whoever_says_verbose_as_keras_does_is_understood(kind, said, kept):
    verbose = kind(**LEAST[kind], verbose=said).verbose
    assert (verbose, type(verbose)) == (kept, int)


@of_each
@pytest.mark.parametrize("said", [2, -1, 1.0, "auto", None], ids=repr)
def test_there_is_no_more_to_hear_than_1_says(kind, said):
    with pytest.raises(ValueError, match=f"^verbose must be 0 or 1, got {said!r}"):
        kind(**LEAST[kind], verbose=said)


def test_each_class_of_options_is_here():
    assert {each for each in Options.__subclasses__() if each.__module__ == Options.__module__} == set(KINDS)
