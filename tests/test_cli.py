"""The command line, for people and for programs, without TensorFlow.

What a verification finds and a repair does is in test_verifying.py and test_repairing.py.
"""

from __future__ import annotations

import fcntl
import glob
import json
import math
import os
import runpy
import subprocess
import sys

import pytest

from ckptkit import cli, progress, readable
from ckptkit.checksums import crc32c
from ckptkit.records import Manifest
from ckptkit.state_file import StateFile
from ckptkit.store import Store
from tests import checkpoint_dirs
from tests.conftest import ROOT
from tests.screen import Screen

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("time.time", lambda: NOW)


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
        ["ckpt-800", "800", "1", "2 h", "2.5 MB", "loss 0.5123  val_loss 0.6", "unknown"],
        ["ckpt-1200 (latest)", "1200", "1 + 400 batches", "5 s", "999 B", "", "unknown"],
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
        "kept",
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
    row = rows(capsys)[0]
    assert (row[0], *row[5:]) == ("ckpt-3 (latest)", "written by plain TensorFlow, unverified", "unknown")


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
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["created_at"] == "-Infinity"


def test_the_best_is_marked_and_why_each_is_kept_is_told(directory, capsys):
    config = {"training_checkpoint": {"max_to_keep": 1, "monitor": "loss", "mode": "min", "preservation_policy": None}}
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
        save(directory, step, metrics={"loss": loss}, config=config)
    assert cli.main(["ls", directory]) == 0
    assert [(row[0], row[-1]) for row in rows(capsys)] == [
        ("ckpt-1", "no more: the next save deletes it"),
        ("ckpt-2 (best)", "best loss"),
        ("ckpt-3 (latest)", "latest 1"),
    ]
    cli.main(["ls", "--json", directory])
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(each["is_best"], each["is_latest"], each["kept"]) for each in found] == [
        (False, False, []),
        (True, False, ["best loss"]),
        (False, True, ["latest 1"]),
    ]


def test_what_is_no_terminal_gets_a_row_a_line_however_long(directory, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    save(directory, 1, metrics={f"metric_{at}": 0.5 for at in range(60)})
    assert cli.main(["ls", directory]) == 0
    (row,) = rows(capsys)
    assert row[5].count("metric_") == 60


def test_a_metric_that_is_no_number_is_told_so(directory, capsys):
    save(directory, 1, metrics={"loss": math.nan})
    cli.main(["ls", directory])
    assert rows(capsys)[0][5] == "loss nan"


# For programs ------------------------------------------------------------------------------------------------------


def test_json_holds_everything_that_is_known_of_each_checkpoint(directory, capsys):
    facts = {"best": {"loss": 0.25}, "config": {"max_to_keep": 3}, "found_damaged": {"ckpt-5": 2}}
    save(directory, 7, epoch=1, batch=2, metrics={"loss": 0.5}, age=60.0, **facts)
    assert cli.main(["ls", "--json", directory]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["damaged"] == {}
    assert found["checkpoints"] == [
        {
            "name": "ckpt-7",
            "is_latest": True,
            "is_best": False,
            "kept": ["unknown"],
            "prefix": os.path.join(directory, "ckpt-7"),
            "step": 7,
            "epoch": 1,
            "batch": 2,
            "metrics": {"loss": 0.5},
            **facts,
            "workers": 1,
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

    save(directory, 7, metrics={"loss": math.nan, "top": math.inf}, best={"top": math.inf})
    assert cli.main(["ls", "--json", directory]) == 0
    json.loads(capsys.readouterr().out, parse_constant=refuse)


# As it goes on -----------------------------------------------------------------------------------------------------


def follow(monkeypatch, *steps):
    """Let each look of ``ls --follow`` be followed by what a step does; after the last one a person has seen enough."""
    todo = list(steps)

    def sleep(secs):
        assert secs == 5.0
        if not todo:
            raise KeyboardInterrupt
        todo.pop(0)()

    monkeypatch.setattr("ckptkit.cli.ls.time.sleep", sleep)


def test_follow_prints_a_line_for_each_change_and_ends_with_ctrl_c(directory, capsys, monkeypatch):
    save(directory, 1, epoch=2, metrics={"loss": 0.5})
    store = Store(directory)
    follow(
        monkeypatch,
        lambda: None,
        lambda: save(directory, 2),
        lambda: store.delete(*store.scan().records[:1]),
        lambda: damage(directory, 2),
    )
    assert cli.main(["ls", "--follow", "--interval", "5", directory]) == 0
    assert capsys.readouterr() == (
        "ckpt-1: step 1, epoch 2, 0 s old, 10 B, loss 0.5, kept: unknown\n"
        "ckpt-2: step 2, 0 s old, 10 B, kept: unknown\n"
        "ckpt-1: gone\n"
        "ckpt-2 is damaged: ckpt-2.index has 5 bytes, manifest says 1\n",
        "",
    )


def test_follow_prints_json_a_line_a_change(directory, capsys, monkeypatch):
    store = Store(directory)
    follow(
        monkeypatch,
        lambda: save(directory, 1, metrics={"loss": math.nan}),
        lambda: save(directory, 2),
        lambda: store.delete(*store.scan().records[:1]),
        lambda: damage(directory, 2),
    )
    assert cli.main(["ls", "--follow", "--json", "--interval", "5", directory]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["event"], each["name"]) for each in lines] == [
        ("saved", "ckpt-1"),
        ("saved", "ckpt-2"),
        ("gone", "ckpt-1"),
        ("damaged", "ckpt-2"),
    ]
    assert lines[0]["metrics"] == {"loss": "NaN"}
    assert lines[3]["reason"] == "ckpt-2.index has 5 bytes, manifest says 1"


def test_follow_tells_a_checkpoint_that_was_saved_again(directory, capsys, monkeypatch):
    save(directory, 1)
    follow(monkeypatch, lambda: save(directory, 1, size_bytes=20, sequence=2))
    cli.main(["ls", "--follow", "--interval", "5", directory])
    assert [line.split(", ")[2] for line in capsys.readouterr().out.splitlines()] == ["10 B", "20 B"]


def test_follow_shows_one_table_on_a_terminal_and_ends_with_ctrl_c(directory, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    follow(monkeypatch, lambda: save(directory, 1), lambda: damage(directory, 1))
    with Screen("stdout") as screen:
        code = cli.main(["ls", "--follow", "--interval", "5", directory])
    shown = screen.text
    assert code == 0
    assert shown.index("no checkpoints in") < shown.index("ckpt-1 (latest)") < shown.index("ckpt-1 is damaged: ")
    assert "\x1b[1A\x1b[2K" in shown  # up again, over what was there


# Problems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_damage_is_told_beside_what_is_good_and_makes_the_exit_code_one(directory, capsys, options):
    save(directory, 1)
    save(directory, 2)
    damage(directory, 2)
    assert cli.main(["ls", directory, *options]) == 1
    out, err = capsys.readouterr()
    assert err == "ckpt-2 is damaged: ckpt-2.index has 5 bytes, manifest says 1\n"
    if options:
        found = json.loads(out)
        assert [each["name"] for each in found["checkpoints"]] == ["ckpt-1"]
        assert found["damaged"] == {"ckpt-2": "ckpt-2.index has 5 bytes, manifest says 1"}
    else:
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


def test_json_of_a_directory_without_checkpoints_is_json_as_well(directory, capsys):
    assert cli.main(["ls", directory, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"checkpoints": [], "damaged": {}}


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
        (["ls", "runs", "--yaml"], "unrecognized arguments: --yaml\n"),
        (["lst", "runs"], "Did you mean 'ls'?"),
        (["verify", "runs", "--dep"], "unrecognized arguments: --dep\nDid you mean '--deep'?"),
        (["prune", "runs", "--keep-last=3"], "Did you mean '--keep-latest'?"),
        (["repair", "runs", "--y"], "unrecognized arguments: --y\n"),
        (["ls", "runs", "--fol"], "unrecognized arguments: --fol\n"),
        (["prune", "runs", "--mode", "mn"], "invalid choice: 'mn' (choose from 'min', 'max')\nDid you mean 'min'?"),
        (["ls", "runs", "--\x1b[2J"], "unrecognized arguments: --\\x1b[2J"),
        (["ls", "runs", "--interval", "0"], "--interval: it takes a number of seconds of more than 0, got '0'"),
        (["ls", "runs", "--interval", "soon"], "--interval: it takes a number of seconds of more than 0, got 'soon'"),
        (["ls", "runs", "--interval", "nan"], "it takes a number of seconds of more than 0, got 'nan'"),
        (["diff", "a", "b", "--limit", "0"], "--limit: it takes a whole number of at least 1, got '0'"),
        (["diff", "a", "b", "--limit", "-3"], "--limit: it takes a whole number of at least 1, got '-3'"),
        (["prune", "runs", "--steps", "1,b"], "--steps: it takes step numbers with commas between them, got '1,b'"),
        (["verify"], "the following arguments are required: DIR"),
        (["repair", "runs", "more"], "unrecognized arguments: more"),
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
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("ls", "ckptkit ls runs/digits"),
        ("show", "ckptkit show --tensors 'dense*' runs/digits/ckpt-1200"),
        ("diff", "ckptkit diff runs/digits/ckpt-800 runs/digits/ckpt-1200"),
        ("prune", "ckptkit prune --keep-latest 3 --keep-best 2 --monitor val_loss --mode min runs/digits"),
        ("export", "ckptkit export runs/digits --which best --model my_module:build_model -o export/digits.keras"),
        ("verify", "ckptkit verify --deep runs/digits/ckpt-1200"),
        ("repair", "ckptkit repair --yes runs/digits"),
    ],
)
def test_help_ends_with_an_example(capsys, command, example):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([command, "--help"])
    assert f"example: {example}" in capsys.readouterr().out


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--help"])
    assert "exit codes: 0 fine, 1 problems found, 2 wrong usage; example: ckptkit ls" in capsys.readouterr().out


# verify ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(directory):
    """A directory of two checkpoints with tensors in them."""
    for step in (1, 2):
        checkpoint_dirs.save(directory, step)
    checkpoint_dirs.put_state(directory, ["ckpt-1", "ckpt-2"])
    return directory


SHARD = "ckpt-2.data-00000-of-00001"


def size_of(directory, name):
    return sum(os.path.getsize(path) for path in glob.glob(os.path.join(directory, f"{name}.*")))


def test_verify_prints_a_line_for_each_checkpoint(real, capsys):
    assert cli.main(["verify", "--deep", real]) == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        [name, "ok", *readable.size_text(size_of(real, name)).split(), "read"] for name in ("ckpt-1", "ckpt-2")
    ]
    assert err == ""


def test_verify_tells_damage_on_its_line_and_makes_the_exit_code_one(real, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    checkpoint_dirs.flip(real, SHARD, 40)
    assert cli.main(["verify", real]) == 0
    capsys.readouterr()
    assert cli.main(["verify", "--deep", real]) == 1
    good, bad = capsys.readouterr().out.splitlines()
    assert good.split()[1] == "ok"
    assert bad.startswith("ckpt-2  damaged")
    assert f"read {SHARD} is damaged: tensor 'kernel' has checksum 0x" in " ".join(bad.split())


@pytest.mark.parametrize(("step", "code"), [(1, 0), (2, 1)])
def test_verify_takes_one_checkpoint(real, capsys, monkeypatch, step, code):
    os.unlink(os.path.join(real, SHARD))
    monkeypatch.chdir(real)
    for prefix in (os.path.join(real, f"ckpt-{step}"), f"ckpt-{step}"):
        assert cli.main(["verify", prefix]) == code
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"ckpt-{step}  ")


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_verify_of_something_that_is_not_there_makes_the_exit_code_one(real, capsys, options):
    assert cli.main(["verify", os.path.join(real, "ckpt-9"), *options]) == 1
    assert capsys.readouterr().err == f"no checkpoint {os.path.join(real, 'ckpt-9')}\n"
    os.mkdir(os.path.join(real, "empty"))
    assert cli.main(["verify", os.path.join(real, "empty") + "/", *options]) == 1
    assert capsys.readouterr().err == f"no checkpoints in {os.path.join(real, 'empty')}\n"


def test_verify_tells_litter_beside_the_checkpoints_and_not_as_damage(real, capsys):
    checkpoint_dirs.write(real, "ckpt-9.index", b"left")
    assert cli.main(["verify", real]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "note: ckpt-9 is no checkpoint: 0 of its shards are there\n"


def test_verify_prints_json_for_programs(real, capsys):
    checkpoint_dirs.write(real, "ckpt-9.index", b"left")
    checkpoint_dirs.write(real, SHARD, b"cut")
    assert cli.main(["verify", "--json", real]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert [row["state"] for row in found["checkpoints"]] == ["ok", "damaged"]
    assert found["checkpoints"][1] == {
        "name": "ckpt-2",
        "state": "damaged",
        "reason": f"{SHARD} has 3 bytes, manifest says 1246",
        "bytes_read": 0,
    }
    assert found["notes"] == ["ckpt-9 is no checkpoint: 0 of its shards are there"]


@pytest.mark.parametrize("command", ["ls", "verify", "repair"])
def test_a_name_of_a_sound_checkpoint_is_shown_as_text(directory, capsys, command):
    name = "[bold]\n\x1b[2J-1"
    checkpoint_dirs.save(directory, 1, stem=name.removesuffix("-1"))
    cli.main([command, directory])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert (r"[bold]\n\x1b[2J-1" in out) is (command != "repair")


@pytest.mark.parametrize("command", ["ls", "verify", "repair"])
def test_a_name_that_would_do_something_to_a_terminal_is_shown_as_text(directory, capsys, command):
    name = "[bold]\n\x1b[2J-1"
    checkpoint_dirs.save(directory, 1, stem=name.removesuffix("-1"))
    checkpoint_dirs.save(directory, 2)
    checkpoint_dirs.put_state(directory, [name, "ckpt-2"])
    os.unlink(os.path.join(directory, name + ".index"))
    assert cli.main([command, directory]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert r"[bold]\n\x1b[2J-1" in out + err
    assert len((out + err).splitlines()) == {"ls": 6, "verify": 2, "repair": 3}[command]


def test_colours_are_for_terminals_alone(real, capsys, monkeypatch):
    cli.main(["verify", real])
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    cli.main(["verify", real])
    assert "\x1b[32mok" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["verify", "--deep"], ["repair", "--deep"]], ids=" ".join)
def test_a_deep_look_at_what_is_large_shows_a_bar_where_somebody_looks_on(real, capsys, monkeypatch, command):
    monkeypatch.setattr(progress, "_WORTH_A_BAR", 0)
    monkeypatch.setenv("TERM", "xterm")
    with Screen() as screen:
        assert cli.main([*command, real]) == 0
    assert "verifying ckpt-2" in screen.text
    assert "\x1b" not in capsys.readouterr().out
    assert cli.main([*command, real]) == 0
    assert capsys.readouterr().err == ""


# repair ------------------------------------------------------------------------------------------------------------


def test_repair_says_what_it_would_do_and_does_it_when_told_so(real, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    checkpoint_dirs.write(real, SHARD, b"cut")
    before = checkpoint_dirs.files_in(real)
    assert cli.main(["repair", real]) == 1
    assert capsys.readouterr() == (
        "would rewrite checkpoint: it names ckpt-2, which is damaged\n"
        f"would move ckpt-2 to .ckptkit/damaged-ckpt-2: {SHARD} has 3 bytes, manifest says 1246\n",
        "nothing was changed: --yes does it\n",
    )
    assert checkpoint_dirs.files_in(real) == before
    assert cli.main(["repair", "--yes", real]) == 0
    assert capsys.readouterr() == (
        "rewrote checkpoint: it names ckpt-2, which is damaged\n"
        f"moved ckpt-2 to .ckptkit/damaged-ckpt-2: {SHARD} has 3 bytes, manifest says 1246\n",
        "",
    )
    assert cli.main(["repair", "--yes", real + "/"]) == 0
    assert capsys.readouterr().out == f"nothing to do in {real}/\n"
    assert cli.main(["verify", "--deep", real]) == 0


def test_repair_reads_tensors_when_told_so(real, capsys):
    checkpoint_dirs.flip(real, SHARD, 40)
    assert cli.main(["repair", real]) == 0
    assert cli.main(["repair", "--deep", real]) == 1
    assert "would move ckpt-2 to .ckptkit/damaged-ckpt-2" in capsys.readouterr().out


def test_repair_prints_json_for_programs(real, capsys):
    os.unlink(os.path.join(real, "checkpoint"))
    action = {"verb": "rewrite", "what": "checkpoint", "why": "it is missing", "to": ""}
    assert cli.main(["repair", "--json", real]) == 1
    assert json.loads(capsys.readouterr().out) == {"done": False, "actions": [action], "left": []}
    assert cli.main(["repair", "--json", "--yes", real]) == 0
    assert json.loads(capsys.readouterr().out) == {"done": True, "actions": [action], "left": []}


def test_repair_tells_what_stays_wrong_and_makes_the_exit_code_one(real, capsys):
    for step in (1, 2):
        os.unlink(os.path.join(real, f"ckpt-{step}.index"))
    assert cli.main(["repair", "--yes", real]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "ckpt-1 is damaged: ckpt-1.index is missing"
    assert err.splitlines()[-1].startswith("no checkpoint verifies, so nothing is moved")


def test_repair_is_refused_while_a_run_writes_and_makes_the_exit_code_one(real, capsys):
    with open(os.path.join(real, ".ckptkit", "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does it
        assert cli.main(["repair", "--yes", real]) == 1
    assert "is writing there" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--yes"]], ids=["dry", "done"])
def test_repair_of_a_directory_without_checkpoints_makes_the_exit_code_one(directory, capsys, options):
    assert cli.main(["repair", *options, directory]) == 1
    assert capsys.readouterr().err == f"no checkpoints in {directory}.\n"
    assert not os.path.exists(directory)


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_a_file_in_place_of_a_directory_is_told_by_every_command(tmp_path, capsys, command):
    (tmp_path / "file").touch()
    assert cli.main([command, str(tmp_path / "file")]) != 0
    assert str(tmp_path / "file") in capsys.readouterr().err


# The process -------------------------------------------------------------------------------------------------------


def test_no_color_is_respected(real, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    cli.main(["verify", real])
    assert "\x1b[32m" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["show"], ["show", "--tensors", "*"], ["prune", "--keep-latest", "1"]])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_names_do_nothing_to_a_terminal_whatever_is_printed(directory, capsys, arguments, options):
    name = "[bold]\n\x1b[2J-1"
    config = {"checkpoint_manager": {"note": "\x1b[2J\n\x9b\u202e"}, "\x1b": {}}
    checkpoint_dirs.save(directory, 1, stem=name.removesuffix("-1"), metrics={"\x1b[2J": 1.0}, config=config)
    assert cli.main([*arguments, *options, directory]) == 0
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x9b", "\u202e"} & set(out + err)


def test_ctrl_c_ends_a_command_without_a_traceback(real, capsys, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("ckptkit.listing.DirectoryReader.scan", interrupt)
    assert cli.main(["ls", real]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["show"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_gets_no_traceback(real, arguments):
    command = [sys.executable, "-m", "ckptkit", *arguments, real]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, env=environment, cwd=ROOT
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_ls_leaves_the_directory_as_it_was(directory, capsys):
    save(directory, 1)
    with open(os.path.join(directory, "checkpoint"), "w") as file:
        file.write(StateFile("ckpt-1", ("ckpt-1",), (1.0,)).to_text())
    os.unlink(os.path.join(directory, ".ckptkit", "lock"))
    os.rmdir(os.path.join(directory, ".ckptkit"))
    before = {entry.name: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in os.scandir(directory)}
    cli.main(["ls", directory])
    assert {e.name: (e.stat().st_mtime_ns, e.stat().st_size) for e in os.scandir(directory)} == before


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["ls"], []),
        (["verify"], []),
        (["repair"], []),
        (["prune", "--dry-run", "--keep-latest", "2"], []),
        (["prune", "--yes", "--keep-latest", "2"], []),
        (["show"], ["numpy"]),
        (["show", "--tensors", "*"], ["numpy"]),
        (["diff", "ckpt-1"], ["numpy"]),
        (["verify", "--deep"], ["numpy"]),
        (["repair", "--deep", "--yes"], ["numpy"]),
    ],
    ids=" ".join,
)
def test_a_command_starts_and_ends_without_tensorflow(real, arguments, heavy):
    script = """
import sys
from ckptkit.cli import main
code = main(sys.argv[1:])
heavy = {name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "numpy", "h5py"}
print(f"exit code {code}, brought in {sorted(heavy)}")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments, real],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=real,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == f"exit code {int(arguments[0] == 'diff')}, brought in {heavy}"
    assert arguments[0] in ("repair", "show", "diff") or "ckpt-1" in done.stdout


def test_python_m_ckptkit_is_ckptkit(directory, capsys, monkeypatch):
    save(directory, 1)
    monkeypatch.setattr(sys, "argv", ["ckptkit", "ls", directory])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("ckptkit", run_name="__main__")
    assert rows(capsys)[0][0] == "ckpt-1 (latest)"
