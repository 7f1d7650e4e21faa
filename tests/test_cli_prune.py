"""``ckptkit prune``: what a person asks for, and what is said of it. What goes is in test_pruning.py."""

from __future__ import annotations

import fcntl
import json
import os

import pytest

from ckptkit import cli
from ckptkit.history import Event
from ckptkit.store import Store
from tests.checkpoint_dirs import files_in, flip, put_state, save, save_foreign
from tests.named_tensors import table

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("time.time", lambda: NOW)


@pytest.fixture
def directory(tmp_path):
    """Four checkpoints, the second the best."""
    directory = str(tmp_path / "run")
    config = {"training_checkpoint": {"max_to_keep": 9, "preservation_policy": None, "monitor": "loss", "mode": "min"}}
    for step, loss in ((1, 3.0), (2, 1.0), (3, 4.0), (4, 2.0)):
        save(directory, step, metrics={"loss": loss, "acc": -loss}, config=config, created_at=NOW - 100.0 + 10 * step)
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4"])
    return directory


def there(directory):
    return [record.step for record in Store(directory).scan().records]


def size_in(directory, *steps):
    return sum(record.size_bytes for record in Store(directory).scan().records if record.step in steps)


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["nothing said", "dry run"])
def test_a_dry_run_is_the_default_and_says_what_would_go_and_what_stays_and_why(directory, capsys, options):
    before, size = files_in(directory), size_in(directory, 1)
    assert cli.main(["prune", *options, "--keep-latest", "1", "--keep-best", "1", "--monitor", "loss", directory]) == 0
    out, err = capsys.readouterr()
    size = f"{size / 1000:.3g} kB"
    assert table(out) == [
        ["ckpt-1", "1", "2 min", size, "would go", ""],
        ["ckpt-2", "2", "1 min", size, "stays", "best loss"],
        ["ckpt-3", "3", "1 min", size, "would go", ""],
        ["ckpt-4", "4", "1 min", size, "stays", "latest 1"],
    ]
    assert out.splitlines()[-1].startswith("would delete 2 of 4 checkpoints, ")
    assert err == "nothing was deleted: --yes does it\n"
    assert files_in(directory) == before


def test_yes_does_it(directory, capsys):
    assert cli.main(["prune", "--yes", "--keep-latest", "2", directory + "/"]) == 0
    out, err = capsys.readouterr()
    assert [row[4] for row in table(out)] == ["deleted", "deleted", "stays", "stays"]
    assert out.splitlines()[-1].startswith("deleted 2 of 4 checkpoints, ")
    assert err == ""
    assert there(directory) == [3, 4]


def test_json_is_for_programs(directory, capsys):
    assert cli.main(["prune", "--json", "--keep-latest", "2", directory]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert (found["done"], found["gone"], found["damaged"]) == (False, ["ckpt-1", "ckpt-2"], {})
    assert [each["kept"] for each in found["checkpoints"]] == [[], [], ["latest 2"], ["latest 2"]]
    assert found["checkpoints"][0]["metrics"] == {"loss": 3.0, "acc": -3.0}
    cli.main(["prune", "--json", "--yes", "--keep-latest", "2", directory])
    assert json.loads(capsys.readouterr().out)["done"] is True
    assert there(directory) == [3, 4]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep-latest", "3"], [2, 3, 4]),
        (["--keep-best", "2", "--monitor", "loss", "--mode", "min"], [2, 4]),
        (["--keep-best", "1", "--monitor", "loss", "--mode", "max"], [3, 4]),
        (["--keep-best", "1", "--monitor", "acc", "--mode", "max"], [2, 4]),
        (["--keep-every-n-steps", "3"], [3, 4]),
        (["--keep-every-n-secs", "20"], [1, 3, 4]),
        (["--steps", "1,2"], [1, 2, 4]),
        (["--keep-latest=1", "--steps=1", "--keep-every-n-steps=2"], [1, 2, 4]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_each_option_keeps_what_it_says_beside_the_newest(directory, options, left):
    assert cli.main(["prune", "--yes", *options, directory]) == 0
    assert there(directory) == left


def test_the_mode_is_that_of_the_run_where_it_is_not_said(directory):
    cli.main(["prune", "--yes", "--keep-best", "1", "--monitor", "loss", directory])
    assert there(directory) == [2, 4]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "nothing says what to keep: --keep-latest 3, say"),
        (["--yes"], "nothing says what to keep"),
        (["--keep-best", "2"], "--keep-best needs to know by which metric: --monitor val_loss"),
        (["--keep-best", "2", "--monitor", ""], "--keep-best needs to know by which metric"),
        (
            ["--keep-latest", "3", "--keep-best", "1", "--monitor", "los", "--mode", "min"],
            "no checkpoint carries 'los' (have: acc, loss).\nDid you mean 'loss'?",
        ),
        (["--keep-best", "1", "--monitor", "acc"], "which acc is the best? --mode min, or --mode max"),
        (["--keep-latest", "2", "--monitor", "loss"], "say how many to keep, --keep-best N"),
        (["--keep-latest", "2", "--mode", "min"], "say how many to keep, --keep-best N"),
        (["--keep-best", "1", "--monitor", "loss", "--mode", "least"], "invalid choice: 'least'"),
        (["--keep-latest", "0"], "--keep-latest: it takes a whole number of at least 1, got '0'"),
        (["--keep-every-n-secs", "-1"], "--keep-every-n-secs: it takes a number of seconds of more than 0, got '-1'"),
        (["--steps", ""], "--steps: it takes step numbers with commas between them, got ''"),
        (["--keep-latest", "1", "--yes", "--dry-run"], "not allowed with argument"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_wrong_usage_and_deletes_nothing(directory, capsys, options, told):
    before = files_in(directory)
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["prune", directory, *options])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ckptkit prune")
    assert told in err
    assert files_in(directory) == before


def test_it_is_refused_while_a_run_writes_and_makes_the_exit_code_one(directory, capsys):
    with open(os.path.join(directory, ".ckptkit", "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does it
        assert cli.main(["prune", "--yes", "--keep-latest", "1", directory]) == 1
    assert "is writing there" in capsys.readouterr().err
    assert there(directory) == [1, 2, 3, 4]


def test_damage_is_told_and_makes_the_exit_code_one(directory, capsys):
    flip(directory, "ckpt-4.index", 10)
    assert cli.main(["prune", "--yes", "--keep-latest", "1", directory]) == 1
    assert capsys.readouterr().err.startswith("ckpt-4 is damaged, and stays as it is: checkpoint")
    assert there(directory) == [3, 4]


def test_a_directory_without_checkpoints_makes_the_exit_code_one(tmp_path, capsys):
    assert cli.main(["prune", "--keep-best", "1", "--monitor", "x", "--mode", "min", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"no checkpoints in {tmp_path}.\n"
    assert os.listdir(tmp_path) == []


def test_the_one_that_the_last_run_went_on_from_stays(directory, capsys):
    with open(os.path.join(directory, ".ckptkit", "history.jsonl"), "w") as file:
        file.write(Event("begun", 1.0, "run", {"resumed_from": "ckpt-2"}).to_json())
    assert cli.main(["prune", "--yes", "--keep-latest", "1", directory]) == 0
    assert there(directory) == [2, 4]
    assert table(capsys.readouterr().out)[1][-1] == "resumed from"
    assert cli.main(["ls", directory]) == 0
    assert table(capsys.readouterr().out)[0][-1] == "latest 9, best loss, resumed from"


def test_what_plain_tensorflow_wrote_goes_only_where_that_is_asked_for(tmp_path, capsys):
    directory = str(tmp_path)
    for step in (1, 2):
        save_foreign(directory, f"ckpt-{step}")
    put_state(directory, ["ckpt-1", "ckpt-2"])
    assert cli.main(["prune", "--yes", "--keep-latest", "1", directory]) == 0
    assert [row[4:] for row in table(capsys.readouterr().out)] == [["stays", "of plain TensorFlow"]] * 2
    assert cli.main(["prune", "--yes", "--foreign", "--keep-latest", "1", directory]) == 0
    assert there(directory) == [2]
