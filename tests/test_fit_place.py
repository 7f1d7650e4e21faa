"""Which call of fit a checkpoint was saved in, and what is left of this one."""

from __future__ import annotations

import pytest

from ckptkit.errors import CheckpointDamagedError, CheckpointMismatchError
from ckptkit.fit_place import STATE, Place, fits_of
from ckptkit.records import CheckpointRecord
from ckptkit.run_state import FitState, RunState

RECORD = CheckpointRecord("runs/a/ckpt-30", 30)
ENDED = FitState(epoch=3, asked=3)
HALF_WAY = FitState(epoch=2, batch=5, asked=3, model={"optimizer": "Adam"})


@pytest.mark.parametrize(
    ("fits", "done", "epochs", "place"),
    [
        ((HALF_WAY,), 0, 3, Place((), HALF_WAY)),
        ((ENDED,), 0, 3, Place((), ENDED, is_over=True)),
        ((ENDED,), 0, 4, Place((), ENDED)),
        ((ENDED, HALF_WAY), 1, 3, Place((ENDED,), HALF_WAY)),
        ((HALF_WAY, ENDED), 0, 3, Place((), HALF_WAY, is_passed=True, is_over=True)),
    ],
    ids=["half way", "at its end", "more epochs are asked for", "in its second call", "in a later call"],
)
def test_a_call_is_found_among_those_that_were_saved(fits, done, epochs, place):
    assert Place.find(fits, done=done, epochs=epochs) == place


@pytest.mark.parametrize(
    ("place", "epochs", "why"),
    [
        (Place((), ENDED, is_passed=True), 3, "was saved in a later call of fit of this script."),
        (Place((), ENDED), 3, "is at the end of epoch 3, and 3 epochs were asked for."),
        (Place((), HALF_WAY), 2, "is at batch 5 of the epoch after 2, and 2 epochs were asked for."),
        (Place((), HALF_WAY), 3, "where a callback stopped the training. It goes on if more than the 3 epochs"),
    ],
)
def test_why_there_is_nothing_to_train_is_said_with_the_place(place, epochs, why):
    assert why in place.why_over(RECORD, epochs)


def test_a_call_that_begins_behind_what_was_saved_is_refused():
    Place((), HALF_WAY).require_epoch(2, RECORD)
    Place((), FitState(epoch=0)).require_epoch(2, RECORD)  # by a plain manager, nobody knows in which epoch
    with pytest.raises(CheckpointMismatchError, match="saved in epoch 2, and fit is to begin with initial_epoch=3"):
        Place((), HALF_WAY).require_epoch(3, RECORD)


def test_the_calls_that_a_checkpoint_knows_of_are_read_from_what_was_saved_beside_the_model(caplog):
    assert fits_of(RECORD, RunState((ENDED,)).to_values(STATE)) == (ENDED,)
    assert fits_of(RECORD, {}) == (FitState(),)
    assert "holds no state of a fit; its weights are taken and epochs are counted afresh" in caplog.text
    with pytest.raises(CheckpointDamagedError, match="ckpt-30 holds the state of no fit at all"):
        fits_of(RECORD, RunState(()).to_values(STATE))
