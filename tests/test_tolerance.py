"""How many failed saves in a row are put up with."""

import logging

import pytest

from ckptkit.errors import CheckpointSaveError
from ckptkit.tolerance import MAX_SAVE_ERRORS, Tolerance


def fail():
    raise CheckpointSaveError("save of ckpt-1 failed")


def succeed():
    pass


def test_an_error_that_is_not_put_up_with_is_raised_as_it_is():
    tolerance = Tolerance("raise", 5)
    for _ in range(2):
        with pytest.raises(CheckpointSaveError, match=r"^save of ckpt-1 failed$"):
            tolerance.run(fail)


def test_an_error_that_is_put_up_with_is_logged_each_time(caplog):
    tolerance = Tolerance("warn", None)
    assert [tolerance.run(fail) for _ in range(50)] == [False] * 50
    assert {(record.levelno, record.message) for record in caplog.records} == {
        (logging.WARNING, "save of ckpt-1 failed")
    }
    assert len(caplog.records) == 50


@pytest.mark.parametrize("most", [1, 2, MAX_SAVE_ERRORS])
def test_so_many_errors_in_a_row_are_raised_and_those_after_them_as_well(most, caplog):
    tolerance = Tolerance("warn", most)
    assert [tolerance.run(fail) for _ in range(most - 1)] == [False] * (most - 1)
    for number in (most, most + 1):
        with pytest.raises(CheckpointSaveError, match=r"^save of ckpt-1 failed") as caught:
            tolerance.run(fail)
        counted = f"\n{number} saves in a row have failed, and max_save_errors={most} puts up with no more."
        assert (counted in str(caught.value)) == (most > 1)
    assert len(caplog.records) == most - 1


def test_a_save_that_succeeds_sets_the_count_back():
    tolerance = Tolerance("warn", 2)
    assert [tolerance.run(save) for save in (fail, succeed, fail, succeed)] == [False, True, False, True]
    tolerance.run(fail)
    with pytest.raises(CheckpointSaveError, match="2 saves in a row have failed"):
        tolerance.run(fail)


def test_other_errors_are_nothing_to_put_up_with():
    def stop():
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        Tolerance("warn", None).run(stop)
