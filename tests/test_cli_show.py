"""``ckptkit show``: one checkpoint, its tensors and what is in them; and which checkpoint a path stands for."""

from __future__ import annotations

import json
import math
import os

import ml_dtypes
import numpy as np
import pytest

from ckptkit import cli
from ckptkit.bundle_index import Entry, encode_index
from ckptkit.checksums import crc32c
from ckptkit.cli.chosen import checkpoint_at
from ckptkit.errors import CheckpointDamagedError, CheckpointNotFoundError
from tests import checkpoint_dirs
from tests.named_tensors import BIAS, END, KERNEL, NAMES, NOW, PLAIN, graph_of, save, table


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("time.time", lambda: NOW)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "run"


def save_some(directory, step=1, **facts):
    kernel = np.arange(6.0, dtype="float32").reshape(2, 3)
    kernel[1, 2] = math.nan
    tensors = {KERNEL: kernel, BIAS: np.array([True, False, True, True]), "words": b"text", PLAIN: graph_of(NAMES)}
    return save(directory, step, tensors, **facts)


# One checkpoint ----------------------------------------------------------------------------------------------------


def test_show_tells_what_is_known_of_a_checkpoint(directory, capsys):
    save_some(
        directory,
        epoch=3,
        batch=0,
        metrics={"loss": 0.51234567, "acc": math.nan},
        best={"loss": 0.25},
        workers=2,
        config={"checkpoint_manager": {"max_to_keep": 3, "save_policy": "EverySteps(n=5)", "also": ["a", None]}},
        seconds={"blocked": 0.25},
        versions={"tensorflow": "2.21.0", "keras": "3.15"},
    )
    assert cli.main(["show", directory]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    told = dict(line.split(None, 1) for line in out.splitlines()[:14])
    assert told.pop("saved").startswith("2 h ago, 1970-01-1")
    assert told.pop("files").startswith("ckpt-1.data-00000-of-00001 ")
    assert told.pop("size").endswith(" B")
    assert told == {
        "prefix": "run/ckpt-1",
        "step": "1",
        "epoch": "3",
        "batch": "0",
        "metrics": "loss 0.5123, acc nan",
        "best": "so far  loss 0.25",
        "workers": "2",
        "run": "cafe",
        "sequence": "1",
        "seconds": "blocked 0.25",
        "versions": "tensorflow 2.21.0, keras 3.15",
    }
    assert out.splitlines()[14:21] == [
        "config",
        "  checkpoint_manager:",
        "    max_to_keep: 3",
        "    save_policy: EverySteps(n=5)",
        "    also:",
        "    - a",
        "    - null",
    ]
    assert "4 tensors, " in out
    assert [row[:3] for row in table(out)] == [
        [PLAIN, "string", "()"],
        ["net/dense_1/kernel", "float32", "(2, 3)"],
        ["words", "string", "()"],
        ["net/out/bias", "bool", "(4,)"],
    ]


def test_show_tells_the_largest_tensors_of_many(directory, capsys):
    save(directory, 1, {f"v{at:02}": np.zeros(at + 1, "int8") for at in range(12)})
    assert cli.main(["show", directory]) == 0
    out = capsys.readouterr().out
    assert "the 10 largest of 12 tensors, 78 B\n" in out
    assert [row[0] for row in table(out)] == [f"v{at:02}" for at in range(11, 1, -1)]


def test_show_prints_json_for_programs(directory, capsys):
    save_some(directory, epoch=3, metrics={"loss": math.nan}, config={"a": {"b": 1}})
    assert cli.main(["show", "--json", directory]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["epoch"], found["metrics"], found["config"]) == (3, {"loss": "NaN"}, {"a": {"b": 1}})
    assert (found["foreign"], found["tensor_count"]) == (False, 4)
    assert found["largest"][1] == {
        "name": "net/dense_1/kernel",
        "key": KERNEL,
        "dtype": "float32",
        "shape": [2, 3],
        "size_bytes": 24,
    }


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_of_plain_tensorflows_show_says_what_nobody_knows(directory, capsys, options):
    checkpoint_dirs.save_foreign(directory, "ckpt-3")
    assert cli.main(["show", *options, directory]) == 0
    out = capsys.readouterr().out
    if options:
        assert json.loads(out)["foreign"] is True
        assert "epoch" not in json.loads(out)
    else:
        assert "no manifest says its epoch, metrics, configuration and versions" in out
        assert "epoch  " not in out
        assert [row[0] for row in table(out)][:2] == ["kernel", "parts"]


def test_a_time_that_no_calendar_has_is_told_as_an_age(directory, capsys):
    save_some(directory, created_at=-1e300)
    assert cli.main(["show", directory]) == 0
    assert " d ago\n" in capsys.readouterr().out


def test_a_configuration_that_is_nested_too_deeply_is_told_without_a_traceback(directory, capsys):
    config = {}
    for _ in range(400):
        config = {"a": config}
    save_some(directory, config=config)
    assert cli.main(["show", directory]) == 1
    assert capsys.readouterr().err == "cannot read run: it is nested too deeply\n"


# Its tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("dense*", ["net/dense_1/kernel"]),
        ("kernel", ["net/dense_1/kernel"]),
        ("net/*", ["net/out/bias", "net/dense_1/kernel"]),
        ("out/bias", ["net/out/bias"]),
        ("model/out/*", ["net/out/bias"]),
        ("_variables/0", ["net/dense_1/kernel"]),
        (f"*{END}", ["net/out/bias", "net/dense_1/kernel"]),
        ("ernel", None),
        ("Kernel", None),
    ],
)
def test_tensors_are_chosen_by_the_end_of_their_names_and_of_their_keys(directory, capsys, pattern, found):
    save_some(directory)
    assert cli.main(["show", directory, "--tensors", pattern]) == (0 if found else 1)
    out, err = capsys.readouterr()
    assert [row[0] for row in table(out)] == (found or [])
    assert ("is like" in err) is (found is None)


def test_what_is_in_tensors_is_told(directory, capsys):
    save_some(directory)
    assert cli.main(["show", directory, "--tensors", "*"]) == 0
    rows = {row[0]: row[1:] for row in table(capsys.readouterr().out)}
    assert rows["net/dense_1/kernel"] == ["float32", "(2, 3)", "24 B", "0", "4", "2", "1"]
    assert rows["net/out/bias"] == ["bool", "(4,)", "4 B", "False", "True", "0.75", "0"]
    assert rows["words"][:3] == ["string", "()", "9 B"]
    assert rows["words"][3:] in ([], [""] * 4)


def test_what_is_in_tensors_of_any_kind_is_told(directory, capsys):
    tensors = {
        "bfloat16": np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16),
        "complex": np.array([3 + 4j, 0]),
        "empty": np.zeros((0, 3), "float32"),
        "float8": np.array([0.5, 2.0]).astype(ml_dtypes.float8_e4m3fn),
        "large": np.array(2**63, "uint64"),
        "nan": np.array(math.nan),
    }
    save(directory, 1, tensors)
    assert cli.main(["show", directory, "--tensors", "*"]) == 0
    rows = {row[0]: row[4:] for row in table(capsys.readouterr().out)}
    assert rows == {
        "bfloat16": ["-2", "1.5", "-0.25", "0"],
        "complex": ["0", "5", "2.5", "0"],
        "empty": ["", "", "", "0"],
        "float8": ["0.5", "2", "1.25", "0"],
        "large": ["9223372036854775808", "9223372036854775808", "9.223e+18", "0"],
        "nan": ["", "", "", "1"],
    }


def test_values_are_json_for_programs_and_left_out_where_that_is_asked_for(directory, capsys):
    save_some(directory)
    assert cli.main(["show", directory, "--tensors", "kernel", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prefix"] == "run/ckpt-1"
    assert found["tensors"] == [
        {
            "name": "net/dense_1/kernel",
            "key": KERNEL,
            "dtype": "float32",
            "shape": [2, 3],
            "size_bytes": 24,
            "min": 0.0,
            "max": 4.0,
            "mean": 2.0,
            "nan_count": 1,
        }
    ]
    assert cli.main(["show", directory, "--tensors", "kernel", "--no-values"]) == 0
    assert table(capsys.readouterr().out) == [["net/dense_1/kernel", "float32", "(2, 3)", "24 B"]]


def test_a_pattern_that_nothing_is_like_is_told_with_the_nearest_name(directory, capsys):
    save_some(directory)
    assert cli.main(["show", directory, "--tensors", "*desne_1*"]) == 1
    assert capsys.readouterr() == ("", "no tensor in run/ckpt-1 is like '*desne_1*'.\nDid you mean 'dense_1'?\n")


def test_a_damaged_tensor_is_told_beside_those_that_are_whole(directory, capsys):
    save(directory, 1, {"a": np.arange(4.0), "b": np.arange(4.0)})
    checkpoint_dirs.flip(directory, "ckpt-1.data-00000-of-00001", 3)
    assert cli.main(["show", directory, "--tensors", "*"]) == 1
    out, err = capsys.readouterr()
    assert [row[4:] for row in table(out)] == [["", "", "", ""], ["0", "3", "1.5", "0"]]
    assert err.startswith("run/ckpt-1.data-00000-of-00001 is damaged: tensor 'a' has checksum")
    assert cli.main(["show", directory, "--tensors", "*", "--no-values"]) == 0


def test_a_tensor_whose_values_nobody_here_knows_is_told(directory, capsys):
    os.mkdir(directory)
    entry = Entry("x", "resource", (2,), size=8, checksum=crc32c(b"12345678"))
    checkpoint_dirs.write(directory, "ckpt-1.index", encode_index([entry], 1))
    checkpoint_dirs.write(directory, "ckpt-1.data-00000-of-00001", b"12345678")
    assert cli.main(["show", directory, "--tensors", "x"]) == 1
    out, err = capsys.readouterr()
    assert table(out)[0][:4] == ["x", "resource", "(2,)", "8 B"]
    assert err == "cannot read values of dtype resource: NumPy and ml_dtypes have no such type.\n"


# Which checkpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "run/ckpt-2",
        "run/ckpt-2.index",
        "run/ckpt-2.manifest.json",
        "run/ckpt-2.data-00000-of-00001",
        "run",
        "run/",
        "./run",
    ],
)
def test_a_path_stands_for_a_checkpoint_and_a_directory_for_its_newest(directory, path):
    save_some(directory, 1)
    save_some(directory, 2)
    assert checkpoint_at(path).name == "ckpt-2"


def test_the_working_directory_is_a_directory_as_well(directory, monkeypatch):
    save_some(directory, 1)
    monkeypatch.chdir(directory)
    assert checkpoint_at("ckpt-1").step == checkpoint_at(".").step == 1


def test_one_of_plain_tensorflow_that_is_on_no_list_is_found_by_its_name(directory):
    save_some(directory, 1)
    checkpoint_dirs.save_foreign(directory, "old-7")
    checkpoint_dirs.put_state(directory, ["ckpt-1"])
    assert checkpoint_at("run/old-7").foreign
    assert checkpoint_at("run").name == "ckpt-1"


@pytest.mark.parametrize(("which", "name"), [("latest", "ckpt-3"), ("best", "ckpt-2"), ("1", "ckpt-1")])
def test_of_a_directory_the_latest_the_best_or_a_step_is_chosen(directory, which, name):
    config = {"training_checkpoint": {"max_to_keep": 3, "preservation_policy": None, "monitor": "loss", "mode": "min"}}
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        save_some(directory, step, metrics={"loss": loss}, config=config)
    assert checkpoint_at(directory, which).name == name


@pytest.mark.parametrize(
    ("path", "which", "told"),
    [
        ("run/ckpt-12", "latest", r"^no checkpoint run/ckpt-12\.\nDid you mean 'ckpt-1'\?$"),
        ("run/zebra", "latest", r"^no checkpoint run/zebra\.\nThere are ckpt-1, ckpt-3\.$"),
        ("empty/x", "latest", r"^no checkpoint empty/x\.$"),
        ("empty", "latest", r"^no checkpoints in empty\.$"),
        ("run", "9", r"^no checkpoint of step 9 in run; steps there, newest: 3, 1\.$"),
        (
            "run",
            "best",
            r"^nothing says which checkpoint in run is the best: .*\. Name one: 'ckptkit ls' lists",
        ),
    ],
)
def test_one_that_is_not_there_is_an_error_with_those_that_are(directory, path, which, told):
    os.mkdir("empty")
    save_some(directory, 1)
    save_some(directory, 3)
    with pytest.raises(CheckpointNotFoundError, match=told):
        checkpoint_at(path, which)


def test_one_that_is_damaged_is_an_error_that_says_how_to_go_on(directory, capsys):
    save_some(directory, 1)
    os.unlink("run/ckpt-1.index")
    with pytest.raises(
        CheckpointDamagedError, match=r"run/ckpt-1 is damaged: ckpt-1\.index is missing\.\n'ckptkit repair run'"
    ):
        checkpoint_at("run/ckpt-1")
    with pytest.raises(
        CheckpointNotFoundError, match=r"^no checkpoints in run\.\nckpt-1 is damaged: ckpt-1\.index is missing\.$"
    ):
        checkpoint_at("run")
    for path in ("run", "run/ckpt-1", "nowhere"):
        assert cli.main(["show", path]) == 1
        assert capsys.readouterr().err.startswith("no checkpoint" if path != "run/ckpt-1" else "checkpoint run/ckpt-1")
