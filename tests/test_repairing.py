"""A directory brought back in order: nothing that verifies is lost, whatever was damaged and wherever a repair dies.

Death is played by tests/dying.py.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptkit.errors import CheckpointNotFoundError, DirectoryLockedError
from ckptkit.lock import DirectoryLock
from ckptkit.repairing import Action, repair
from ckptkit.state_file import StateFile
from ckptkit.store import Store
from ckptkit.verifying import Verification
from tests.checkpoint_dirs import begin, files_in, flip, put_state, read, save, save_foreign, write
from tests.dying import dies

NOW = 2e9  # long after every file was written
SHARD = "data-00000-of-00001"


@pytest.fixture(autouse=True)
def no_waiting_for_a_busy_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def directory(tmp_path):
    """Three checkpoints of ours."""
    directory = str(tmp_path / "run")
    for step in (1, 2, 3):
        save(directory, step, shards=step % 2 + 1)
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3"])
    return directory


def mend(directory, *, apply=True, now=NOW, **options):
    """Repair; return what was done and what is wrong still."""
    found = repair(Store(directory, durable=False), now=now, apply=apply, **options)
    return list(found.actions), list(found.left)


def verifying(directory, *, deep=True):
    """The content of every checkpoint that verifies, by its name."""
    found = {}
    for verdict in Verification(Store(directory), deep=deep).verdicts():
        if verdict.state == "ok":
            folder = os.path.dirname(verdict.record.prefix)
            found[verdict.name] = {
                file: content for file, content in files_in(folder).items() if file.startswith(verdict.name + ".")
            }
    return found


def state_of(directory):
    return StateFile.parse(read(directory, "checkpoint"))


def put_journal(directory, step, *, seed=9, sequence=9):
    """A checkpoint on its way over one of the same name; return its folder."""
    pending, manifest = begin(directory, step, seed=seed, sequence=sequence)
    write(pending.folder, f"ckpt-{step}.manifest.json", manifest.to_json().encode())
    journal = os.path.join(directory, ".ckptkit", "replace-0")
    os.rename(pending.folder, journal)
    return journal


# What there is to do -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apply", [False, True], ids=["dry", "applied"])
def test_a_directory_that_is_in_order_stays_as_it_is(directory, apply):
    before = files_in(directory)
    assert mend(directory, apply=apply, deep=True) == ([], [])
    assert files_in(directory) == before


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_directory_of_plain_tensorflow_that_is_in_order_stays_as_it_is(tmp_path, times, absolute):
    directory = str(tmp_path)
    for step in (1, 2, 3):
        save_foreign(directory, f"ckpt-{step}", seed=step)
    names = [os.path.join(directory, name) if absolute else name for name in ("ckpt-2", "ckpt-3")]
    put_state(directory, names, times=times)
    before = files_in(directory)
    assert mend(directory, apply=False, deep=True) == ([], [])
    assert files_in(directory) == before


def test_a_damaged_checkpoint_is_moved_aside_whole_and_the_state_file_names_the_others(directory):
    write(directory, f"ckpt-3.{SHARD[:-1]}2", b"")
    before = files_in(directory)
    why = "ckpt-3.data-00000-of-00002 has 0 bytes, manifest says "
    rewrite, move = mend(directory)[0]
    assert rewrite == Action("rewrite", "checkpoint", "it names ckpt-3, which is damaged")
    assert (move.verb, move.what, move.to) == ("move", "ckpt-3", ".ckptkit/damaged-ckpt-3")
    assert move.why.startswith(why)
    after = files_in(directory)
    for file in ("ckpt-3.index", "ckpt-3.manifest.json", "ckpt-3.data-00000-of-00002", "ckpt-3.data-00001-of-00002"):
        assert after[f".ckptkit/damaged-ckpt-3/{file}"] == before[file]
        assert file not in after
    assert state_of(directory) == StateFile("ckpt-2", ("ckpt-1", "ckpt-2"), (1000.0, 1001.0), 0.5)


def test_a_tensor_that_rotted_is_found_by_a_deep_repair_alone(directory):
    flip(directory, f"ckpt-2.{SHARD}", 0)
    assert mend(directory) == ([], [])
    _, move = mend(directory, deep=True)[0]
    assert move.what == "ckpt-2"
    assert "has checksum" in move.why
    assert list(verifying(directory)) == ["ckpt-1", "ckpt-3"]


def test_a_second_one_of_the_same_name_is_moved_to_a_folder_of_its_own(directory):
    for content in (b"first", b"second"):
        save(directory, 3, sequence=4)
        write(directory, "ckpt-3.index", content)
        mend(directory)
    assert read(directory, ".ckptkit/damaged-ckpt-3/ckpt-3.index") == b"first"
    assert read(directory, ".ckptkit/damaged-ckpt-3.2/ckpt-3.index") == b"second"


def test_what_a_save_that_died_left_is_swept(directory):
    pending, manifest = begin(directory, 4)
    write(pending.folder, "ckpt-4.manifest.json", manifest.to_json().encode())
    os.rename(pending.prefix + ".index", os.path.join(directory, "ckpt-4.index"))
    write(directory, ".ckptkit/tmp-1", b"half")
    swept = sorted([f".ckptkit/{os.path.basename(pending.folder)}", ".ckptkit/tmp-1"])
    assert mend(directory) == ([Action("sweep", path, "a save that died left it") for path in swept], [])
    assert sorted(os.listdir(os.path.join(directory, ".ckptkit"))) == ["lock"]
    assert "ckpt-4.index" not in os.listdir(directory)


@pytest.mark.parametrize("left", ["ckpt-9.index", f"ckpt-9.{SHARD}", "ckpt-9.manifest.json"])
def test_what_is_left_of_a_checkpoint_is_moved_aside(directory, left):
    content = read(directory, "ckpt-2.manifest.json").replace(b"ckpt-2", b"ckpt-9")
    write(directory, left, content)
    os.utime(os.path.join(directory, left), (1e9, 1e9))
    (move,) = mend(directory)[0]
    assert (move.verb, move.what, move.to) == ("move", "ckpt-9", ".ckptkit/damaged-ckpt-9")
    assert read(directory, f".ckptkit/damaged-ckpt-9/{left}") == content


@pytest.mark.parametrize("listed", [True, False])
def test_what_plain_tensorflow_may_be_writing_is_left_alone(directory, listed):
    write(directory, f"ckpt-9.{SHARD}", b"half")
    if listed:
        put_state(directory, ["ckpt-1", "ckpt-9"])
    written = os.stat(os.path.join(directory, f"ckpt-9.{SHARD}")).st_mtime
    before = files_in(directory)
    actions, left = mend(directory, now=written + 50)
    assert actions == []
    assert left[-1] == "plain TensorFlow may be writing ckpt-9, so nothing is moved. Try again in a minute."
    assert files_in(directory) == before
    assert mend(directory, now=written + 70)[0][-1].what == "ckpt-9"


def test_a_checkpoint_on_its_way_over_another_arrives(directory):
    put_journal(directory, 2)
    before = verifying(directory)
    action = Action("finish", ".ckptkit/replace-0", "ckpt-2 is on its way over one of the same name")
    assert mend(directory) == ([action], [])
    assert verifying(directory) == before
    assert os.listdir(os.path.join(directory, ".ckptkit")) == ["lock"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda at: write(at, f"ckpt-2.{SHARD}", b""), "ckpt-2.data-00000-of-00001 has 0 bytes"),
        (lambda at: flip(at, "ckpt-2.index", 5), "ckpt-2.index has checksum"),
        (lambda at: flip(at, f"ckpt-2.{SHARD}", 5), "ckpt-2.data-00000-of-00001 is damaged: tensor"),
        (lambda at: os.unlink(f"{at}/ckpt-2.manifest.json"), "it has no manifest that can be read"),
    ],
    ids=["cut short", "index altered", "tensor altered", "no manifest"],
)
@pytest.mark.parametrize("both", [False, True], ids=["good", "damaged too"])
def test_a_damaged_checkpoint_does_not_take_the_place_of_another(directory, spoil, why, both):
    if both:
        flip(directory, "ckpt-2.index", 9)
    before = verifying(directory)
    spoil(put_journal(directory, 2))
    planned, _ = mend(directory, apply=False, deep=True)
    actions, left = mend(directory, deep=True)
    assert planned == actions
    move, *others = actions
    assert (move.what, move.to, left) == (".ckptkit/replace-0", ".ckptkit/damaged-replace-0", [])
    assert move.why.startswith(why)
    assert [(action.verb, action.what) for action in others] == (
        [("rewrite", "checkpoint"), ("move", "ckpt-2")] if both else []
    )
    assert verifying(directory) == before
    assert mend(directory, deep=True) == ([], [])


# The state file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda at: os.unlink(os.path.join(at, "checkpoint")), "it is missing"),
        (lambda at: write(at, "checkpoint", b"\0\0"), "it cannot be read"),
        (lambda at: write(at, "checkpoint", b""), "it cannot be read"),
    ],
    ids=["missing", "garbage", "empty"],
)
def test_a_state_file_that_is_lost_is_written_anew(directory, spoil, why):
    spoil(directory)
    assert mend(directory) == ([Action("rewrite", "checkpoint", why)], [])
    times = (1001.0, 1002.0, 1003.0)
    assert state_of(directory) == StateFile("ckpt-3", ("ckpt-1", "ckpt-2", "ckpt-3"), times, 1000.0)


def test_a_state_file_that_was_lost_gives_nothing_of_plain_tensorflows_free_for_deletion(tmp_path):
    directory = str(tmp_path)
    for step in (1, 2):
        save_foreign(directory, f"ckpt-{step}")
    mend(directory)
    state = state_of(directory)
    assert max(state.all_model_checkpoint_timestamps) <= state.last_preserved_timestamp


@pytest.mark.parametrize(
    ("names", "why", "after"),
    [
        (["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-9"], "it names ckpt-9, which is gone", ["ckpt-1", "ckpt-2", "ckpt-3"]),
        (["ckpt-0", "ckpt-2", "ckpt-3"], "it names ckpt-0, which is gone", ["ckpt-2", "ckpt-3"]),
        (["ckpt-9"], "it names ckpt-9, which is gone", ["ckpt-1", "ckpt-2", "ckpt-3"]),
        (["ckpt-2"], "it does not name ckpt-3, which was committed after it was written", ["ckpt-2", "ckpt-3"]),
        (["/moved/ckpt-2", "/moved/ckpt-3"], "it names /moved/ckpt-2, which is elsewhere", ["ckpt-2", "ckpt-3"]),
        ([".."], "it names .., which is gone", ["ckpt-1", "ckpt-2", "ckpt-3"]),
        (["/"], "it names /, which is gone", ["ckpt-1", "ckpt-2", "ckpt-3"]),
    ],
    ids=["newest gone", "oldest gone", "all gone", "newest unknown", "moved", "above", "root"],
)
def test_a_state_file_that_is_wrong_is_set_right_and_keeps_what_is_right(directory, names, why, after):
    put_state(directory, names)
    assert mend(directory) == ([Action("rewrite", "checkpoint", why)], [])
    state = state_of(directory)
    assert (state.model_checkpoint_path, list(state.all_model_checkpoint_paths)) == (after[-1], after)
    kept = {os.path.basename(name): 1000.0 + at for at, name in enumerate(names)}
    fresh = {f"ckpt-{step}": 1000.0 + step for step in (1, 2, 3)}
    assert state.all_model_checkpoint_timestamps == tuple(kept.get(name, fresh[name]) for name in after)
    assert mend(directory) == ([], [])


def test_checkpoints_under_several_names_stay_on_the_list(tmp_path):
    directory = str(tmp_path)
    for name in ("a-1", "b-1", "b-2", "last"):
        save_foreign(directory, name)
    mend(directory)
    listed = {"a-1", "b-1", "b-2", "last"}
    assert set(state_of(directory).all_model_checkpoint_paths) == listed
    put_state(directory, ["a-1", "b-1", "last", "b-2"])
    os.unlink(os.path.join(directory, "b-2.index"))
    mend(directory)
    assert set(state_of(directory).all_model_checkpoint_paths) == listed - {"b-2"}
    assert state_of(directory).model_checkpoint_path == "b-1"


def test_one_that_nothing_lists_is_listed_where_none_else_is_left(tmp_path):
    directory = str(tmp_path)
    for step in (1, 2):
        save_foreign(directory, f"ckpt-{step}", seed=step)
    put_state(directory, ["ckpt-2"])
    write(directory, "ckpt-2.index", b"")
    assert [action.verb for action in mend(directory)[0]] == ["rewrite", "move"]
    assert state_of(directory).model_checkpoint_path == "ckpt-1"
    assert mend(directory) == ([], [])


@pytest.mark.slow
def test_plain_tensorflow_finds_and_reads_what_a_repair_leaves(directory, tmp_path):
    import tensorflow as tf

    plain = str(tmp_path / "plain")
    for step in (1, 2):
        save_foreign(plain, f"ckpt-{step}", seed=step)
    put_state(plain, ["ckpt-1", "ckpt-2"])
    write(plain, f"ckpt-2.{SHARD}", b"cut")
    missing, garbage, gone = (shutil.copytree(directory, tmp_path / name) for name in ("missing", "garbage", "gone"))
    os.unlink(missing / "checkpoint")
    write(garbage, "checkpoint", b"garbage")
    os.unlink(gone / "ckpt-3.index")
    for at, newest in ((missing, 3), (garbage, 3), (gone, 2), (plain, 1)):
        assert tf.train.latest_checkpoint(str(at)) != os.path.join(at, f"ckpt-{newest}")
        mend(str(at))
        latest = tf.train.latest_checkpoint(str(at))
        assert latest == os.path.join(at, f"ckpt-{newest}")
        assert tf.train.load_checkpoint(latest).get_tensor("step") == newest
        assert tf.train.get_checkpoint_state(str(at)).all_model_checkpoint_paths[-1] == latest


# What is not touched -----------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_does_nothing(directory):
    put_journal(directory, 1)
    begin(directory, 4)
    os.unlink(os.path.join(directory, "ckpt-3.index"))
    before = files_in(directory)
    planned, _ = mend(directory, apply=False)
    assert files_in(directory) == before
    assert [action.verb for action in planned] == ["finish", "sweep", "rewrite", "move"]
    assert mend(directory) == (planned, [])
    assert mend(directory) == ([], [])


def test_where_nothing_verifies_everything_stays_in_its_place(directory):
    for step in (1, 2, 3):
        os.unlink(os.path.join(directory, f"ckpt-{step}.index"))
    before = files_in(directory)
    actions, left = mend(directory)
    assert actions == []
    assert left[0] == "ckpt-1 is damaged: ckpt-1.index is missing"
    assert left[-1].startswith("no checkpoint verifies, so nothing is moved: an empty directory would be taken for a")
    assert files_in(directory) == before


def test_what_a_newer_ckptkit_wrote_is_not_touched_and_nothing_beside_it(directory):
    write(directory, "ckpt-3.manifest.json", b'{"format": 2}')
    os.unlink(os.path.join(directory, "ckpt-2.index"))
    before = files_in(directory)
    actions, left = mend(directory)
    assert actions == []
    assert left[0] == "ckpt-2 is damaged: ckpt-2.index is missing"
    assert left[1].startswith("ckpt-3 is unreadable: its manifest cannot be read: written by a newer ckptkit")
    assert left[2] == "what cannot be read here may be sound elsewhere, so nothing is moved."
    assert files_in(directory) == before


def test_what_a_newer_ckptkit_has_under_way_is_not_touched(directory):
    journal = put_journal(directory, 2)
    write(journal, "ckpt-2.manifest.json", b'{"format": 2}')
    before = files_in(directory)
    left = ".ckptkit/replace-0 has a manifest that only a newer ckptkit, or another user, can read"
    assert mend(directory) == ([], [left])
    assert files_in(directory) == before


def test_checkpoints_that_plain_tensorflow_keeps_off_its_list_stay(tmp_path):
    directory = str(tmp_path)
    for step in (1, 2, 3):
        save_foreign(directory, f"ckpt-{step}", seed=step)
    put_state(directory, ["ckpt-3"])
    before = verifying(directory)
    os.unlink(os.path.join(directory, "checkpoint"))
    mend(directory)
    assert verifying(directory) == before
    assert set(before) == {"ckpt-1", "ckpt-2", "ckpt-3"}


@pytest.mark.parametrize("apply", [False, True], ids=["dry", "applied"])
def test_a_directory_without_checkpoints_is_told_and_left_alone(tmp_path, apply):
    (tmp_path / "notes.txt").touch()
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointNotFoundError, match=f"^no checkpoints in {directory}.$"):
            mend(str(directory), apply=apply)
    assert os.listdir(tmp_path) == ["notes.txt"]


# One writer --------------------------------------------------------------------------------------------------------


def test_a_repair_is_refused_while_a_run_writes_and_a_dry_one_is_not(directory):
    os.unlink(os.path.join(directory, "ckpt-3.index"))
    before = files_in(directory)
    with open(os.path.join(directory, ".ckptkit", "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does it
        with pytest.raises(DirectoryLockedError, match="is writing there"):
            mend(directory)
        assert len(mend(directory, apply=False)[0]) == 2
    assert files_in(directory) == before
    assert len(mend(directory)[0]) == 2


def test_a_repair_is_refused_while_this_very_process_writes(directory):
    lock = Store(directory).lock()
    begin(directory, 4)
    before = files_in(directory)
    with pytest.raises(DirectoryLockedError, match=r"^cannot repair .*run: this very process writes checkpoints there"):
        mend(directory)
    assert files_in(directory) == before
    lock.release()
    mend(directory)
    assert os.path.realpath(os.path.join(directory, ".ckptkit", "lock")) not in DirectoryLock._held


# Death, and everything at once -------------------------------------------------------------------------------------


def found_by_tensorflow(directory):
    """The newest that plain TensorFlow would go on from; None where it would start afresh."""
    latest = state_of(directory).model_checkpoint_path
    return latest if os.path.exists(os.path.join(directory, latest + ".index")) else None


def test_death_at_any_moment_of_a_repair_loses_nothing_and_the_next_one_finishes(directory, tmp_path, monkeypatch):
    save_foreign(directory, "ckpt-4", seed=4, shards=2)
    save_foreign(directory, "ckpt-5", seed=5)
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4", "ckpt-5"])
    put_journal(directory, 1)
    pending, manifest = begin(directory, 6)
    write(pending.folder, "ckpt-6.manifest.json", manifest.to_json().encode())
    os.rename(pending.prefix + ".index", os.path.join(directory, "ckpt-6.index"))
    write(directory, "ckpt-3.data-00001-of-00002", b"cut short")
    write(directory, "ckpt-5.index", b"spoilt")
    good = verifying(directory)
    assert set(good) == {"ckpt-1", "ckpt-2", "ckpt-4"}
    moved = {file: content for file, content in files_in(directory).items() if file.startswith(("ckpt-3", "ckpt-5"))}
    for index in itertools.count():
        at = str(tmp_path / f"death-{index}")
        shutil.copytree(directory, at)
        died = dies(monkeypatch, index, lambda at=at: mend(at))
        assert verifying(at) == good
        assert found_by_tensorflow(at) in {"ckpt-5", "ckpt-1"}, "one was found before"
        mend(at)
        assert mend(at) == ([], [])
        assert verifying(at) == good
        assert found_by_tensorflow(at) == "ckpt-1"
        assert set(Verification(Store(at)).listing.damaged) == set()
        after = files_in(at)
        assert {f: after[f".ckptkit/damaged-{f.partition('.')[0]}/{f}"] for f in moved} == moved
        if not died:
            break
    assert index > 15, "hardly anything was done, so hardly anything was tested"


SPOILS = ("flip", "cut", "empty", "zeros", "delete", "newer", "swap")
FILES = [f"ckpt-{step}.{end}" for step in (1, 2, 3) for end in (SHARD, "index", "manifest.json")] + [
    "ckpt-4.index",
    f"ckpt-4.{SHARD}",
    "ckpt-5.index",
    f"ckpt-5.{SHARD}",
    "checkpoint",
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Ours, one that plain TensorFlow lists and one that it keeps off its list."""
    directory = str(tmp_path_factory.mktemp("pristine") / "run")
    for step in (1, 2, 3):
        save(directory, step)
    save_foreign(directory, "ckpt-4", seed=4)
    save_foreign(directory, "ckpt-5", seed=5)
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4"])
    return directory


def spoil(directory, file, how, at):
    """Damage a file, unless there is none any more."""
    if not os.path.exists(os.path.join(directory, file)):
        return
    content = read(directory, file)
    place = int(at * len(content))
    if how == "delete":
        os.unlink(os.path.join(directory, file))
    elif how == "newer":
        write(directory, file, content.replace(b'"format": 1', b'"format": 2'))
    elif how == "swap":
        other = file.replace("ckpt-3", "ckpt-1")
        is_there = other != file and os.path.exists(os.path.join(directory, other))
        write(directory, file, read(directory, other) if is_there else content[1:])
    elif how == "flip" and content:
        flip(directory, file, place, place % 8)
    else:
        write(
            directory, file, {"cut": content[:place], "zeros": content[:place].ljust(len(content), b"\0")}.get(how, b"")
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damages=st.lists(
        st.tuples(st.sampled_from(FILES), st.sampled_from(SPOILS), st.floats(0, 1, exclude_max=True)), max_size=5
    ),
    journal=st.sampled_from([None, "whole", "cut", "flip"]),
    litter=st.booleans(),
    deep=st.booleans(),
)
def test_whatever_was_damaged_what_verifies_is_the_same_before_and_after(
    pristine, tmp_path_factory, damages, journal, litter, deep
):
    directory = str(tmp_path_factory.mktemp("spoilt") / "run")
    shutil.copytree(pristine, directory)
    for file, how, at in damages:
        spoil(directory, file, how, at)
    if litter:
        begin(directory, 7)
        write(directory, "ckpt-8.data-00000-of-00002", b"left")
    if journal is not None:
        at = put_journal(directory, 2)
        if journal != "whole":
            spoil(at, f"ckpt-2.{SHARD}", journal, 0.5)
    before, bytes_before = verifying(directory, deep=deep), sorted(files_in(directory).values())
    actions, left = mend(directory, deep=deep)
    after = verifying(directory, deep=deep)
    assert before.items() <= after.items(), "what verified is there, with the same bytes"
    assert after.keys() - before.keys() <= ({"ckpt-2"} if journal in ("cut", "flip") else set())
    kept = [action for action in actions if action.verb in ("move", "rewrite")]
    if actions == kept and "rewrite" not in {action.verb for action in kept}:
        assert sorted(files_in(directory).values()) == bytes_before, "what was moved aside is there still"
    assert mend(directory, deep=deep) == ([], left)
    verdicts = list(Verification(Store(directory), deep=deep).verdicts())
    bad = {verdict.name for verdict in verdicts if verdict.state != "ok"}
    assert all(any(name in reason for reason in left) for name in bad)
