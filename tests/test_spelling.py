"""The question whether another name was meant."""

from __future__ import annotations

import pytest

from ckptkit.spelling import near


@pytest.mark.parametrize(
    ("name", "names", "question"),
    [
        ("val_los", ["loss", "val_loss", "val_acc"], "\nDid you mean 'val_loss'?"),
        ("zebra", ["loss", "val_loss"], ""),
        ("loss", [], ""),
        ("val_loss" * 100, ["val_loss" * 99], ""),  # compared for seconds, if they were long enough
    ],
    ids=["near", "far", "none", "too long"],
)
def test_the_nearest_name_is_asked_for_and_nothing_where_none_is_near(name, names, question):
    assert near(name, iter(names)) == question
