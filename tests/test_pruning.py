"""A directory pruned by a policy that somebody gives: by the rules of a run, whatever lies there and wherever it dies.

Death is played by tests/dying.py.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil

import pytest

from ckptkit import history
from ckptkit.errors import CheckpointNotFoundError, DirectoryLockedError
from ckptkit.ledger import Ledger
from ckptkit.preservation import Best, EveryNSteps, Latest, Steps
from ckptkit.pruning import prune
from ckptkit.state_file import StateFile
from ckptkit.store import Store
from ckptkit.verifying import Verification
from tests.checkpoint_dirs import files_in, flip, put_state, read, save, save_foreign, write
from tests.dying import dies

NOW = 2e9


@pytest.fixture(autouse=True)
def no_waiting_for_a_busy_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def directory(tmp_path):
    """Four checkpoints of ours, the second the best."""
    directory = str(tmp_path / "run")
    for step, loss in ((1, 3.0), (2, 1.0), (3, 4.0), (4, 2.0)):
        save(directory, step, metrics={"loss": loss})
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4"])
    return directory


def pruned(directory, policy, *, apply=True, **options):
    return prune(Store(directory, durable=False), policy, now=NOW, apply=apply, **options)


def there(directory):
    return [record.name for record in Store(directory).scan().records]


def names(records):
    return [record.name for record in records]


def state_of(directory):
    return StateFile.parse(read(directory, "checkpoint"))


# What goes ---------------------------------------------------------------------------------------------------------


def test_what_no_part_of_the_policy_keeps_goes_and_the_rest_stays_with_its_reasons(directory):
    found = pruned(directory, Latest(1) | Best("loss", "min"))
    assert names(found.gone) == ["ckpt-1", "ckpt-3"]
    assert names(found.records) == ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4"]
    assert found.reasons == {"ckpt-1": (), "ckpt-2": ("best loss",), "ckpt-3": (), "ckpt-4": ("latest 1",)}
    assert there(directory) == ["ckpt-2", "ckpt-4"]
    assert [file for file in files_in(directory) if "-1." in file or "-3." in file] == []


def test_a_dry_run_says_the_same_and_changes_nothing(directory):
    before = files_in(directory)
    dry = pruned(directory, Latest(1) | Best("loss", "min"), apply=False)
    assert history.read(directory) == ()
    assert files_in(directory) == before
    assert dry == pruned(directory, Latest(1) | Best("loss", "min"))
    assert [(each.kind, each.facts) for each in history.read(directory)] == [
        ("pruned", {"names": ["ckpt-1", "ckpt-3"]})
    ]


def test_the_state_file_names_what_is_left(directory):
    pruned(directory, Latest(1) | Best("loss", "min"))
    assert state_of(directory) == StateFile("ckpt-4", ("ckpt-2", "ckpt-4"), (1001.0, 1003.0), 0.5)


def test_where_nothing_goes_nothing_is_written(directory, monkeypatch):
    monkeypatch.setattr(Store, "write_state", None)
    assert pruned(directory, Latest(9)).gone == ()


@pytest.mark.parametrize("policy", [Steps([99]), Best("accuracy", "max"), EveryNSteps(50)], ids=repr)
def test_the_newest_stays_whatever_the_policy_says(directory, policy):
    found = pruned(directory, policy)
    assert there(directory) == ["ckpt-4"]
    assert found.reasons["ckpt-4"] == ("latest 1",)


def test_the_one_that_the_last_run_went_on_from_stays(directory):
    found = pruned(directory, Latest(1), resumed_from="ckpt-2")
    assert there(directory) == ["ckpt-2", "ckpt-4"]
    assert found.reasons["ckpt-2"] == ("resumed from",)


def test_one_under_another_name_and_one_that_is_not_on_the_list_stay(directory):
    save(directory, 2, stem="other", sequence=5)
    put_state(directory, ["ckpt-2", "other-2", "ckpt-3", "ckpt-4"])
    save(directory, 5, sequence=6)
    found = pruned(directory, Latest(1))
    assert there(directory) == ["ckpt-1", "other-2", "ckpt-5"]
    assert found.reasons["other-2"] == ("not managed",)
    assert found.reasons["ckpt-1"] == ("not on TensorFlow's list",)
    assert state_of(directory).all_model_checkpoint_paths == ("other-2", "ckpt-5")


def test_a_directory_whose_list_is_lost_is_pruned_and_managed_after_it(directory):
    os.unlink(os.path.join(directory, "checkpoint"))
    pruned(directory, Latest(2))
    assert there(directory) == ["ckpt-3", "ckpt-4"]
    ledger = Ledger("ckpt", 1, None, None, NOW)
    ledger.adopt(Store(directory).scan(), NOW)
    assert names(ledger.take_out_superfluous(NOW)) == ["ckpt-3"]


# Damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Latest(1), Steps([4]), Best("loss", "max")], ids=repr)
def test_no_sound_one_goes_in_favour_of_one_whose_index_is_damaged(directory, policy):
    flip(directory, "ckpt-4.index", 10)
    found = pruned(directory, policy)
    assert "ckpt-4.index has checksum" in found.damaged["ckpt-4"]
    assert there(directory) == ["ckpt-3", "ckpt-4"]


def test_the_best_that_is_damaged_gives_its_place_to_the_next_and_stays(directory):
    flip(directory, "ckpt-2.index", 10)
    pruned(directory, Best("loss", "min") | Latest(1))
    assert there(directory) == ["ckpt-2", "ckpt-4"]
    save(directory, 5, metrics={"loss": 9.0})
    pruned(directory, Best("loss", "min") | Latest(1))
    assert there(directory) == ["ckpt-2", "ckpt-4", "ckpt-5"]


def test_what_is_damaged_at_a_look_is_told_and_left_alone(directory):
    write(directory, "ckpt-1.index", b"cut")
    found = pruned(directory, Latest(1))
    assert list(found.damaged) == ["ckpt-1"]
    assert read(directory, "ckpt-1.index") == b"cut"
    assert there(directory) == ["ckpt-4"]


# Plain TensorFlow's ------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(directory):
    """Ours, and two that plain TensorFlow wrote after them."""
    for step in (5, 6):
        save_foreign(directory, f"ckpt-{step}")
    put_state(directory, [f"ckpt-{step}" for step in range(1, 7)])
    return directory


def test_plain_tensorflows_stay_on_the_list_and_take_nobodys_place(mixed):
    found = pruned(mixed, Latest(2))
    assert there(mixed) == ["ckpt-3", "ckpt-4", "ckpt-5", "ckpt-6"]
    assert found.reasons["ckpt-5"] == found.reasons["ckpt-6"] == ("of plain TensorFlow",)
    assert found.reasons["ckpt-4"] == ("latest 2",)
    assert state_of(mixed).all_model_checkpoint_paths == ("ckpt-3", "ckpt-4", "ckpt-5", "ckpt-6")
    assert state_of(mixed).model_checkpoint_path == "ckpt-6"


def test_our_newest_stays_although_plain_tensorflows_is_newer(mixed):
    pruned(mixed, Steps([99]))
    assert there(mixed) == ["ckpt-4", "ckpt-5", "ckpt-6"]


def test_ours_are_pruned_although_plain_tensorflows_newest_is_under_another_name(directory):
    save_foreign(directory, "model-9")
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4", "model-9"])
    pruned(directory, Latest(1))
    assert set(there(directory)) == {"ckpt-4", "model-9"}
    assert state_of(directory).all_model_checkpoint_paths == ("model-9", "ckpt-4")


def test_tensorflow_finds_what_is_left(directory):
    import tensorflow as tf  # here: the other tests need none

    save(directory, 5, sequence=9)  # a run died before it was listed
    pruned(directory, Latest(1) | Best("loss", "min"))
    assert tf.train.latest_checkpoint(directory) == os.path.join(directory, "ckpt-5")
    listed = tf.train.get_checkpoint_state(directory).all_model_checkpoint_paths
    assert list(listed) == [os.path.join(directory, name) for name in ("ckpt-2", "ckpt-5")]
    assert tf.train.load_checkpoint(os.path.join(directory, "ckpt-2")).get_tensor("bias").shape == (8,)


def test_plain_tensorflows_go_when_that_is_asked_for(mixed):
    found = pruned(mixed, Latest(1) | Best("loss", "min"), foreign=True)
    assert names(found.gone) == ["ckpt-1", "ckpt-3", "ckpt-4", "ckpt-5"]
    assert there(mixed) == ["ckpt-2", "ckpt-6"]
    assert state_of(mixed).all_model_checkpoint_paths == ("ckpt-2", "ckpt-6")


def test_a_directory_of_plain_tensorflow_alone_is_pruned_when_that_is_asked_for(tmp_path):
    directory = str(tmp_path)
    for step in (1, 2, 3):
        save_foreign(directory, f"ckpt-{step}", shards=step)
    put_state(directory, ["ckpt-1", "ckpt-2", "ckpt-3"])
    assert pruned(directory, Latest(1)).gone == ()
    assert names(pruned(directory, Latest(2), foreign=True).gone) == ["ckpt-1"]
    assert there(directory) == ["ckpt-2", "ckpt-3"]


# Refusals, and death -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apply", [False, True], ids=["dry", "applied"])
def test_a_directory_without_checkpoints_is_an_error_and_gets_no_lock(tmp_path, apply):
    for directory in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(CheckpointNotFoundError, match=f"^no checkpoints in {directory}.$"):
            pruned(directory, Latest(1), apply=apply)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("apply", [False, True], ids=["dry", "applied"])
def test_a_directory_with_nothing_but_damage_is_an_error_that_tells_it(tmp_path, apply):
    directory = str(tmp_path)
    save(directory, 1)
    os.unlink(os.path.join(directory, "ckpt-1.index"))
    with pytest.raises(
        CheckpointNotFoundError, match=r"no checkpoints in .*\nckpt-1 is damaged: ckpt-1.index is missing"
    ):
        pruned(directory, Latest(1), apply=apply)
    assert Store(directory).lock().is_first, "the lock was kept"


def test_pruning_is_refused_while_a_run_writes_and_a_dry_run_is_not(directory):
    before = files_in(directory)
    with open(os.path.join(directory, ".ckptkit", "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process does it
        assert len(pruned(directory, Latest(1), apply=False).gone) == 3
        with pytest.raises(DirectoryLockedError, match="is writing there"):
            pruned(directory, Latest(1))
    assert files_in(directory) == before


def test_pruning_is_refused_to_a_process_that_writes_there_itself(directory):
    lock = Store(directory).lock()
    with pytest.raises(DirectoryLockedError, match="this very process writes checkpoints there"):
        pruned(directory, Latest(1))
    lock.release()
    assert there(directory) == ["ckpt-1", "ckpt-2", "ckpt-3", "ckpt-4"]


def test_death_at_any_moment_leaves_whole_checkpoints_that_tensorflow_finds_and_the_next_pruning_finishes(
    mixed, tmp_path, monkeypatch
):
    save(mixed, 7, metrics={"loss": 0.0}, sequence=7)  # committed, and its run died before it was listed
    policy = Latest(1) | Best("loss", "max")
    for index in itertools.count():
        at = str(tmp_path / f"death-{index}")
        shutil.copytree(mixed, at)
        died = dies(monkeypatch, index, lambda at=at: pruned(at, policy, foreign=True))
        left = [verdict.name for verdict in Verification(Store(at), deep=True).verdicts() if verdict.state == "ok"]
        assert {"ckpt-3", "ckpt-7"} <= set(left)
        state = state_of(at)
        assert os.path.exists(os.path.join(at, state.model_checkpoint_path + ".index"))
        assert there(at)[-1] == "ckpt-7"
        pruned(at, policy, foreign=True)
        assert there(at) == ["ckpt-3", "ckpt-7"]
        assert state_of(at).all_model_checkpoint_paths == ("ckpt-3", "ckpt-7")
        assert set(files_in(at)) - {".ckptkit/history.jsonl"} == {
            "checkpoint",
            *(f"ckpt-{step}.{end}" for step in (3, 7) for end in ("index", "manifest.json", "data-00000-of-00001")),
        }
        if not died:
            break
    assert index > 15, "hardly anything was done, so hardly anything was tested"
