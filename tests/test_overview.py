"""A directory at a glance: how many, the latest and the best, on one line; more of it in a table."""

from xml.etree import ElementTree

import pytest

from ckptkit.ledger import Ledger
from ckptkit.listing import Listing
from ckptkit.overview import Overview
from ckptkit.preservation import Best
from ckptkit.records import CheckpointRecord

pytestmark = pytest.mark.core

NOW = 10_000.0


def record(step, **facts):
    return CheckpointRecord(f"runs/a/ckpt-{step}", step, created_at=NOW - 120, size_bytes=403_000_000, **facts)


def overview(*records, damaged=None, policy=None, directory="runs/a"):
    ledger = Ledger("ckpt", None, None, policy, NOW)
    ledger.adopt(Listing(records, damaged or {}), NOW)
    return Overview("CheckpointManager", directory, ledger, NOW)


def rows(shown):
    """Return the rows of a table, each a tuple of its cells; the caption first, and the headings left out."""
    page = ElementTree.fromstring(shown.table())
    found = [tuple(cell.text or "" for cell in row) for row in page.iter("tr")]
    return page.findtext("caption"), found[1:]


def test_an_empty_directory_has_no_checkpoints():
    assert overview().line() == "<CheckpointManager runs/a: no checkpoints>"
    assert rows(overview()) == ("CheckpointManager runs/a: no checkpoints", [])


def test_the_line_has_their_number_the_latest_the_best_by_its_metric_and_how_many_are_damaged():
    records = [record(900, metrics={"val_loss": 0.31}), record(1200, metrics={"val_loss": 0.5, "loss": 1.0})]
    shown = overview(*records, damaged={"ckpt-800": "gone"}, policy=Best("val_loss", "min"))
    assert shown.line() == (
        "<CheckpointManager runs/a: 2 checkpoints, latest ckpt-1200 (step 1200, 2 min ago, 403 MB), "
        "best ckpt-900 by val_loss 0.31, 1 damaged>"
    )


def test_where_none_has_the_metric_or_nothing_ranks_them_there_is_no_best():
    assert "best" not in overview(record(1), policy=Best("val_loss", "min")).line()
    assert "best" not in overview(record(1, metrics={"val_loss": 1.0})).line()


def test_the_table_says_of_each_what_it_is_and_why_a_damaged_one_is_one():
    records = [
        record(1, foreign=True),
        record(2, epoch=1, metrics={"loss": 0.25}, sequence=1),
        record(3, epoch=1, batch=4, sequence=2),
    ]
    shown = overview(*records, damaged={"ckpt-0": "cut short"}, policy=Best("loss", "min"))
    shown.ledger.damaged["ckpt-3"] = "a bit flipped"  # as a restore enters it
    assert rows(shown) == (
        "CheckpointManager runs/a: 3 checkpoints, 2 damaged",
        [
            ("ckpt-1", "1", "", "2 min", "403 MB", "", "written by plain TensorFlow, unverified"),
            ("ckpt-2", "2", "1", "2 min", "403 MB", "loss 0.25", "best"),
            ("ckpt-3", "3", "1 + 4 batches", "2 min", "403 MB", "", "latest, damaged: a bit flipped"),
            ("ckpt-0", "", "", "", "", "", "damaged: cut short"),
        ],
    )


def test_of_many_the_table_has_the_ten_newest_the_best_and_how_many_are_left_out():
    records = [record(step, sequence=step, metrics={"loss": abs(step - 3)}) for step in range(1, 1204)]
    _, found = rows(overview(*records, policy=Best("loss", "min")))
    assert [row[0] for row in found] == ["1,192 older", "ckpt-3", *(f"ckpt-{step}" for step in range(1194, 1204))]
    assert [row[-1] for row in found if row[-1]] == ["best", "latest"]


def test_what_a_name_holds_is_escaped():
    assert "<b>" not in overview(directory="<b>runs</b>").table()
    assert overview(directory="runs\n\x1b[31m").line() == "<CheckpointManager runs\\n\\x1b[31m: no checkpoints>"
