"""What is of no use is left out, and only that."""

import logging
import warnings

import pytest

from ckptkit.export.silence import without


@pytest.mark.filterwarnings("always")
def test_warnings_and_lines_of_the_log_that_start_so_are_left_out_and_no_others(caplog):
    with warnings.catch_warnings(record=True) as heard, without("You are", "Skipping (all)"):
        for said in ("You are saving", "Skipping (all) of it", "We are saving"):
            warnings.warn(said, stacklevel=1)
        logging.getLogger("absl").warning("You are %s", "logging")
        logging.getLogger("absl").warning("We are %s", "logging")
    assert [str(each.message) for each in heard] == ["We are saving"]
    assert caplog.messages == ["We are logging"]


def test_all_is_heard_again_afterwards(caplog):
    with pytest.raises(RuntimeError, match="broken"), without("You are"):
        raise RuntimeError("broken")
    logging.getLogger("absl").warning("You are logging")
    with pytest.warns(UserWarning, match="^You are"):
        warnings.warn("You are saving", stacklevel=1)
    assert caplog.messages == ["You are logging"]
