"""``ckptkit diff``: how two checkpoints differ, and an exit code like that of diff(1)."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest

from ckptkit import cli
from tests import checkpoint_dirs
from tests.named_tensors import BIAS, KERNEL, NAMES, PLAIN, graph_of, save, table


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "run"


def tensors(kernel, bias=0.0):
    return {KERNEL: np.full(4, kernel), BIAS: np.full(2, bias), "words": b"text", PLAIN: graph_of(NAMES)}


def test_a_checkpoint_and_its_copy_elsewhere_are_the_same(directory, capsys):
    config = {"checkpoint_manager": {"directory": directory, "max_to_keep": 3}}
    save(directory, 1, tensors(math.nan), metrics={"loss": math.nan}, config=config)
    shutil.copytree(directory, "copy")
    assert cli.main(["diff", directory, "copy"]) == 0
    assert capsys.readouterr() == ("4 tensors are the same\n", "")
    elsewhere = {"checkpoint_manager": {"directory": "other", "max_to_keep": 3}}
    save("other", 1, tensors(math.nan), metrics={"loss": math.nan}, config=elsewhere, run_id="f00d", sequence=7)
    assert cli.main(["diff", directory, "other/ckpt-1"]) == 0
    capsys.readouterr()
    assert cli.main(["diff", "--json", directory, "other"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["same"]) == ("run/ckpt-1", "other/ckpt-1", True)
    assert (found["facts"], found["others"], found["changed"]) == ({}, [], [])
    assert "unchanged" not in found


def test_what_has_changed_is_told_the_furthest_first(directory, capsys):
    save(directory, 1, tensors(1.0, 1.0))
    save(directory, 2, tensors(1.5, 3.0))
    assert cli.main(["diff", f"{directory}/ckpt-1", directory]) == 1
    out = capsys.readouterr().out
    assert table(out) == [["net/out/bias", "2", "2", ""], ["net/dense_1/kernel", "0.5", "4", ""]]
    assert out.splitlines()[0] == "step: 1 -> 2"
    assert out.splitlines()[-1] == "2 tensors are the same"


def test_values_that_are_no_numbers_are_told(directory, capsys):
    save(directory, 1, tensors(1.0))
    save(directory, 2, tensors(math.nan))
    assert cli.main(["diff", f"{directory}/ckpt-1", directory]) == 1
    assert table(capsys.readouterr().out) == [["net/dense_1/kernel", "0", "4", "0 -> 4"]]
    cli.main(["diff", "--json", directory, f"{directory}/ckpt-1"])
    (row,) = json.loads(capsys.readouterr().out)["changed"]
    assert row == {"name": "net/dense_1/kernel", "key": KERNEL, "change": 0.0, "differing": 4, "nan_counts": [4, 0]}


def test_what_comes_from_nothing_is_infinitely_far_and_still_json(directory, capsys):
    save(directory, 1, tensors(0.0))
    save(directory, 2, tensors(1.0))
    cli.main(["diff", f"{directory}/ckpt-1", directory])
    assert table(capsys.readouterr().out) == [["net/dense_1/kernel", "inf", "4", ""]]
    cli.main(["diff", "--json", f"{directory}/ckpt-1", directory])
    assert json.loads(capsys.readouterr().out)["changed"][0]["change"] == "Infinity"


def test_what_only_one_has_and_what_has_another_shape_is_told(directory, capsys):
    save(directory, 1, {"gone": np.zeros(2), "other": np.zeros((2, 3)), "same": 1.0})
    save(directory, 2, {"new": np.zeros(2), "other": np.zeros((3, 2), "int8"), "same": 1.0})
    assert cli.main(["diff", f"{directory}/ckpt-1", directory]) == 1
    assert set(capsys.readouterr().out.splitlines()) == {
        "step: 1 -> 2",
        "only in run/ckpt-1: gone (2,) float64",
        "only in run/ckpt-2: new (2,) float64",
        "other: (2, 3) float64 -> (3, 2) int8",
        "1 tensor is the same",
    }
    cli.main(["diff", "--json", f"{directory}/ckpt-1", directory])
    others = json.loads(capsys.readouterr().out)["others"]
    assert {"key": "gone", "name": "gone", "in_a": "(2,) float64", "in_b": None} in others


def test_counters_metrics_versions_and_configuration_are_compared_as_well(directory, capsys):
    save(
        directory,
        1,
        tensors(1.0),
        epoch=1,
        metrics={"loss": 0.5, "old": 1.0},
        versions={"keras": "3.11", "tensorflow": "2.21"},
        config={"checkpoint_manager": {"max_to_keep": 3, "directory": "x"}, "mine": [1]},
    )
    save(
        directory,
        2,
        tensors(1.0),
        epoch=2,
        metrics={"loss": 0.25},
        versions={"keras": "3.15", "tensorflow": "2.21"},
        config={"checkpoint_manager": {"max_to_keep": 5, "directory": "y"}, "mine": [1, 2]},
    )
    assert cli.main(["diff", f"{directory}/ckpt-1", directory]) == 1
    told = [
        "step: 1 -> 2",
        "epoch: 1 -> 2",
        "metrics.loss: 0.5 -> 0.25",
        "metrics.old: 1.0 -> None",
        "versions.keras: 3.11 -> 3.15",
        "config.checkpoint_manager.max_to_keep: 3 -> 5",
        "config.mine: [1] -> [1, 2]",
    ]
    assert capsys.readouterr().out.splitlines() == [*told, "4 tensors are the same"]


def test_of_plain_tensorflows_tensors_alone_are_compared(directory, capsys):
    checkpoint_dirs.save(directory, 7, epoch=3)
    checkpoint_dirs.save_foreign("plain", "model-9", seed=7)
    assert cli.main(["diff", directory, "plain"]) == 0
    assert capsys.readouterr().out == (
        "plain/model-9 is of plain TensorFlow: tensors alone are compared\n6 tensors are the same\n"
    )


@pytest.fixture
def many(directory):
    """Thirty tensors of which 25 have changed, each further than the one before it."""
    for step in (1, 2):
        values = {f"v{at:02}": np.array([1.0 + (step - 1) * max(at - 4, 0)]) for at in range(30)}
        save(directory, step, values)
    return directory


def test_few_rows_are_shown_and_the_rest_is_counted(many, capsys):
    cli.main(["diff", f"{many}/ckpt-1", many])
    out = capsys.readouterr().out
    assert [row[0] for row in table(out)] == [f"v{at:02}" for at in range(29, 9, -1)]
    assert out.splitlines()[-1] == "5 more changed, 5 tensors are the same"
    cli.main(["diff", "--limit", "2", f"{many}/ckpt-1", many])
    out = capsys.readouterr().out
    assert [row[0] for row in table(out)] == ["v29", "v28"]
    assert out.splitlines()[-1] == "23 more changed, 5 tensors are the same"


def test_all_rows_are_shown_where_that_is_asked_for(many, capsys):
    cli.main(["diff", "--all", f"{many}/ckpt-1", many])
    out = capsys.readouterr().out
    assert [row[0] for row in table(out)] == [f"v{at:02}" for at in (*range(29, 4, -1), *range(5))]
    assert table(out)[-1] == ["v04", "0", "0", ""]
    cli.main(["diff", "--all", "--json", "--limit", "1", f"{many}/ckpt-1", many])
    found = json.loads(capsys.readouterr().out)
    assert (len(found["changed"]), found["unchanged"]) == (25, [f"v{at:02}" for at in range(5)])


def test_damage_is_told_and_is_no_difference(directory, capsys):
    for step in (1, 2):
        save(directory, step, tensors(1.0))
    checkpoint_dirs.flip(directory, "ckpt-2.data-00000-of-00001", 3)
    assert cli.main(["diff", f"{directory}/ckpt-1", f"{directory}/ckpt-2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "ckpt-2.data-00000-of-00001 is damaged: tensor" in err
    assert cli.main(["diff", f"{directory}/ckpt-1", f"{directory}/ckpt-3"]) == 1
    assert capsys.readouterr().err.startswith(f"no checkpoint {directory}/ckpt-3.\nDid you mean")


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["diff", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "as of diff(1): 0 they are the same, 1 they differ or one cannot be read, 2 wrong usage" in told


def test_nothing_is_changed(directory, capsys):
    save(directory, 1, tensors(1.0))
    save("other", 1, tensors(2.0))
    before = checkpoint_dirs.files_in(os.curdir)
    cli.main(["diff", directory, "other"])
    assert checkpoint_dirs.files_in(os.curdir) == before
