"""history: what has happened in a directory, an event a line, whatever becomes of the process that writes it."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from ckptkit import history
from ckptkit.history import Event, History, read


@pytest.fixture
def directory(tmp_path):
    (tmp_path / ".ckptkit").mkdir()
    return str(tmp_path)


def kinds(directory):
    return [event.kind for event in read(directory)]


def path_of(directory):
    return os.path.join(directory, ".ckptkit", "history.jsonl")


def test_what_is_noted_is_read_again(directory):
    writer = History(directory)
    writer.begin(step=0, resumed_from=None)
    writer.note("saved", name="ckpt-10", step=10, metrics={"loss": math.nan, "accuracy": 0.5})
    writer.end()
    begun, saved, ended = read(directory)
    assert (begun.kind, begun.facts["step"], begun.facts["pid"]) == ("begun", 0, os.getpid())
    assert math.isnan(saved.facts["metrics"]["loss"])
    assert saved.facts["metrics"]["accuracy"] == 0.5
    assert (ended.kind, ended.facts) == ("ended", {"step": 10})
    assert len({event.run for event in (begun, saved, ended)}) == 1
    assert begun.at <= saved.at <= ended.at
    with open(path_of(directory)) as file:
        lines = file.readlines()
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no strict JSON"))


def test_nothing_is_noted_outside_of_a_turn_and_each_turn_has_a_name(directory):
    writer = History(directory)
    writer.note("saved", step=1)
    writer.end()
    assert kinds(directory) == []
    for _ in range(2):
        writer.begin(step=1)
        writer.begin(step=2)
        writer.end()
        writer.note("restored", step=1)
        writer.end()
    assert kinds(directory) == ["begun", "ended"] * 2
    assert len({event.run for event in read(directory)}) == 2


def test_a_command_leaves_an_event_that_belongs_to_no_turn(directory):
    writer = History(directory)
    writer.remark("pruned", names=["ckpt-1"])
    [event] = read(directory)
    assert (event.kind, event.run, event.facts) == ("pruned", "", {"names": ["ckpt-1"]})


def test_who_looks_for_the_last_event_of_a_kind_parses_no_more_than_what_came_after_it(directory, monkeypatch):
    writer = History(directory)
    writer.begin(step=0)
    for step in range(9):
        writer.note("measured", step=step)
    parsed, parse = [], Event.from_json
    monkeypatch.setattr(Event, "from_json", lambda line: parsed.append(line) or parse(line))
    newest = history.newest_first(directory)
    assert [next(newest).facts["step"] for _ in range(2)] == [8, 7]
    assert len(parsed) == 2


def test_what_happens_before_there_is_a_folder_is_written_when_it_is_there(tmp_path):
    writer = History(str(tmp_path / "run"))
    writer.begin(step=0)
    writer.note("measured", step=5)
    assert read(str(tmp_path / "run")) == ()
    (tmp_path / "run" / ".ckptkit").mkdir(parents=True)
    writer.note("saved", step=9)
    assert kinds(str(tmp_path / "run")) == ["begun", "measured", "saved"]


def test_of_what_waits_for_a_folder_the_newest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_MOST_WAITING", 3)
    writer = History(str(tmp_path))
    writer.begin(step=0)
    for step in range(9):
        writer.note("measured", step=step)
    (tmp_path / ".ckptkit").mkdir()
    writer.end()
    assert [event.facts["step"] for event in read(str(tmp_path))] == [7, 8, 8]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[1]",
        b'"saved"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"at": 1, "run": "a"}',
        b'{"event": "saved", "run": "a"}',
        b'{"event": 1, "at": 1, "run": "a"}',
        b'{"event": "saved", "at": NaN, "run": "a"}',
        b'{"event": "saved", "at": [], "run": "a"}',
        b'{"event": "saved", "at": 1, "run": null}',
        b'{"event": "saved", "at": 1, "run": "a", "metrics": {"loss": "low"}}',
        b'{"event": "saved", "at": 1, "run": "a", "metrics": [1]}',
        b'{"event": "saved", "at": 1, "run": "a", "metrics": {"loss": [1]}}',
    ],
)
def test_a_line_that_is_no_event_is_passed_over(directory, line):
    writer = History(directory)
    writer.begin(step=0)
    with open(path_of(directory), "ab") as file:
        file.write(line + b"\n")
    writer.end()
    assert kinds(directory) == ["begun", "ended"]


def test_an_event_says_what_is_wrong_with_it():
    with pytest.raises(ValueError, match="no event: KeyError\\('event'\\)"):
        Event.from_json('{"at": 1}')
    with pytest.raises(ValueError, match="no event: kind, time or run is of a wrong type"):
        Event.from_json('{"event": null, "at": 1, "run": "a"}')


def test_a_kind_that_nobody_knows_yet_is_read(directory):
    with open(path_of(directory), "w") as file:
        file.write('{"event": "moved", "at": 1.5, "run": "a", "to": "elsewhere"}\n')
    assert read(directory) == (Event("moved", 1.5, "a", {"to": "elsewhere"}),)


def test_a_torn_line_takes_no_other_with_it(directory):
    writer = History(directory)
    writer.begin(step=0)
    with open(path_of(directory), "a") as file:
        file.write('{"event": "sav')
    after = History(directory)
    after.begin(step=7)
    after.end()
    assert kinds(directory) == ["begun", "begun", "ended"]


def test_a_line_that_a_full_disk_cut_takes_no_other_with_it(directory, monkeypatch):
    writer = History(directory)
    writer.begin(step=0)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: write(file, content[:20]))
        writer.note("saved", step=1)
    writer.note("saved", step=2)
    assert [event.facts["step"] for event in read(directory)] == [0, 2]


def test_a_step_may_be_any_number_and_a_fact_anything(directory):
    writer = History(directory)
    writer.begin(step=np.int64(3))
    writer.note("skipped", step=np.float32(4.5), why=KeyError("x"))
    assert [event.facts["step"] for event in read(directory)] == [3, 4.5]
    assert read(directory)[1].facts["why"] == "'x'"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "denied")])
def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(directory, monkeypatch, error):
    close = os.close

    def refuse(*_):
        raise error

    def close_and_refuse(file):
        close(file)
        raise error

    writer = History(directory)
    writer.begin(step=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close_and_refuse)
        writer.note("saved", step=1)
    for name in ("write", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            writer.note("saved", step=1)
    writer.end()
    assert kinds(directory) == ["begun", "saved", "ended"]


def test_a_link_in_its_place_is_not_followed(directory, tmp_path):
    (tmp_path / "mine").write_text("mine")
    os.symlink(tmp_path / "mine", path_of(directory))
    writer = History(directory)
    writer.begin(step=0)
    writer.end()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_long_history_loses_its_older_half(directory, monkeypatch):
    monkeypatch.setattr(history, "_MOST_BYTES", 4000)
    writer = History(directory)
    writer.begin(step=0)
    for step in range(100):
        writer.note("measured", step=step)
    writer.end()
    again = History(directory)
    again.begin(step=100)
    assert os.path.getsize(path_of(directory)) < 3000
    with open(path_of(directory)) as file:
        assert all(map(json.loads, file))  # no half of a line is left
    steps = [event.facts["step"] for event in read(directory)]
    assert steps[-1] == 100
    assert steps[:-2] == [*range(steps[0], 100)]
    assert os.listdir(os.path.dirname(path_of(directory))) == ["history.jsonl"]


def test_who_listens_hears_every_event_and_stops_nothing(directory, caplog):
    heard = []

    def listen(event):
        heard.append(event)
        raise ValueError("deaf")

    writer = History(directory)
    writer.listen(listen)
    writer.begin(step=0)
    writer.end()
    assert heard == list(read(directory))
    assert [record.message for record in caplog.records] == [
        f"'{kind}' of {directory} could not be passed on." for kind in ("begun", "ended")
    ]


_SCRIPT = """
import os, sys, weakref
from ckptkit.history import History
class Owner: pass
owner, history = Owner(), History(sys.argv[1])
weakref.finalize(owner, history.end_with_process)
history.begin(step=3)
{}
"""


@pytest.mark.parametrize(
    ("ending", "last"),
    [
        ("", {"step": 3, "error": None}),
        ("sys.exit(3)", {"step": 3, "error": None}),
        ("raise KeyError('x')", {"step": 3, "error": "KeyError"}),
        ("history.end(error=None)", {"step": 3, "error": None}),
        ("if os.fork() == 0: sys.exit(0)\nos.wait(); history.note('saved', step=5)", {"step": 5, "error": None}),
        ("os._exit(1)", None),
    ],
    ids=["normal", "exit", "error", "ended", "forked", "killed"],
)
def test_a_process_that_ends_says_so_and_one_that_is_killed_cannot(directory, ending, last):
    subprocess.run([sys.executable, "-c", _SCRIPT.format(ending), directory], stderr=subprocess.DEVNULL)
    facts = [event.facts for event in read(directory) if event.kind == "ended"]
    assert facts == ([] if last is None else [last])
