"""``ckptkit ls``: what is there, for people and for programs, without TensorFlow and without touching anything."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys

import pytest

from ckptkit import cli
from ckptkit.checksums import crc32c
from ckptkit.records import Manifest
from ckptkit.state_file import StateFile
from ckptkit.store import Store

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli.time, "time", lambda: NOW)


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "run")


def save(directory, step, *, size_bytes=10, age=0.0, **facts):
    store, name = Store(directory, durable=False), f"ckpt-{step}"
    lock = store.lock()
    pending = store.begin(name)
    with open(pending.prefix + ".data-00000-of-00001", "wb") as data:
        data.truncate(size_bytes - 1)
    with open(pending.prefix + ".index", "wb") as index:
        index.write(b"i")
    facts = {"sequence": step, "run_id": "run", **facts}
    checksum, files = crc32c(b"i"), store.sizes(pending)
    store.commit(pending, Manifest(name, step, created_at=NOW - age, files=files, index_crc32c=checksum, **facts))
    lock.release()


def save_foreign(directory, step):
    os.makedirs(directory, exist_ok=True)
    for end in ("index", "data-00000-of-00001"):
        with open(os.path.join(directory, f"ckpt-{step}.{end}"), "wb") as file:
            file.write(b"tf")


def damage(directory, step):
    with open(os.path.join(directory, f"ckpt-{step}.index"), "ab") as file:
        file.write(b"more")


def rows(capsys):
    """The cells of the table that was printed, a list a checkpoint."""
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_ls_prints_a_line_for_each_checkpoint_oldest_first(directory, capsys):
    save(
        directory,
        800,
        epoch=1,
        batch=0,
        metrics={"loss": 0.51234567, "val_loss": 0.6},
        age=7200.0,
        size_bytes=2_500_000,
    )
    save(directory, 1200, epoch=1, batch=400, age=5.0, size_bytes=999)
    assert cli.main(["ls", directory]) == 0
    assert rows(capsys) == [
        ["ckpt-800", "800", "1", "2 h", "2.5 MB", "loss 0.5123  val_loss 0.6"],
        ["ckpt-1200 (latest)", "1200", "1 + 400 batches", "5 s", "999 B", ""],
    ]


def test_ls_heads_its_table(directory, capsys):
    save(directory, 1)
    cli.main(["ls", directory])
    assert capsys.readouterr().out.splitlines()[1].replace("┃", " ").split() == [
        "checkpoint",
        "step",
        "epoch",
        "age",
        "size",
        "metrics",
    ]


@pytest.mark.parametrize(
    ("secs", "told"),
    [
        (-5.0, "0 s"),
        (0.0, "0 s"),
        (59.0, "59 s"),
        (60.0, "1 min"),
        (3599.0, "60 min"),
        (3600.0, "1 h"),
        (864e3, "10 d"),
    ],
)
def test_an_age_is_told_in_the_largest_unit_that_fits(directory, capsys, secs, told):
    save(directory, 1, age=secs)
    cli.main(["ls", directory])
    assert rows(capsys)[0][3] == told


@pytest.mark.parametrize(
    ("size_bytes", "told"), [(1, "1 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (5_000_000, "5 MB")]
)
def test_a_size_is_told_in_the_largest_unit_that_fits(directory, capsys, size_bytes, told):
    save(directory, 1, size_bytes=size_bytes)
    cli.main(["ls", directory])
    assert rows(capsys)[0][4] == told


def test_a_checkpoint_that_plain_tensorflow_wrote_is_told_to_be_unverified(directory, capsys):
    save_foreign(directory, 3)
    assert cli.main(["ls", directory]) == 0
    assert rows(capsys)[0][0::5] == ["ckpt-3 (latest)", "written by plain TensorFlow, unverified"]


def test_a_name_is_printed_as_it_is_whatever_is_in_it(directory, capsys):
    save(directory, 1, metrics={"recall[cat]": 0.5, "[bold]": 1.0})
    assert cli.main(["ls", directory]) == 0
    assert rows(capsys)[0][5] == "recall[cat] 0.5  [bold] 1"


def test_what_would_move_the_cursor_or_cannot_be_printed_is_written_out(directory, capsys):
    for name in (b"\x1b[2Ja", b"b\nb", b"\xff\xfe"):
        for end in (b".index", b".data-00000-of-00001"):
            os.makedirs(directory, exist_ok=True)
            with open(os.path.join(os.fsencode(directory), name + end), "wb") as file:
                file.write(b"tf")
    assert cli.main(["ls", directory]) == 0
    told = {row[0].removesuffix(" (latest)") for row in rows(capsys)}
    assert told == {"\\x1b[2Ja", "b\\nb", "\\udcff\\udcfe"}


def test_a_time_without_end_is_told_and_is_no_broken_json(directory, capsys):
    save_foreign(directory, 3)
    with open(os.path.join(directory, "checkpoint"), "w") as file:
        file.write(StateFile("ckpt-3", ("ckpt-3",), (-math.inf,)).to_text())
    assert cli.main(["ls", directory]) == 0
    assert rows(capsys)[0][3] == "inf d"
    assert cli.main(["ls", "--json", directory]) == 0
    assert json.loads(capsys.readouterr().out)[0]["created_at"] == "-Infinity"


def test_a_metric_that_is_no_number_is_told_so(directory, capsys):
    save(directory, 1, metrics={"loss": math.nan})
    cli.main(["ls", directory])
    assert rows(capsys)[0][5] == "loss nan"


# For programs ------------------------------------------------------------------------------------------------------


def test_json_holds_everything_that_is_known_of_each_checkpoint(directory, capsys):
    save(directory, 7, epoch=1, batch=2, metrics={"loss": 0.5}, age=60.0)
    assert cli.main(["ls", "--json", directory]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "prefix": os.path.join(directory, "ckpt-7"),
            "step": 7,
            "epoch": 1,
            "batch": 2,
            "metrics": {"loss": 0.5},
            "created_at": NOW - 60.0,
            "size_bytes": 10,
            "sequence": 7,
            "foreign": False,
            "run_id": "run",
        }
    ]


def test_json_is_json_even_where_a_metric_is_not_a_number(directory, capsys):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    save(directory, 7, metrics={"loss": math.nan, "top": math.inf})
    assert cli.main(["ls", "--json", directory]) == 0
    json.loads(capsys.readouterr().out, parse_constant=refuse)


# Problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_damage_is_told_beside_what_is_good_and_makes_the_exit_code_one(directory, capsys, options):
    save(directory, 1)
    save(directory, 2)
    damage(directory, 2)
    assert cli.main(["ls", directory, *options]) == 1
    out, err = capsys.readouterr()
    assert err == "ckpt-2 is damaged: ckpt-2.index has 5 bytes, manifest says 1\n"
    assert "ckpt-1" in out
    assert "ckpt-2" not in out


def test_a_directory_with_nothing_but_damage_has_no_table(directory, capsys):
    save(directory, 1)
    damage(directory, 1)
    assert cli.main(["ls", directory]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ckpt-1 is damaged: ")


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "not there"])
def test_a_directory_without_checkpoints_is_told_and_makes_the_exit_code_one(directory, capsys, exists):
    if exists:
        os.mkdir(directory)
    assert cli.main(["ls", directory]) == 1
    assert capsys.readouterr() == ("", f"no checkpoints in {directory}\n")
    assert os.path.exists(directory) is exists


def test_json_of_a_directory_without_checkpoints_is_an_empty_list(directory, capsys):
    assert cli.main(["ls", directory, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_a_file_in_place_of_a_directory_is_told_without_a_traceback(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["ls", str(tmp_path / "file")]) != 0
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["ls"], "the following arguments are required: DIR"),
        (["list", "runs"], "invalid choice: 'list'"),
        (["ls", "runs", "more"], "unrecognized arguments: more"),
        (["ls", "runs", "--yaml"], "unrecognized arguments: --yaml"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_and_makes_the_exit_code_two(capsys, arguments, message):
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: ckptkit")
    assert message in err


def test_help_ends_with_an_example(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["ls", "--help"])
    assert capsys.readouterr().out.endswith("example: ckptkit ls runs/digits\n")


# The process -------------------------------------------------------------------------------------------------------


def test_ls_leaves_the_directory_as_it_was(directory, capsys):
    save(directory, 1)
    with open(os.path.join(directory, "checkpoint"), "w") as file:
        file.write(StateFile("ckpt-1", ("ckpt-1",), (1.0,)).to_text())
    os.unlink(os.path.join(directory, ".ckptkit", "lock"))
    os.rmdir(os.path.join(directory, ".ckptkit"))
    before = {entry.name: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in os.scandir(directory)}
    cli.main(["ls", directory])
    assert {e.name: (e.stat().st_mtime_ns, e.stat().st_size) for e in os.scandir(directory)} == before


def test_ls_starts_and_ends_without_tensorflow(directory):
    save(directory, 1)
    script = """
import sys
from ckptkit.cli import main
code = main(sys.argv[1:])
heavy = {name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "numpy", "h5py"}
print(f"exit code {code}, brought in {sorted(heavy)}")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, "ls", directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "exit code 0, brought in []"
    assert "ckpt-1 (latest)" in done.stdout


def test_python_m_ckptkit_is_ckptkit(directory, capsys, monkeypatch):
    save(directory, 1)
    monkeypatch.setattr(sys, "argv", ["ckptkit", "ls", directory])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("ckptkit", run_name="__main__")
    assert rows(capsys)[0][0] == "ckpt-1 (latest)"
