"""The line that says what a run goes on from."""

import pytest

from ckptkit.records import CheckpointRecord
from ckptkit.resuming import resume_line


def line(age=200.0, **named):
    record = CheckpointRecord("runs/a/ckpt-1200", 1200, created_at=1000.0)
    return resume_line(record, 1000.0 + age, epoch=3, batch=20, **{"restored": ["model"], "inputs": [], **named})


def test_it_says_what_came_back_from_where_how_old_it_is_and_how_its_data_come_back():
    assert line(restored=["model", "optimizer"], inputs=["training data: so", "validation data: otherwise"]) == (
        "resuming from runs/a/ckpt-1200, saved 3 min ago, at step 1200, epoch 3, batch 20: "
        "restored model, optimizer; training data: so; validation data: otherwise."
    )


@pytest.mark.parametrize(("age", "told"), [(-9.0, "0 s"), (7200.0, "2 h")])
def test_a_clock_that_went_back_is_no_age(age, told):
    assert f"saved {told} ago, " in line(age)


def test_where_there_was_nothing_to_restore_that_is_said():
    assert line(restored=[]).endswith(": restored nothing.")
