"""Numbered versions: whole or not there, whoever publishes, watches, labels or dies at the same time."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ckptkit.errors import ExportError
from ckptkit.export.versions import labels, path_of, publish, rollback, set_label, versions

ROOT = Path(__file__).resolve().parent.parent
FILES = ("saved_model.pb", "variables/data", "variables/index", "assets/words.txt")

COMMON = """
import os, signal, sys
from ckptkit.export.versions import labels, publish, rollback, set_label, versions

base, name = sys.argv[1:3]

def told(word):
    print(word, flush=True)
    sys.stdin.readline()

def writer(content, midway=lambda: None):
    def write(folder):
        os.mkdir(folder)
        with open(os.path.join(folder, "one"), "w") as file:
            file.write(content)
        midway()
        with open(os.path.join(folder, "two"), "w") as file:
            file.write(content)
    return write

told("ready")
"""


@pytest.fixture
def base(tmp_path):
    return tmp_path / "digits"


@pytest.fixture
def quick_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def writer(content="x"):
    def write(folder):
        for file in FILES:
            path = Path(folder, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


def publish_many(base, count, **options):
    for number in range(1, count + 1):
        publish(base, writer(f"content {number}"), **options)


def content(base, version):
    """What a version was written with; all its files must be there and say the same."""
    (said,) = {Path(base, str(version), file).read_text() for file in FILES}
    return said


def litter(base):
    return sorted(name for name in os.listdir(base) if name.startswith(".") and name != ".lock")


def half_versions(base):
    """Look on as TensorFlow Serving does: a number is a version, and all of it must be there."""
    halves, seen = [], set()
    for name in os.listdir(base):
        if name.isdigit():
            with suppress(FileNotFoundError):
                missing = [file for file in FILES if not os.path.exists(os.path.join(base, name, file))]
                if missing and os.path.exists(os.path.join(base, name)):  # else it went while we looked
                    halves.append(name)
            seen.add(int(name))
    return halves, seen


class Process:
    """A Python process that stops at each line it prints until it is told to go on."""

    def __init__(self, script, *arguments):
        self.pipe = subprocess.Popen(
            [sys.executable, "-c", COMMON + script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self.guard = threading.Timer(30, self.kill)  # a test that would hang fails
        self.guard.start()

    def reaches(self, word):
        assert self.pipe.stdout.readline() == word + "\n"

    def go_on(self):
        self.pipe.stdin.write("\n")
        self.pipe.stdin.flush()

    def ends(self):
        assert self.pipe.wait() == 0

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.pipe.pid, signal.SIGKILL)

    def close(self):
        self.guard.cancel()
        self.kill()
        self.pipe.communicate()


@contextmanager
def processes(count, script, base):
    """Several processes that have imported all they need and wait at the line."""
    started = [Process(script, base, index) for index in range(count)]
    try:
        for each in started:
            each.reaches("ready")
        yield started
    finally:
        for each in started:
            each.close()


def run_at_once(count, script, base):
    with processes(count, script, base) as started:
        for each in started:
            each.go_on()
        for each in started:
            each.ends()


# Publishing ----------------------------------------------------------------------------------------------------------


def test_versions_are_numbered_from_1_and_hold_what_was_written(base):
    assert versions(base) == ()
    assert [publish(base, writer("a")), publish(str(base), writer("b"))] == [1, 2]
    assert versions(base) == versions(str(base)) == (1, 2)
    assert (content(base, 1), content(base, 2)) == ("a", "b")
    assert sorted(os.listdir(base)) == [".lock", "1", "2"]


def test_a_version_is_written_in_a_hidden_folder_that_no_server_takes_for_one(base):
    seen = []

    def write(folder):
        seen.append((os.path.relpath(folder, base), os.path.lexists(folder)))
        writer()(folder)
        assert versions(base) == ()
        assert not any(name.isdigit() for name in os.listdir(base))

    publish(base, write)
    ((where, was_there),) = seen
    assert where.startswith(".tmp-")
    assert not was_there


def test_every_file_and_folder_is_on_the_disk_before_the_name_is_and_the_name_after(base, monkeypatch):
    events, real_fsync, real_rename = [], os.fsync, os.rename

    def fsync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def rename(source, target):
        events.append("rename")
        real_rename(source, target)

    publish(base, writer())
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    publish(base, writer())
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    below = {path.partition("/version")[2] for path in before}
    assert below == {"", "/variables", "/assets", *(f"/{file}" for file in FILES)}
    assert after == [str(base)]


def test_publishers_at_once_get_a_number_each_and_nothing_is_lost(base):
    script = """
for turn in range(6):
    publish(base, writer(f"{name}-{turn}"))
"""
    run_at_once(5, script, base)
    assert versions(base) == tuple(range(1, 31))
    found = [
        (Path(path_of(base, n), "one").read_text(), Path(path_of(base, n), "two").read_text()) for n in range(1, 31)
    ]
    assert sorted(found) == sorted((f"{i}-{turn}",) * 2 for i in range(5) for turn in range(6))
    assert litter(base) == []


def test_of_two_publishers_of_one_number_one_is_refused_and_its_version_is_not_mixed_in(base):
    script = """
try:
    publish(base, writer(name, midway=lambda: told("midway")), version=7)
    told("published")
except Exception as error:
    told(type(error).__name__)
"""
    with processes(2, script, base) as (first, second):
        for each in (first, second):
            each.go_on()
            each.reaches("midway")
        second.go_on()
        second.reaches("published")
        first.go_on()
        first.reaches("ExportError")
    assert versions(base) == (7,)
    assert Path(base, "7", "one").read_text() == Path(base, "7", "two").read_text() == "1"
    assert litter(base) == []


def occupy(path, kind):
    if kind == "a version":
        writer("theirs")(path)
    elif kind == "an empty folder":
        os.makedirs(path)
    else:
        Path(path).write_text("theirs")


@pytest.mark.parametrize("kind", ["a version", "an empty folder", "a file"])
def test_the_next_number_is_tried_if_one_was_taken_while_the_version_was_written(base, kind):
    def write(folder):
        occupy(base / "1", kind)
        writer("ours")(folder)

    assert publish(base, write) == 2
    assert content(base, 2) == "ours"
    assert kind != "a version" or content(base, 1) == "theirs"
    assert kind != "an empty folder" or os.listdir(base / "1") == []


@pytest.mark.parametrize("kind", ["a version", "a file"])
def test_one_who_takes_no_lock_may_be_faster_and_loses_nothing(base, monkeypatch, kind):
    real = os.rename

    def rename(source, target):
        if target == os.path.join(base, "1"):
            occupy(target, kind)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert publish(base, writer("ours")) == 2
    assert kind != "a version" or content(base, 1) == "theirs"
    assert litter(base) == []


def test_one_who_takes_no_lock_may_be_faster_with_the_very_number_and_loses_nothing(base, monkeypatch):
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda source, target: (occupy(target, "a version"), real(source, target)))
    with pytest.raises(ExportError, match=re.escape(f"cannot publish version 3 in {base}: {base}/3 holds a version")):
        publish(base, writer("ours"), version=3)
    assert content(base, 3) == "theirs"


def test_another_failure_of_the_rename_passes_through_and_leaves_nothing(base, monkeypatch):
    def rename(source, target):
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="read-only file system"):
        publish(base, writer())
    assert os.listdir(base) == [".lock"]


def test_a_number_of_ones_own_is_taken_and_the_next_free_one_follows_it(base):
    assert publish(base, writer(), version=20260101) == 20260101
    assert publish(base, writer()) == 20260102
    assert publish(base, writer("old"), version=5) == 5
    assert versions(base) == (5, 20260101, 20260102)


@pytest.mark.parametrize(
    ("kind", "what", "there"),
    [
        ("a version", "holds a version", "3"),
        ("an empty folder", "is an empty folder", "none"),
        ("a file", "is a file", "none"),
    ],
)
def test_a_number_that_is_taken_is_refused_before_anything_is_written(base, kind, what, there):
    occupy_base = base / "3"
    base.mkdir()
    occupy(occupy_base, kind)
    message = (
        f"cannot publish version 3 in {base}: {base}/3 {what} (versions: {there}). "
        f"Leave version out to take 4, the next free number, or move {base}/3 away first."
    )
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        publish(base, lambda folder: pytest.fail("was asked to write"), version=3)
    assert os.path.lexists(occupy_base)


def test_a_number_that_was_taken_while_the_version_was_written_is_refused(base):
    def write(folder):
        (base / "3").mkdir()
        writer()(folder)

    with pytest.raises(ExportError, match=r"cannot publish version 3 in .*/3 is an empty folder \(versions: none\)"):
        publish(base, write, version=3)
    assert os.listdir(base / "3") == []
    assert litter(base) == []


def test_what_only_looks_like_a_version_does_not_count_and_its_number_is_left_alone(base):
    publish(base, writer())
    for name in ("3", "x", "-1", "0", "²", "99999999999999999999"):
        (base / name).mkdir()
    writer()(base / "007")
    writer()(base / "x")
    writer()(base / "99999999999999999999")
    (base / "4").write_text("a file")
    assert versions(base) == (1,)
    assert publish(base, writer()) == 8  # a server takes 007 for 7
    assert os.listdir(base / "3") == []
    assert content(base, "007") == "x"


def test_if_write_raises_its_error_passes_through_and_nothing_remains(base):
    error = RuntimeError("no such layer")

    def write(folder):
        writer()(folder)
        Path(folder + ".tmp-beside").write_text("write keeps its own litter beside its folder")
        raise error

    with pytest.raises(RuntimeError, match="no such layer") as caught:
        publish(base, write)
    assert caught.value is error
    assert os.listdir(base) == [".lock"]


@pytest.mark.parametrize(
    "write",
    [lambda folder: None, os.mkdir, lambda folder: Path(folder).write_text("x")],
    ids=["nothing", "an empty folder", "a file"],
)
def test_a_version_of_nothing_is_not_published(base, write):
    with pytest.raises(
        ExportError,
        match=r"^nothing was published: write left nothing at .*It must make that folder, with its files\.$",
    ):
        publish(base, write)
    assert os.listdir(base) == [".lock"]


def test_links_inside_a_version_are_published_and_rolled_back_as_they_are(base):
    def write(folder):
        writer()(folder)
        os.symlink("saved_model.pb", os.path.join(folder, "link"))
        os.symlink("nowhere", os.path.join(folder, "dangling"))
        os.symlink("variables", os.path.join(folder, "same"))

    publish(base, write)
    publish(base, writer())
    rollback(base)
    for version in ("1", "3"):
        assert os.readlink(base / version / "link") == "saved_model.pb"
        assert os.readlink(base / version / "dangling") == "nowhere"
        assert os.readlink(base / version / "same") == "variables"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 0}, "version must be a whole number of at least 1, below 2**63, or None, got 0."),
        ({"version": True}, "version must be a whole number of at least 1, below 2**63, or None, got True."),
        ({"version": 1.0}, "version must be a whole number of at least 1, below 2**63, or None, got 1.0."),
        (
            {"version": 2**63},
            "version must be a whole number of at least 1, below 2**63, or None, got 9223372036854775808",
        ),
        ({"max_versions": 0}, "max_versions must be a whole number of at least 1, below 2**63, or None, got 0."),
        ({"max_versions": True}, "max_versions must be a whole number of at least 1, below 2**63, or None, got True."),
        ({"labels": "stable"}, "labels must be strings that are not empty, got 'stable'."),
        ({"labels": ["stable", ""]}, "labels must be strings that are not empty, got ['stable', '']."),
        ({"labels": [3]}, "labels must be strings that are not empty, got [3]."),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_before_anything_is_made(base, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        publish(base, lambda folder: pytest.fail("was asked to write"), **options)
    assert not base.exists()


# Watching and dying --------------------------------------------------------------------------------------------------

WATCH = f"""
import select
sys.path.insert(0, {str(ROOT)!r})
from tests.test_versions import half_versions

halves, seen = [], set()
print("looks", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    found, numbers = half_versions(base)
    halves += found
    seen |= numbers
print(halves, len(seen), flush=True)
"""


def test_a_watcher_never_sees_a_version_without_all_its_files(base, quick_disk):
    base.mkdir()
    with processes(1, WATCH, base) as (watcher,):
        watcher.go_on()
        watcher.reaches("looks")
        for turn in range(250):
            publish(base, writer(), max_versions=2)
            if turn % 20 == 19:
                rollback(base)
        watcher.go_on()
        halves, seen = watcher.pipe.stdout.readline().rsplit(" ", 1)
    assert halves == "[]"
    assert int(seen) > 20  # it did look meanwhile


def test_the_watcher_of_that_test_sees_half_a_version_where_there_is_one(base):
    publish(base, writer())
    writer()(base / "2")
    assert half_versions(base) == ([], {1, 2})
    (base / "2" / FILES[1]).unlink()
    assert half_versions(base) == (["2"], {1, 2})


STOP_MIDWAY = """
publish(base, writer("theirs", midway=lambda: told("midway")))
told("published")
"""


def test_a_publisher_killed_in_the_middle_leaves_no_version_and_the_next_one_sweeps_what_it_left(base):
    with processes(1, STOP_MIDWAY, base) as (victim,):
        victim.go_on()
        victim.reaches("midway")
        os.kill(victim.pipe.pid, signal.SIGKILL)
        victim.pipe.wait()
    assert versions(base) == ()
    assert len(litter(base)) == 1
    assert publish(base, writer()) == 1
    assert litter(base) == []


def test_what_a_living_publisher_is_writing_is_not_swept(base):
    with processes(1, STOP_MIDWAY, base) as (living,):
        living.go_on()
        living.reaches("midway")
        before = litter(base)
        assert publish(base, writer("ours")) == 1
        assert litter(base) == before
        assert len(before) == 1
        living.go_on()
        living.reaches("published")
    assert Path(base, "2", "one").read_text() == Path(base, "2", "two").read_text() == "theirs"
    assert litter(base) == []


def test_one_publisher_inside_another_is_alive_too(base):
    def write(folder):
        assert publish(base, writer("inner")) == 1
        writer("outer")(folder)

    assert publish(base, write) == 2
    assert content(base, 2) == "outer"


def test_a_publisher_that_ends_while_another_one_sweeps_does_no_harm(base, monkeypatch):
    (base / ".tmp-left").mkdir(parents=True)

    def is_alive(hidden):
        os.rmdir(hidden)  # by its owner, who needs no lock for that
        return False

    monkeypatch.setattr("ckptkit.export.versions._is_alive", is_alive)
    assert publish(base, writer()) == 1


def test_a_failed_publisher_has_swept_as_well(base):
    (base / ".trash-left").mkdir(parents=True)
    (base / ".tmp-left").mkdir()
    (base / ".tmp-file").write_text("x")
    (base / ".trash-file").write_text("x")
    with pytest.raises(ZeroDivisionError):
        publish(base, lambda folder: 1 / 0)
    assert litter(base) == []


def test_a_child_forked_while_the_lock_was_held_does_not_hold_it_on(base):
    script = """
real = os.rename
def rename(source, target):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    real(source, target)
os.rename = rename
publish(base, writer("a"))
os.rename = real
publish(base, writer("b"))
told("published twice")
"""
    with processes(1, script, base) as (parent,):
        parent.go_on()
        parent.reaches("published twice")
    assert versions(base) == (1, 2)


class Died(BaseException):
    """The process is gone; nothing that it would do afterwards is done."""


@contextmanager
def death_at(monkeypatch, index):
    """Raise :class:`Died` in the ``index``-th change of the disk and in every later one."""
    calls = itertools.count()

    def deadly(real):
        def call(*arguments, **named):
            if next(calls) >= index:
                raise Died
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, deadly(getattr(os, name)))
        patch.setattr(shutil, "rmtree", deadly(shutil.rmtree))
        yield


def publish_over(base):
    publish(base, writer("new"), max_versions=1, labels=["stable"])


@pytest.mark.parametrize("change", [publish_over, rollback], ids=["publish", "rollback"])
def test_death_at_any_change_of_the_disk_leaves_whole_versions_and_labels_that_can_be_read(
    tmp_path, monkeypatch, quick_disk, change
):
    for index in itertools.count():
        base = tmp_path / str(index)
        publish_many(base, 2, labels=["stable"])
        ended = False
        with death_at(monkeypatch, index), suppress(Died):
            change(base)
            ended = True
        assert half_versions(base)[0] == []
        assert path_of(base, "stable") in (f"{base}/2", f"{base}/3")
        assert {content(base, version) for version in versions(base)} <= {"content 1", "content 2", "new"}
        assert ended or set(versions(base)) & {2, 3}
        newest = publish(base, writer(), labels=["next"])
        assert newest == versions(base)[-1]
        assert litter(base) == []
        if ended:
            break
    assert index > 10


# Keeping -------------------------------------------------------------------------------------------------------------


def test_the_newest_versions_stay(base):
    publish_many(base, 5, max_versions=2)
    assert versions(base) == (4, 5)
    publish(base, writer(), max_versions=1)
    assert versions(base) == (6,)
    assert litter(base) == []


def test_a_version_with_a_label_stays_beyond_the_newest_until_the_label_goes(base):
    publish(base, writer("first"), labels=["stable", "old"])
    publish_many(base, 4, max_versions=2)
    assert versions(base) == (1, 4, 5)
    assert content(base, 1) == "first"
    set_label(base, "old", None)
    publish(base, writer(), max_versions=2, labels=("stable",))
    assert versions(base) == (5, 6)
    assert labels(base) == {"stable": 6}


def test_the_version_just_published_stays_although_others_are_newer(base):
    publish_many(base, 3)
    assert publish(base, writer("late"), version=10) == 10
    assert publish(base, writer("old"), version=5, max_versions=1) == 5
    assert versions(base) == (5, 10)


def test_empty_folders_and_files_are_never_deleted(base):
    (base / "1").mkdir(parents=True)
    (base / "2").write_text("x")
    for _ in range(2):
        publish(base, writer(), max_versions=1)
    assert versions(base) == (4,)
    assert os.listdir(base / "1") == []
    assert (base / "2").read_text() == "x"


def test_a_version_that_is_a_link_goes_without_what_it_points_to(base, tmp_path):
    writer("elsewhere")(tmp_path / "elsewhere")
    base.mkdir()
    os.symlink(tmp_path / "elsewhere", base / "1")
    assert versions(base) == (1,)
    publish(base, writer(), max_versions=1)
    assert sorted(os.listdir(base)) == [".lock", "2"]
    assert (tmp_path / "elsewhere" / FILES[0]).read_text() == "elsewhere"


def test_a_version_is_out_of_sight_on_the_disk_before_its_first_file_goes(base, monkeypatch):
    publish_many(base, 2)
    events, real_fsync, real_rmtree = [], os.fsync, shutil.rmtree

    def fsync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def rmtree(path, **options):
        events.append(f"rmtree {os.path.basename(path)[:7]} {versions(base)}")
        real_rmtree(path, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    publish(base, writer(), max_versions=2)
    assert events[-2:] == [str(base), "rmtree .trash- (2, 3)"]


# Labels --------------------------------------------------------------------------------------------------------------


def test_labels_are_set_moved_and_removed(base):
    assert labels(base) == {}
    publish_many(base, 2, labels=["canary"])
    set_label(base, "stable", 1)
    assert labels(str(base)) == {"canary": 2, "stable": 1}
    assert json.loads((base / "labels.json").read_text()) == {"canary": 2, "stable": 1}
    set_label(str(base), "canary", 1)
    set_label(base, "stable", None)
    set_label(base, "stable", None)
    assert labels(base) == {"canary": 1}
    assert litter(base) == []


def test_processes_that_set_labels_at_once_lose_none_of_each_others(base):
    publish(base, writer())
    script = """
for turn in range(15):
    set_label(base, f"{name}-{turn}", 1)
    labels(base)
"""
    run_at_once(5, script, base)
    assert labels(base) == {f"{i}-{turn}": 1 for i in range(5) for turn in range(15)}


def test_labels_that_cannot_be_written_leave_the_old_ones(base, monkeypatch):
    publish(base, writer(), labels=["stable"])

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no space left"):
        set_label(base, "canary", 1)
    assert labels(base) == {"stable": 1}
    assert litter(base) == []


@pytest.mark.parametrize("version", [3, 0, -1, True, "1", 1.5])
def test_a_label_points_to_nothing_that_is_not_there(base, version):
    publish_many(base, 2)
    message = f"no version {version!r} in {base} (versions: 1, 2). Pass one that is there."
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        set_label(base, "stable", version)
    assert labels(base) == {}


@pytest.mark.parametrize("label", ["", None, 3])
def test_a_label_is_a_string_that_is_not_empty(base, label):
    publish(base, writer())
    with pytest.raises(ValueError, match=re.escape(f"labels must be strings that are not empty, got [{label!r}].")):
        set_label(base, label, 1)


def test_where_nothing_was_ever_published_no_label_is_set(base):
    message = f"{base} is not there (versions: none). Publish a version to it first."
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        set_label(base, "stable", 1)
    assert not base.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("[1]", "not a JSON object of version numbers"),
        ('{"stable": "3"}', "not a JSON object of version numbers"),
        ('{"stable": true}', "not a JSON object of version numbers"),
        ("\xff", "Expecting value"),
    ],
    ids=repr,
)
def test_labels_that_cannot_be_read_are_an_error_and_nothing_is_published_over_them(base, text, why):
    publish_many(base, 2)
    (base / "labels.json").write_text(text)
    message = (
        f"^{re.escape(f'cannot read {base}/labels.json: {why}')}"
        r".*\. Mend it, so that it looks like \{\"name\": 3\}, or delete it\.$"
    )
    for use in (
        lambda: labels(base),
        lambda: set_label(base, "stable", 1),
        lambda: path_of(base, "stable"),
        lambda: rollback(base),
        lambda: publish(base, lambda folder: pytest.fail("was asked to write")),
    ):
        with pytest.raises(ExportError, match=message):
            use()
    assert versions(base) == (1, 2)
    assert path_of(base, 1) == str(base / "1")
    assert (base / "labels.json").read_text() == text


# Rolling back --------------------------------------------------------------------------------------------------------


def rollback_facts(base, version):
    return json.loads((base / str(version) / "assets.extra" / "rollback.json").read_text())


def test_rolling_back_publishes_the_version_before_the_newest_once_more(base):
    publish_many(base, 3)
    assert rollback(base) == 4
    assert versions(base) == (1, 2, 3, 4)
    assert content(base, 4) == "content 2"
    assert rollback_facts(base, 4) == {"copy_of": 2, "rolled_back_from": 3}
    assert litter(base) == []


def test_rolling_back_twice_goes_back_by_two_and_no_further_than_there_is(base):
    publish_many(base, 3)
    assert [rollback(str(base)), rollback(base)] == [4, 5]
    assert content(base, 5) == "content 1"
    assert rollback_facts(base, 4) == {"copy_of": 2, "rolled_back_from": 3}
    assert rollback_facts(base, 5) == {"copy_of": 1, "rolled_back_from": 4}
    message = (
        f"cannot roll back {base}: there is nothing before version 1, which 5 is a copy of (versions: 1, 2, 3, 4, 5). "
        "Publish the version you want, or pass one that is there as to=."
    )
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        rollback(base)
    assert versions(base) == (1, 2, 3, 4, 5)


def test_a_copy_counts_as_what_it_is_a_copy_of_although_that_is_gone(base):
    publish_many(base, 3)
    rollback(base)
    publish(base, writer("worse"), max_versions=2)
    assert versions(base) == (4, 5)
    assert rollback(base) == 6
    assert content(base, 6) == "content 2"
    assert rollback_facts(base, 6) == {"copy_of": 2, "rolled_back_from": 5}
    assert rollback_facts(base, 4) == {"copy_of": 2, "rolled_back_from": 3}  # not written through a hard link


def test_a_version_of_ones_choice_is_brought_back(base):
    publish_many(base, 4)
    assert rollback(base, to=1) == 5
    assert content(base, 5) == "content 1"
    assert rollback(base, to=3) == 6
    assert rollback_facts(base, 6) == {"copy_of": 3, "rolled_back_from": 5}
    assert rollback(base) == 7
    assert content(base, 7) == "content 2"


def test_files_are_shared_by_hard_links_but_not_the_facts_of_the_rollback(base):
    publish_many(base, 3)
    rollback(base)
    rollback(base, to=2)
    for file in FILES:
        assert os.path.samefile(base / "2" / file, base / "5" / file)
    rollback(base, to=4)
    assert not os.path.samefile(base / "4/assets.extra/rollback.json", base / "6/assets.extra/rollback.json")
    assert (rollback_facts(base, 4), rollback_facts(base, 6)) == (
        {"copy_of": 2, "rolled_back_from": 3},
        {"copy_of": 2, "rolled_back_from": 5},
    )
    shutil.rmtree(base / "2")
    assert content(base, 6) == "content 2"


def test_files_are_copied_where_there_are_no_hard_links(base, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "no hard links here")

    publish_many(base, 2)
    monkeypatch.setattr(os, "link", link)
    rollback(base)
    assert content(base, 3) == "content 1"
    assert not os.path.samefile(base / "1" / FILES[0], base / "3" / FILES[0])


def test_other_extra_assets_are_rolled_back_too(base):
    def write(folder):
        writer()(folder)
        os.mkdir(os.path.join(folder, "assets.extra"))
        Path(folder, "assets.extra", "model.keras").write_text("archive")

    publish(base, write)
    publish(base, writer())
    rollback(base)
    assert (base / "3/assets.extra/model.keras").read_text() == "archive"
    assert os.listdir(base / "1/assets.extra") == ["model.keras"]


def test_labels_of_the_version_rolled_back_from_go_along_and_others_stay(base):
    publish_many(base, 3, labels=["stable", "canary"])
    set_label(base, "first", 1)
    rollback(base)
    assert labels(base) == {"canary": 4, "stable": 4, "first": 1}
    rollback(base)
    assert labels(base) == {"canary": 5, "stable": 5, "first": 1}


def test_rollbacks_at_once_go_back_one_after_the_other(base):
    publish_many(base, 5)
    run_at_once(3, "rollback(base)", base)
    assert [content(base, version) for version in (6, 7, 8)] == ["content 4", "content 3", "content 2"]


def test_with_one_version_there_is_nothing_to_roll_back_to(base):
    publish(base, writer())
    with pytest.raises(
        ExportError,
        match=re.escape(f"cannot roll back {base}: there is nothing before version 1 (versions: 1). Publish"),
    ):
        rollback(base)


def test_without_a_version_or_a_folder_there_is_nothing_to_roll_back(base):
    with pytest.raises(ExportError, match=r"is not there \(versions: none\)\. Publish a version to it first\.$"):
        rollback(base)
    assert not base.exists()
    base.mkdir()
    with pytest.raises(ExportError, match=r"there is nothing in it \(versions: none\)"):
        rollback(base)


@pytest.mark.parametrize("to", [9, 0, True, "2"])
def test_a_version_that_is_not_there_is_not_brought_back(base, to):
    publish_many(base, 2)
    message = f"no version {to!r} in {base} (versions: 1, 2). Pass one that is there."
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        rollback(base, to=to)
    assert versions(base) == (1, 2)


def test_the_newest_version_is_not_brought_back(base):
    publish_many(base, 2)
    message = f"cannot roll back {base} to version 2: it is the newest (versions: 1, 2). Pass an earlier one."
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        rollback(base, to=2)


def test_facts_of_a_rollback_that_cannot_be_read_are_an_error(base):
    publish_many(base, 2)
    rollback(base)
    (base / "3/assets.extra/rollback.json").write_text("{")
    with pytest.raises(ExportError, match=re.escape(f"cannot read {base}/3/assets.extra/rollback.json: Expecting")):
        rollback(base)
    assert versions(base) == (1, 2, 3)


def test_a_rollback_that_fails_leaves_nothing(base, monkeypatch):
    publish_many(base, 2, labels=["stable"])

    def copytree(source, target, **options):
        os.mkdir(target)
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(shutil, "copytree", copytree)
    with pytest.raises(OSError, match="no space left"):
        rollback(base)
    assert (versions(base), labels(base), litter(base)) == ((1, 2), {"stable": 2}, [])


# Finding -------------------------------------------------------------------------------------------------------------


def test_a_number_or_a_label_has_a_folder(base):
    publish_many(base, 2, labels=["stable"])
    assert path_of(base, 1) == path_of(str(base), 1) == str(base / "1")
    assert path_of(base, "stable") == str(base / "2")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (3, "no version 3 in {} (versions: 1, 2). Pass one that is there."),
        (True, "no version True in {} (versions: 1, 2). Pass one that is there."),
        ("stabel", "no label 'stabel' in {} (labels: canary, stable; versions: 1, 2). Did you mean 'stable'?"),
        ("2", "no label '2' in {} (labels: canary, stable; versions: 1, 2). Pass one of them, or a version's number."),
    ],
)
def test_one_that_is_not_there_is_told_with_what_is(base, wanted, message):
    publish_many(base, 2, labels=["stable", "canary"])
    with pytest.raises(ExportError, match=f"^{re.escape(message.format(base))}$"):
        path_of(base, wanted)


def test_a_label_whose_version_was_deleted_by_hand_is_told(base):
    publish_many(base, 2, labels=["stable"])
    shutil.rmtree(base / "2")
    message = (
        f"label 'stable' in {base} points to version 2, which is gone (versions: 1). "
        "Point it to one of them with set_label."
    )
    with pytest.raises(ExportError, match=f"^{re.escape(message)}$"):
        path_of(base, "stable")


def test_where_nothing_was_published_nothing_is_found(base):
    with pytest.raises(ExportError, match=r"no version 1 in .*\(versions: none\)"):
        path_of(base, 1)
    with pytest.raises(ExportError, match=r"no label 'stable' in .*\(labels: none; versions: none\)"):
        path_of(base, "stable")


def test_versions_start_without_tensorflow(run_child):
    script = "import sys, ckptkit.export.versions; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    assert run_child("-c", script) == "set()\n"
