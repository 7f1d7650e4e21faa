"""Metrics that policies look at: what they are called, which way they rank, and whether anybody measures them."""

from __future__ import annotations

import pytest

from ckptkit.monitors import modes_of, require_measured
from ckptkit.policies import EverySteps, OnImprovement
from ckptkit.preservation import Best, Latest

LOGS = {"loss": 0.3, "accuracy": 0.9}
VALIDATED = {**LOGS, "val_loss": 0.4, "val_accuracy": 0.8}


def test_monitors_are_found_wherever_they_stand_in_a_policy():
    save = EverySteps(5) | (OnImprovement("val_loss", "min") & EverySteps(2))
    keep = Latest(3) | Best("accuracy", "max", n=2)
    assert modes_of(save, keep) == {"val_loss": "min", "accuracy": "max"}
    assert modes_of(None, EverySteps(5)) == {}


def test_a_metric_that_is_to_be_small_and_large_is_refused():
    with pytest.raises(ValueError, match="'loss' is to be as small as possible by one policy and as large as possible"):
        modes_of(OnImprovement("loss", "min"), Latest(2) | Best("loss", "max"))


@pytest.mark.parametrize(
    ("monitor", "metrics", "options", "message"),
    [
        (
            "val_acuracy",
            VALIDATED,
            {},
            r"by 'val_acuracy': no such metric at epoch 3 \(have: accuracy, loss, val_accur",
        ),
        ("val_acuracy", VALIDATED, {}, "\nDid you mean 'val_accuracy'\\?$"),
        ("val_loss", LOGS, {"is_validated": False}, "There was no validation: pass validation_data"),
        ("perplexity", LOGS, {}, r"\(have: accuracy, loss\)\.$"),
        ("acuracy", LOGS, {"is_complete": False}, "Did you mean 'accuracy'"),
        ("loss", {}, {}, r"\(have: none\)"),
    ],
)
def test_a_metric_that_is_not_measured_is_an_error_that_lists_those_that_are(monitor, metrics, options, message):
    with pytest.raises(ValueError, match=message):
        require_measured([monitor], metrics, 3, **options)


@pytest.mark.parametrize(
    ("monitor", "metrics", "options"),
    [
        ("loss", LOGS, {}),
        ("val_loss", LOGS, {}),  # validation_freq=2
        ("val_nonsense", LOGS, {}),
        ("val_loss", VALIDATED, {"is_validated": False}),  # another callback has put it in
        ("perplexity", LOGS, {"is_complete": False}),  # measured at some other time, perhaps
    ],
)
def test_what_may_yet_be_measured_is_none(monitor, metrics, options):
    require_measured([monitor], metrics, 3, **options)
