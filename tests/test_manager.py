"""What the manager adds to TensorFlow's: policies, the background, metrics; the rest is in test_differential.py."""

import errno
import gc
import logging
import re
import shutil
import threading
import time
import weakref
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import history
from ckptkit.held import Held
from ckptkit.lock import DirectoryLock
from ckptkit.policies import EveryEpochs, EverySecs, EverySteps, OnImprovement, OverheadBudget
from ckptkit.preservation import Best, Latest
from ckptkit.progress import Work
from ckptkit.store import Store
from ckptkit.which_keras import keras
from tests.checkpoint_dirs import flip
from tests.screen import Screen
from tests.test_callbacks import digest

pytestmark = pytest.mark.core


@pytest.fixture
def value():
    return tf.Variable([0.0, 0.0])


@pytest.fixture
def full_disk(monkeypatch):
    def full(self, pending, manifest):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", full)
        yield patch


def manager_of(value, directory, max_to_keep=None, **options):
    return ckptkit.CheckpointManager(tf.train.Checkpoint(value=value), directory, max_to_keep, **options)


def steps(manager):
    return [record.step for record in manager.records()]


def test_a_third_save_that_a_policy_wants_is_skipped_said_and_not_queued(value, tmp_path, gate, caplog):
    manager = manager_of(value, tmp_path, async_save=True)
    assert manager.maybe_save(1) is not None
    assert manager.maybe_save(2) is not None
    assert manager.maybe_save(3) is None
    assert "skipped the save of step 3" in caplog.text
    gate.set()
    manager.wait_until_finished()
    assert manager.maybe_save(4) is not None
    manager.close()
    assert steps(manager) == [1, 2, 4]


def test_what_was_taken_is_saved_as_it_was_whatever_has_happened_since(value, tmp_path):
    manager = manager_of(value, tmp_path)
    before = value.numpy()
    taken = manager.take({"note": "before"})
    value.assign(before + 1)
    manager.save(5, held=taken, metrics={"loss": 0.5}, epoch=2, batch=3)
    value.assign(before + 2)
    record = manager.restore()
    assert value.numpy().tolist() == before.tolist()
    assert (record.step, record.epoch, record.batch, dict(record.metrics)) == (5, 2, 3, {"loss": 0.5})
    assert manager.state(record)["note"] == b"before"


def test_a_wait_for_saves_may_have_an_end(value, tmp_path, gate):
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    assert manager.wait_until_finished(0.01) is False
    gate.set()
    assert manager.wait_until_finished(60) is True
    assert steps(manager) == [1]


def test_a_save_by_the_clock_that_is_skipped_is_due_again_when_so_much_time_has_passed(
    value, tmp_path, gate, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    manager = manager_of(value, tmp_path, async_save=True, save_policy=EverySecs(10))
    for step in range(1, 46):
        now[0] += 1.0
        manager.maybe_save(step)
    assert manager.stats().skipped == 2, "at 30 and 40, and not at every step from 30 on"
    gate.set()
    manager.close()
    assert steps(manager) == [10, 20]


def test_a_save_under_way_is_not_the_latest_before_it_is_committed(value, tmp_path, gate):
    manager = manager_of(value, tmp_path, async_save=True)
    prefix = manager.save(1)
    assert manager.latest_checkpoint is None
    gate.set()
    manager.wait_until_finished()
    assert manager.latest_checkpoint == prefix
    manager.close()


def test_nothing_is_deleted_that_neither_a_manifest_nor_the_state_file_knows(value, tmp_path):
    strangers = tf.train.Checkpoint(value=value)
    for name in ("ckpt-1", "other-2", "ckpt"):  # written without a manager: nothing lists them
        strangers.write(str(tmp_path / name))
    (tmp_path / "ckpt-9.png").write_text("a plot")
    (tmp_path / "ckpt-8").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with manager_of(value, tmp_path, 1, preservation_policy=Latest(1)) as manager:
        for step in range(11, 15):
            manager.save(step)
    assert manager.checkpoints == [str(tmp_path / "ckpt-14")]
    assert before <= {path.name for path in tmp_path.iterdir()}
    for name in ("ckpt-1", "other-2", "ckpt"):
        strangers.read(str(tmp_path / name)).assert_consumed()


def test_the_best_so_far_is_never_skipped_however_many_are_under_way(value, tmp_path, gate):
    manager = manager_of(value, tmp_path, async_save=True, preservation_policy=Best("loss", "min"))
    for step, loss in enumerate((3.0, 2.0), start=1):
        assert manager.maybe_save(step, metrics={"loss": loss}) is not None
    assert not manager.is_due(3, metrics={"loss": 2.5})
    assert manager.is_due(4, metrics={"loss": 1.5})
    gate.set()
    manager.close()


def test_no_step_is_saved_twice_but_for_what_the_end_of_an_epoch_has_measured(value, tmp_path):
    manager = manager_of(value, tmp_path)
    assert manager.maybe_save(5) is not None
    assert manager.maybe_save(5) is None
    assert manager.maybe_save(5, epoch=1) is None
    assert manager.maybe_save(5, epoch=2, metrics={"loss": 0.5}) is not None
    assert [(r.step, r.epoch, r.metrics) for r in manager.records()] == [(5, 2, {"loss": 0.5})]
    manager.close()
    again = manager_of(value, tmp_path)
    again.restore()
    assert again.maybe_save(5) is None
    assert again.maybe_save(6) is not None
    again.close()


def test_saving_by_a_counter_says_nothing_of_steps(value, tmp_path):
    manager = manager_of(value, tmp_path)
    manager.save()
    assert manager.saved_step is None
    assert manager.maybe_save(1) is not None
    manager.close()


@pytest.mark.parametrize("cause", ["a typo", "no such name"])
def test_a_metric_that_nobody_measures_is_an_error_at_the_first_validation_and_what_was_due_is_saved(
    value, tmp_path, gate, cause
):
    manager = manager_of(value, tmp_path, async_save=True, save_policy=EveryEpochs(2) | OnImprovement("val_acc", "max"))
    names = {"a typo": "val_accc", "no such name": "val_perplexity"}
    manager.maybe_save(1, epoch=1, metrics={"loss": 0.5})  # no validation, no decision
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(ValueError, match=rf"by 'val_acc': no such metric at epoch 2 \(have: {names[cause]}\)"):
        manager.maybe_save(2, epoch=2, metrics={names[cause]: 0.5})
    assert steps(manager) == [2], "saved before it is said"
    manager.close()


def test_a_metric_that_was_measured_once_is_known_even_if_an_epoch_goes_without(value, tmp_path):
    manager = manager_of(value, tmp_path, save_policy=OnImprovement("val_acc", "max"))
    manager.maybe_save(1, epoch=1, metrics={"val_acc": float("nan")})
    manager.maybe_save(2, epoch=2, metrics={"val_loss": 0.5})
    assert steps(manager) == []
    manager.maybe_save(3, epoch=3, metrics={"val_acc": 0.1})
    manager.close()
    again = manager_of(value, tmp_path, save_policy=OnImprovement("val_acc", "max"))
    again.maybe_save(4, epoch=4, metrics={"val_loss": 0.5})  # its name is in a manifest
    assert again.maybe_save(5, epoch=5, metrics={"val_acc": 0.1}) is None
    assert again.maybe_save(6, epoch=6, metrics={"val_acc": 0.2}) is not None
    again.close()


def test_an_improvement_is_one_over_what_is_being_saved_as_well(value, tmp_path, gate):
    manager = manager_of(value, tmp_path, async_save=True, save_policy=OnImprovement("loss", "min"))
    assert manager.maybe_save(1, metrics={"loss": 0.5}) is not None
    assert manager.maybe_save(2, metrics={"loss": 0.7}) is None
    gate.set()
    manager.close()


def test_policies_that_rank_one_metric_both_ways_are_refused(value, tmp_path):
    policies = {"save_policy": OnImprovement("loss", "max"), "preservation_policy": Best("loss", "min")}
    with pytest.raises(ValueError, match="'loss' is to be as small as possible by one policy and as large as possible"):
        manager_of(value, tmp_path, **policies)


@pytest.mark.parametrize(
    ("async_save", "saved"),
    [
        # Paid for by the steps that follow: 5 s each, then 20 s for the slow one.
        pytest.param(False, [1, 6, 11, 29], id="sync"),
        # What the first one beside the very first step has cost nobody can tell: the second one is to tell.
        pytest.param(True, [1, 11, 16, 34], id="async"),
    ],
)
def test_a_budget_spreads_saves_by_what_they_have_cost(value, tmp_path, monkeypatch, async_save, saved):
    now, costs, commit = [1000.0], iter([0.5, 0.5, 2.0, 0.5]), Store.commit
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])

    def slow_commit(self, pending, manifest):
        now[0] += next(costs)
        return commit(self, pending, manifest)

    monkeypatch.setattr(Store, "commit", slow_commit)
    options = {"save_policy": OverheadBudget(0.1), "async_save": async_save}
    with manager_of(value, tmp_path, **options) as manager:
        for step in range(1, 36 if async_save else 31):
            now[0] += 1.0
            if manager.maybe_save(step) is not None and async_save:
                manager._saver.writer.wait()  # the step that comes next has run beside it: it took so much longer
    assert steps(manager) == saved


def test_a_policy_decides_when_maybe_save_saves(value, tmp_path):
    manager = manager_of(value, tmp_path, save_policy=EverySteps(10))
    saved = [step for step in (4, 8, 12, 16, 20, 24, 39, 40) if manager.maybe_save(step) is not None]
    assert saved == [12, 20, 39, 40]


def test_state_is_asked_for_only_if_a_save_is_due_and_read_back_as_it_was(value, tmp_path):
    asked = []

    def state():
        asked.append(1)
        return {"note": b"\0bytes", "numbers": np.arange(3)}

    manager = manager_of(value, tmp_path, save_policy=EverySteps(2))
    manager.maybe_save(1, state=state)
    assert asked == []
    manager.maybe_save(2, state=state)
    (record,) = manager.records()
    found = manager.state(record)
    assert found["note"].numpy() == b"\0bytes"
    assert found["numbers"].numpy().tolist() == [0, 1, 2]


def test_the_best_checkpoint_is_found_restored_and_kept(value, tmp_path):
    policy = Best("loss", "min")
    manager = manager_of(value, tmp_path, 1, preservation_policy=policy)
    for step, loss in enumerate([3.0, 1.0, float("nan"), 2.0], start=1):
        value.assign([float(step)] * 2)
        manager.save(step, metrics={"loss": loss})
    assert steps(manager) == [2, 4]
    again = manager_of(value, tmp_path, 1, preservation_policy=policy)
    assert again.best_checkpoint == str(tmp_path / "ckpt-2")
    assert again.restore("best").metrics == {"loss": 1.0}
    assert value.numpy().tolist() == [2.0, 2.0]


def test_a_policy_alone_decides_where_there_is_no_max_to_keep(value, tmp_path):
    manager = manager_of(value, tmp_path, preservation_policy=Latest(2))
    for step in range(1, 6):
        manager.save(step)
    assert steps(manager) == [4, 5]


def test_the_checkpoint_a_run_was_resumed_from_is_never_deleted(value, tmp_path):
    manager_of(value, tmp_path).save(1)
    manager = manager_of(value, tmp_path, 1)
    manager.restore_or_initialize()
    for step in range(2, 5):
        manager.save(step)
    assert steps(manager) == [1, 4]


def test_the_one_resumed_from_stays_although_it_was_on_its_way_over_an_older_one(value, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    manager = manager_of(value, tmp_path)
    manager.save(1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_finish_replacing", fail)
        with pytest.raises(ckptkit.CheckpointSaveError, match="failed after its commit"):
            manager.save(1)
    manager.close()
    again = manager_of(value, tmp_path, 1)
    assert "replace-" in again.restore().prefix
    for step in range(2, 5):
        again.save(step)
    assert steps(again) == [1, 4]


def test_a_failed_background_save_is_raised_once_at_the_next_call_and_the_next_save_works(value, tmp_path, full_disk):
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-1 .*No space left.*\nThere is no complete"):
        manager.wait_until_finished()
    full_disk.undo()
    manager.save(2)
    manager.close()
    assert steps(manager) == [2]
    assert {path.name for path in (tmp_path / ".ckptkit").iterdir()} == {"history.jsonl", "lock"}


def test_a_failed_save_names_the_newest_good_checkpoint_and_leaves_it(value, tmp_path, monkeypatch):
    manager = manager_of(value, tmp_path)
    manager.save(1)
    monkeypatch.setattr(Store, "commit", lambda self, pending, manifest: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"OSError .*I/O error.*\n.*ckpt-1 is the newest complete"):
        manager.save(2)
    assert manager_of(value, tmp_path).restore().step == 1


def test_a_save_that_failed_can_be_tried_again_at_the_same_step(value, tmp_path, full_disk):
    step = tf.Variable(7)
    manager = manager_of(value, tmp_path, step_counter=step, checkpoint_interval=5)
    with pytest.raises(ckptkit.CheckpointSaveError, match="No space left"):
        manager.save()
    full_disk.undo()
    assert manager.save() is not None


def test_closing_does_not_hide_the_error_of_the_training_code(value, tmp_path, full_disk, caplog):
    def train():
        with manager_of(value, tmp_path, async_save=True) as manager:
            manager.save(1)
            raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        train()
    assert "No space left on device" in caplog.text


def test_closing_raises_what_went_wrong_in_the_background_if_nothing_else_did(value, tmp_path, full_disk):
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    with pytest.raises(ckptkit.CheckpointSaveError, match="No space left"):
        manager.__exit__(None, None, None)


def test_on_save_error_warn_logs_and_goes_on(value, tmp_path, full_disk, caplog):
    manager = manager_of(value, tmp_path, async_save=True, on_save_error="warn")
    manager.save(1)
    with caplog.at_level(logging.WARNING):
        manager.wait_until_finished()
    assert "save of ckpt-1" in caplog.text


def test_the_lock_is_freed_by_close_and_by_dropping_the_manager(value, tmp_path):
    def held():
        return [path for path in DirectoryLock._held if str(tmp_path) in path]

    manager = manager_of(value, tmp_path)
    assert held() == []
    manager.save(1)
    assert len(held()) == 1
    manager.close()
    assert held() == []
    manager.save(2)
    del manager
    gc.collect()
    assert held() == []


def test_a_read_only_manager_sees_what_another_one_saves_meanwhile(value, tmp_path):
    reader = manager_of(tf.Variable([5.0, 5.0]), tmp_path, read_only=True)
    assert reader.latest_checkpoint is None
    manager_of(value, tmp_path).save(3)
    assert reader.latest_checkpoint == str(tmp_path / "ckpt-3")
    assert reader.checkpoints == [str(tmp_path / "ckpt-3")]
    with pytest.raises(ckptkit.ReadOnlyError, match="read_only=True"):
        reader.save()


def test_write_callbacks_of_the_options_are_called_after_the_commit(value, tmp_path):
    seen = []
    options = tf.train.CheckpointOptions(
        experimental_write_callbacks=[lambda: seen.append("none"), lambda path: seen.append(path)]
    )
    manager_of(value, tmp_path).save(options=options)
    assert seen == ["none", str(tmp_path / "ckpt-1")]


def test_borrowed_values_are_given_back(value, tmp_path):
    manager = manager_of(value, tmp_path)
    manager.save(1)
    value.assign([8.0, 9.0])
    with manager.borrowed(manager.records()[0]):
        assert value.numpy().tolist() == [0.0, 0.0]
    assert value.numpy().tolist() == [8.0, 9.0]


def test_a_negative_number_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_number must not be negative, got -1"):
        manager_of(value, tmp_path).save(-1)


def test_a_save_after_which_the_state_file_cannot_be_written_is_told_from_one_that_failed(value, tmp_path, monkeypatch):
    manager = manager_of(value, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_state", lambda self, state: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(ckptkit.CheckpointSaveError, match=r"ckpt-1 is saved, but the directory could not be"):
            manager.save(1)
    assert manager_of(value, tmp_path).restore().step == 1
    manager.save(2)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-2")


@pytest.fixture
def events(monkeypatch):
    """What is written to the state file, and what is deleted, in order."""
    seen = []
    write_state, delete = Store.write_state, Store.delete

    def noted_write(self, state):
        seen.append(list(state.all_model_checkpoint_paths))
        write_state(self, state)

    def noted_delete(self, *records):
        seen.extend(f"delete {record.name}" for record in records)
        delete(self, *records)

    monkeypatch.setattr(Store, "write_state", noted_write)
    monkeypatch.setattr(Store, "delete", noted_delete)
    return seen


def test_a_save_that_deletes_nothing_writes_the_state_file_once(value, tmp_path, events):
    manager = manager_of(value, tmp_path, max_to_keep=2)
    manager.save(1)
    manager.save(2)
    assert events == [["ckpt-1"], ["ckpt-1", "ckpt-2"]]


def test_what_is_deleted_stays_in_the_state_file_until_it_is_gone(value, tmp_path, events):
    manager = manager_of(value, tmp_path, max_to_keep=1)
    manager.save(1)
    manager.save(2)
    assert events[1:] == [["ckpt-1", "ckpt-2"], "delete ckpt-1", ["ckpt-2"]]


def test_a_checkpoint_that_leaves_the_list_for_its_age_leaves_the_state_file_as_well(value, tmp_path, events):
    manager = manager_of(value, tmp_path, max_to_keep=1, keep_checkpoint_every_n_hours=1e-9)
    manager.save(1)
    manager.save(2)
    assert events[1:] == [["ckpt-1", "ckpt-2"], ["ckpt-2"]]
    assert steps(manager) == [1, 2]


def test_a_checkpoint_whose_table_of_tensors_is_spoilt_is_found_out_at_the_restore(value, tmp_path, caplog):
    manager = manager_of(value, tmp_path)
    manager.save(1)
    manager.save(2)
    manifest = tmp_path / "ckpt-2.manifest.json"
    manifest.write_text(manifest.read_text().replace('"float32"', '"float32'))
    assert manager_of(value, tmp_path).restore().step == 1
    assert "manifest of" in caplog.text
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"manifest of .*ckpt-2 is damaged"):
        manager_of(value, tmp_path).restore(2)


def spoil(data):
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])


def test_a_best_that_is_found_to_be_damaged_gives_its_place_to_the_next_but_is_not_replaced_when_asked_for(
    value, tmp_path
):
    def opened(max_to_keep):
        return manager_of(value, tmp_path, max_to_keep, preservation_policy=Best("loss", "min"))

    manager = opened(2)
    for step, loss in ((1, 0.5), (2, 0.1)):
        manager.save(step, metrics={"loss": loss})
    spoil(tmp_path / "ckpt-2.data-00000-of-00001")
    manager = opened(1)
    assert manager.restore().step == 1
    manager.save(3, metrics={"loss": 0.6})
    assert manager.best_record.step == 1
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"ckpt-2.* is damaged"):
        manager.restore("best")
    manager.save(2, metrics={"loss": 0.1})
    assert manager.restore("best").step == 2


@pytest.mark.parametrize("file", ["ckpt-2.data-00000-of-00001", "ckpt-2.index"])
def test_what_one_process_has_found_damaged_pushes_out_no_sound_best_in_those_after_it(value, tmp_path, file):
    def opened(max_to_keep):
        return manager_of(value, tmp_path, max_to_keep, preservation_policy=Best("loss", "min"))

    manager = opened(2)
    for step, loss in ((1, 0.5), (2, 0.1)):
        manager.save(step, metrics={"loss": loss})
    spoil(tmp_path / file)
    for newest, step in ((1, 3), (3, 4), (4, 5), (5, 6)):  # a life each: it does not read what the one before it left
        with opened(1) as manager:
            assert manager.restore().step == newest
            manager.save(step, metrics={"loss": 0.6})
    assert steps(manager) == [1, 2, 5, 6]  # the sound best, the damaged, the one resumed from, the newest
    assert opened(1).restore(1).step == 1


def test_a_best_that_was_asked_for_by_name_and_is_damaged_pushes_no_sound_one_out(value, tmp_path):
    manager = manager_of(value, tmp_path, 1, preservation_policy=Best("loss", "min") | Latest(3))
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.6)):
        manager.save(step, metrics={"loss": loss})
    spoil(tmp_path / "ckpt-2.data-00000-of-00001")
    manager = manager_of(value, tmp_path, 1, preservation_policy=Best("loss", "min"))
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"ckpt-2.* is damaged"):
        manager.restore("best")
    manager.save(4, metrics={"loss": 0.7})
    assert steps(manager) == [1, 2, 4]


def test_a_damaged_best_that_was_brought_back_is_the_best_again(value, tmp_path):
    manager = manager_of(value, tmp_path, preservation_policy=Best("loss", "min") | Latest(9))
    for step, loss in ((1, 0.5), (2, 0.1)):
        manager.save(step, metrics={"loss": loss})
    spoil(tmp_path / "ckpt-2.data-00000-of-00001")
    manager = manager_of(value, tmp_path, preservation_policy=Best("loss", "min") | Latest(9))
    assert manager.restore().step == 1
    manager.save(3, metrics={"loss": 0.6})
    spoil(tmp_path / "ckpt-2.data-00000-of-00001")
    again = manager_of(value, tmp_path, preservation_policy=Best("loss", "min") | Latest(9))
    assert (again.best_record.step, again.restore("best").step) == (2, 2)


def test_what_a_save_cost_is_told_in_all_and_in_one_line(value, tmp_path, caplog):
    caplog.set_level("INFO", logger="ckptkit")
    with manager_of(value, tmp_path, 3, async_save=True) as manager:
        manager.save(7)
        manager.wait_until_finished()
        stats = manager.stats()
        (record,) = manager.records()
    assert (stats.saves, stats.failed, stats.skipped, stats.last.step) == (1, 0, 0, 7)
    assert stats.bytes_written == stats.last.size_bytes == record.size_bytes
    assert 0 < stats.blocked_secs <= stats.lost_secs
    assert 0 < stats.staged_secs <= stats.written_secs
    assert stats.synced_secs > 0
    lines = [each.getMessage() for each in caplog.records if each.levelname == "INFO"]
    assert [line.split(":")[0] for line in lines] == [f"saved {tmp_path}/ckpt-7"]


def test_a_restore_says_in_one_line_what_from_where_how_old_and_how_fast(value, tmp_path, caplog, monkeypatch):
    manager = manager_of(value, tmp_path, 3)
    manager.save(7)
    monkeypatch.setattr("ckptkit.reader.time.time", lambda: manager.records()[0].created_at + 200)
    caplog.set_level("INFO", logger="ckptkit")
    for restore in (lambda: manager.restore(7), manager.restore_or_initialize):
        caplog.clear()
        restore()
        (line,) = [each.getMessage() for each in caplog.records]
        assert re.fullmatch(rf"restored {tmp_path}/ckpt-7, saved 3 min ago: [0-9]+ B in [0-9.]+ m?s", line)


def test_a_large_restore_shows_a_bar_where_somebody_looks_on(tmp_path, monkeypatch):
    monkeypatch.setattr("ckptkit.progress._WORTH_A_BAR", 4_000_000)
    monkeypatch.setenv("TERM", "xterm")
    read, advance = [], Work.advance
    monkeypatch.setattr(Work, "advance", lambda work, size: read.append(size) or advance(work, size))
    manager = manager_of(tf.Variable(tf.ones(1_000_000)), tmp_path)
    manager.save(1)
    with Screen() as screen:
        manager.restore()
    assert "restoring ckpt-1" in screen.text
    assert sum(read) >= 4_000_000
    flip(tmp_path, "ckpt-1.data-00000-of-00001", 2_000_000)  # in the midst of it: between tensors there may be a gap
    with Screen() as screen, pytest.raises(ckptkit.CheckpointDamagedError, match="is damaged"):
        manager.restore()
    assert "restoring ckpt-1" in screen.text
    assert screen.text.endswith("\x1b[2K")


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_manager_that_is_to_be_silent_tells_what_goes_wrong_alone(value, tmp_path, caplog, disk, verbose):
    caplog.set_level("INFO", logger="ckptkit")
    manager = manager_of(value, tmp_path, verbose=verbose, on_save_error="warn")
    assert manager.verbose == verbose
    disk.append(OSError(28, "No space left on device"))
    for step in (1, 2):
        manager.save(step)
    manager.restore()
    told = [each.getMessage().split()[0] for each in caplog.records if each.levelname == "INFO"]
    assert told == ["saved", "restored"] * verbose
    assert [each.levelname for each in caplog.records if each.levelname != "INFO"] == ["WARNING"]


@pytest.mark.parametrize("in_background", [True, False], ids=["async", "sync"])
def test_a_save_is_told_of_when_it_is_done_where_nobody_tells_of_steps(value, tmp_path, caplog, in_background):
    caplog.set_level("INFO", logger="ckptkit")
    manager = manager_of(value, tmp_path, 3, async_save=in_background)
    for _ in range(3):
        manager.save()
    manager._saver.writer.wait()
    assert [each.getMessage().split(":")[0] for each in caplog.records] == [
        f"saved {tmp_path}/ckpt-{number}" for number in (1, 2, 3)
    ]
    stats = manager.stats()
    assert stats.saves == 3
    if not in_background:
        assert stats.blocked_secs > stats.written_secs


def test_time_lost_counts_the_steps_that_took_longer_during_a_save(value, tmp_path, gate, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    manager = manager_of(value, tmp_path, 3, async_save=True, save_policy=EverySteps(10))
    for step in range(1, 11):
        now[0] += 1.0
        manager.maybe_save(step)
    now[0] += 1.5  # the eleventh step, during which the save is written
    assert manager.maybe_save(11) is None
    gate.set()
    manager._saver.writer.wait()
    now[0] += 1.0
    manager.maybe_save(12)
    assert manager.stats().lost_secs == pytest.approx(0.5)


def test_the_time_between_two_epochs_is_not_lost_to_a_save(value, tmp_path, gate, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    manager = manager_of(value, tmp_path, 3, async_save=True, save_policy=EverySteps(10))
    for step in range(1, 11):
        now[0] += 1.0
        manager.maybe_save(step, epoch=0)
    now[0] += 30.0  # the last step of the epoch and a validation
    manager.maybe_save(11, epoch=1)
    gate.set()
    manager._saver.writer.wait()
    now[0] += 1.0
    manager.maybe_save(12, epoch=1)
    assert manager.stats().saves == 1
    assert manager.stats().lost_secs == 0


def test_a_save_that_failed_and_one_that_was_skipped_are_counted(value, tmp_path, gate, monkeypatch):
    manager = manager_of(value, tmp_path, 3, async_save=True, on_save_error="warn")
    for step in range(1, 5):
        manager.maybe_save(step)
    assert manager.stats().skipped == 2
    monkeypatch.setattr(Store, "commit", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    gate.set()
    manager.wait_until_finished()
    assert (manager.stats().saves, manager.stats().failed) == (0, 2)
    assert manager.stats().bytes_written == 0


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch):
    """What goes wrong in the next saves, one after the other; None for those that go well."""
    errors, commit = [], Store.commit

    def failing(self, pending, manifest):
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        return commit(self, pending, manifest)

    monkeypatch.setattr(Store, "commit", failing)
    return errors


def full():
    return OSError(errno.ENOSPC, "No space left on device")


both_ways = pytest.mark.parametrize("in_background", [True, False], ids=["async", "sync"])


@both_ways
def test_failed_saves_that_are_put_up_with_are_logged_counted_and_return_when_there_is_a_result(
    value, tmp_path, disk, caplog, in_background
):
    disk += [full(), full()]
    manager = manager_of(value, tmp_path, async_save=in_background, on_save_error="warn")
    returned = [manager.save(step) for step in (1, 2, 3)]
    manager.close()
    assert [prefix is not None for prefix in returned] == [in_background, in_background, True]
    assert [(r.levelname, r.message.split(" to ")[0]) for r in caplog.records if r.levelname == "WARNING"] == [
        ("WARNING", "save of ckpt-1"),
        ("WARNING", "save of ckpt-2"),
    ]
    assert (manager.stats().failed, manager.stats().saves) == (2, 1)
    assert steps(manager) == [3]


@both_ways
def test_failed_saves_in_a_row_are_raised_after_the_number_that_is_put_up_with(value, tmp_path, disk, in_background):
    disk += [full(), full(), None, full(), full(), full()]
    manager = manager_of(value, tmp_path, async_save=in_background, on_save_error="warn", max_save_errors=3)
    for step in range(1, 6):
        manager.save(step)
        manager.wait_until_finished()
    told = r"(?s)save of ckpt-6 .*ckpt-3 is the newest .*\n3 saves in a row have failed, and max_save_errors=3"
    with pytest.raises(ckptkit.CheckpointSaveError, match=told):  # noqa: PT012
        manager.save(6)
        manager.wait_until_finished()
    manager.save(7)
    manager.close()
    assert steps(manager) == [3, 7]


def test_a_number_of_errors_that_cannot_be_meant_is_refused_with_the_manager(value, tmp_path):
    with pytest.raises(ValueError, match=r"max_save_errors must be a whole number of at least 1"):
        manager_of(value, tmp_path, max_save_errors=0)


def lock_fails(monkeypatch):
    def refuse(path, durable=True):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("ckptkit.store.make_directory", refuse)


def test_a_directory_that_cannot_be_made_is_an_error_of_ours_and_the_next_save_tries_again(
    value, tmp_path, monkeypatch
):
    manager = manager_of(value, tmp_path / "run")
    with monkeypatch.context() as patch:
        lock_fails(patch)
        with pytest.raises(
            ckptkit.CheckpointSaveError,
            match=r"cannot write checkpoints to .*run: PermissionError EACCES Permission denied: '.*run/.ckptkit'\n"
            r"There is no complete checkpoint yet. Let this user write there",
        ):
            manager.save(1)
    assert manager.stats().failed == 1
    manager.save(1)
    assert steps(manager) == [1]


def test_a_directory_that_cannot_be_made_is_put_up_with_like_any_failed_save(value, tmp_path, monkeypatch, caplog):
    manager = manager_of(value, tmp_path / "run", on_save_error="warn", max_save_errors=2)
    with monkeypatch.context() as patch:
        lock_fails(patch)
        assert manager.save(1) is None
        assert "cannot write checkpoints to" in caplog.text
        with pytest.raises(ckptkit.CheckpointSaveError, match="2 saves in a row have failed"):
            manager.save(2)
    assert manager.stats().failed == 2


def test_a_directory_that_could_be_locked_and_not_read_is_free_again(value, tmp_path, monkeypatch):
    manager = manager_of(value, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "scan", lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(
            ckptkit.CheckpointSaveError, match=r"cannot write checkpoints to .*: OSError EIO Input/output error"
        ):
            manager.save(1)
    assert [path for path in DirectoryLock._held if str(tmp_path) in path] == []
    manager.save(1)
    assert steps(manager) == [1]


@both_ways
def test_a_save_without_room_is_refused_before_anything_is_written(value, tmp_path, monkeypatch, in_background):
    manager = manager_of(value, tmp_path, max_to_keep=1, async_save=in_background)
    manager.save(1)
    manager.wait_until_finished()
    wide = tf.Variable(tf.zeros([1000, 100]))
    manager.checkpoint.wide = wide
    opened = []
    with monkeypatch.context() as patch:
        patch.setattr("ckptkit.free_space.free_bytes", lambda directory: 400_000)
        patch.setattr(Store, "begin", lambda self, name: opened.append(name))
        told = (
            r"save of ckpt-2 to .* failed: OSError ENOSPC it needs 40\d kB, and 400 kB are free; nothing was written: "
            r"'.*'\n.*ckpt-1 is the newest complete checkpoint. Free space there"
        )
        with pytest.raises(ckptkit.CheckpointSaveError, match=told):  # noqa: PT012
            manager.save(2)
            manager.wait_until_finished()
    assert opened == []
    assert steps(manager) == [1]
    manager.save(2)
    manager.close()
    assert steps(manager) == [2]


def test_room_is_looked_for_in_the_thread_that_writes(value, tmp_path, gate, monkeypatch):
    threads = []
    monkeypatch.setattr("ckptkit.saving.require_room", lambda *_: threads.append(threading.current_thread()))
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    gate.set()
    manager.close()
    assert [thread.name[:8] for thread in threads] == ["ckptkit-"]


def test_of_two_background_saves_that_failed_the_first_is_raised_and_the_other_logged(
    value, tmp_path, disk, gate, caplog
):
    disk += [full(), OSError(errno.EIO, "Input/output error")]
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    manager.save(2)
    gate.set()
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-1 .*ENOSPC"):
        manager.wait_until_finished()
    assert [(r.levelname, r.message[:14]) for r in caplog.records] == [("ERROR", "save of ckpt-2")]
    manager.close()


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), KeyboardInterrupt("ours"), SystemExit("ours")], ids=repr)
def test_close_in_a_finally_does_not_hide_the_error_that_passes(value, tmp_path, disk, caplog, error):
    disk.append(full())

    def train():
        manager = manager_of(value, tmp_path, async_save=True)
        try:
            manager.save(1)
            raise error
        finally:
            manager.close()

    with pytest.raises(type(error), match="ours"):
        train()
    assert [(r.levelname, r.message[:14]) for r in caplog.records] == [("ERROR", "save of ckpt-1")]


def test_close_raises_what_failed_although_an_error_is_being_handled_further_up(value, tmp_path, disk):
    disk.append(full())

    def train_smaller():
        manager = manager_of(value, tmp_path, async_save=True)
        manager.save(1)
        manager.close()

    def train():
        try:
            raise MemoryError("too large")
        except MemoryError:
            train_smaller()

    with pytest.raises(ckptkit.CheckpointSaveError, match="save of ckpt-1"):
        train()


def test_an_error_of_a_write_callback_does_not_hide_that_of_the_training_code(value, tmp_path, caplog):
    def broken():
        raise LookupError("theirs")

    options = tf.train.CheckpointOptions(experimental_write_callbacks=[broken])
    with pytest.raises(ZeroDivisionError, match="ours"), manager_of(value, tmp_path, async_save=True) as manager:  # noqa: PT012
        manager.save(options=options)
        raise ZeroDivisionError("ours")
    assert [(r.levelname, r.message) for r in caplog.records] == [("ERROR", "theirs")]


def test_a_failed_save_that_nobody_asked_for_is_logged_when_the_manager_goes(value, tmp_path, disk, caplog):
    disk.append(full())
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    manager._saver.writer.wait()
    assert caplog.records == []
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None
    assert [(r.levelname, r.message[:14]) for r in caplog.records] == [("ERROR", "save of ckpt-1")]


def test_an_interrupted_close_leaves_the_directory_locked_while_a_save_is_under_way(value, tmp_path, gate, monkeypatch):
    def held():
        return [path for path in DirectoryLock._held if str(tmp_path) in path]

    wait = threading.Condition.wait

    def interrupt(self, timeout=None):
        if threading.current_thread() is not threading.main_thread():  # the save may not have come to its gate yet
            return wait(self, timeout)
        raise KeyboardInterrupt

    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(threading.Condition, "wait", interrupt)
        manager.close()
    assert len(held()) == 1
    gate.set()
    manager.close()
    assert held() == []
    assert steps(manager) == [1]


def test_an_interrupted_save_is_over_and_a_retry_at_the_same_step_saves(value, tmp_path, disk):
    disk.append(KeyboardInterrupt())
    step = tf.Variable(7)
    manager = manager_of(value, tmp_path, step_counter=step, checkpoint_interval=5)
    with pytest.raises(KeyboardInterrupt):
        manager.save()
    assert manager.stats().failed == 1
    assert {path.name for path in (tmp_path / ".ckptkit").iterdir()} == {"history.jsonl", "lock"}
    assert manager.save() is not None
    assert manager.stats().saves == 1


def test_a_save_that_was_interrupted_before_the_writer_took_it_is_over(value, tmp_path, gate, monkeypatch):
    def interrupt(self, job):
        raise KeyboardInterrupt

    step = tf.Variable(7)
    manager = manager_of(value, tmp_path, step_counter=step, checkpoint_interval=5, async_save=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr("ckptkit.writer.BackgroundWriter.submit", interrupt)
        manager.save()
    gate.set()
    assert manager.save() is not None
    manager.close()
    assert (manager.stats().failed, manager.stats().saves) == (1, 1)


def test_maybe_save_can_be_tried_again_at_the_same_step(value, tmp_path, disk):
    disk.append(full())
    manager = manager_of(value, tmp_path, save_policy=EverySteps(10))
    with pytest.raises(ckptkit.CheckpointSaveError, match="No space left"):
        manager.maybe_save(10)
    assert manager.maybe_save(10) is not None


@both_ways
def test_a_failed_save_changes_no_variable_but_the_counter_of_saves(tmp_path, disk, in_background):
    disk.append(full())
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = ckptkit.CheckpointManager(checkpoint, tmp_path, 3, async_save=in_background)
    before = digest([*model.variables, *model.optimizer.variables])
    with pytest.raises(ckptkit.CheckpointSaveError, match="No space left"):  # noqa: PT012
        manager.save()
        manager.wait_until_finished()
    assert digest([*model.variables, *model.optimizer.variables]) == before
    assert int(checkpoint.save_counter) == 1  # as TensorFlow's manager counts
    manager.save()
    manager.close()
    assert manager.restore().step == 2
    assert digest([*model.variables, *model.optimizer.variables]) == before


def test_what_a_failed_save_held_is_let_go_though_its_error_is_kept(value, tmp_path, disk, monkeypatch):
    taken, take = [], Held.__init__

    def noted(self, values):
        values = list(values)
        taken.extend(weakref.ref(each) for each in values)
        take(self, values)

    monkeypatch.setattr(Held, "__init__", noted)
    manager = manager_of(value, tmp_path)
    manager.save(1)  # the graph is collected, and held for the next
    taken.clear()
    for breaks in ("ckptkit.saving.require_room", "ckptkit.held.BundleWriter"):
        with monkeypatch.context() as patch:
            patch.setattr(breaks, lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
            with pytest.raises(ckptkit.CheckpointSaveError, match="EIO"):
                manager.save(2)
        # what is still there belongs to the graph, not to the save
        assert [each().key for each in taken if each() is not None and each().key.startswith("value/")] == []


def test_the_cause_is_told_where_undoing_a_failed_save_fails_as_well_and_the_next_save_tidies_up(
    value, tmp_path, disk, monkeypatch
):
    disk.append(full())
    manager = manager_of(value, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_roll_back", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-1 to .* ENOSPC No space left"):
            manager.save(1)
    assert len(list((tmp_path / ".ckptkit").iterdir())) == 3
    manager.save(2)
    assert {path.name for path in (tmp_path / ".ckptkit").iterdir()} == {"history.jsonl", "lock"}


def test_what_cannot_be_tidied_up_is_told_and_stops_no_save(value, tmp_path, disk, monkeypatch, caplog):
    disk.append(full())
    manager = manager_of(value, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_roll_back", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(ckptkit.CheckpointSaveError, match="ENOSPC"):
            manager.save(1)
        manager.save(2)
    assert "is left over from a save that failed, and stays for now: [Errno 5] Input/output error" in caplog.text
    manager.save(3)
    assert {path.name for path in (tmp_path / ".ckptkit").iterdir()} == {"history.jsonl", "lock"}
    assert steps(manager) == [2, 3]


def story(directory):
    """Kind and step, or names, of what has happened."""
    return [(event.kind, event.facts.get("names", event.facts["step"])) for event in history.read(str(directory))]


def test_the_history_tells_what_was_saved_pruned_restored_and_how_it_ended(value, tmp_path):
    manager = manager_of(value, tmp_path, 2)
    with manager:
        for step in (1, 2, 3):
            manager.save(step, metrics={"loss": 1 / step}, epoch=step - 1, batch=step)
        manager.restore(2)
    saves = [("saved", 1), ("cost", 1), ("saved", 2), ("cost", 2), ("saved", 3), ("pruned", ["ckpt-1"]), ("cost", 3)]
    assert story(tmp_path) == [("begun", 0), *saves, ("restored", 2), ("ended", 2)]
    events = history.read(str(tmp_path))
    assert (events[0].facts["resumed_from"], events[0].facts["workers"]) == (None, 1)
    saved, cost, stats = events[5].facts, events[7].facts, manager.stats()
    assert {"name": "ckpt-3", "epoch": 2, "batch": 3, "metrics": {"loss": 1 / 3}}.items() <= saved.items()
    assert saved["size_bytes"] == manager.records()[-1].size_bytes
    assert (saved["written_secs"], saved["synced_secs"]) == (stats.last.written_secs, stats.last.synced_secs)
    assert 0 < saved["blocked_secs"] <= cost["blocked_secs"] == stats.last.blocked_secs <= cost["lost_secs"]
    with suppress(ZeroDivisionError), manager_of(value, tmp_path, 2) as again:
        again.restore()
        again.save(4)
        again.save(5 // 0)
    begun, *_, ended = history.read(str(tmp_path))[len(events) :]
    assert (begun.facts["resumed_from"], begun.facts["step"]) == ("ckpt-3", 3)
    assert ended.facts["error"] == "ZeroDivisionError"


def test_the_history_tells_of_saves_that_were_skipped_and_that_failed(value, tmp_path, gate, monkeypatch):
    manager = manager_of(value, tmp_path, async_save=True, on_save_error="warn")
    for step in (1, 2, 3):
        manager.maybe_save(step)
    gate.set()
    manager.wait_until_finished()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", Mock(side_effect=OSError(28, "No space left on device")))
        manager.save(4)
        manager.wait_until_finished()
    assert {("skipped", 3), ("saved", 1), ("saved", 2), ("failed", 4)} <= set(story(tmp_path))
    assert "No space left" in history.read(str(tmp_path))[-1].facts["why"]
    manager.close()


def test_who_only_looks_on_leaves_no_line(value, tmp_path):
    with manager_of(value, tmp_path) as manager:
        manager.save(1)
    told = story(tmp_path)
    for read_only in (True, False):
        with manager_of(value, tmp_path, read_only=read_only) as manager:
            manager.restore()
            if read_only:
                manager.begin_history()
    assert story(tmp_path) == told


def test_a_manager_that_nobody_closed_has_ended_when_it_is_let_go_of(value, tmp_path):
    manager_of(value, tmp_path).save(1)
    gc.collect()
    assert story(tmp_path)[-1] == ("ended", 1)


# How it is shown ---------------------------------------------------------------------------------------------------


def test_a_manager_shows_what_is_in_its_directory(value, tmp_path):
    with manager_of(value, tmp_path, preservation_policy=Best("loss", "min")) as manager:
        assert repr(manager) == f"<CheckpointManager {tmp_path}: no checkpoints>"
        for step in (1, 2):
            manager.save(step, metrics={"loss": float(step)})
        told = repr(manager)
        assert told.startswith(f"<CheckpointManager {tmp_path}: 2 checkpoints, latest ckpt-2 (step 2, ")
        assert told.endswith("best ckpt-1 by loss 1>")
        assert "<td>best</td>" in manager._repr_html_()
    assert repr(manager).endswith("best ckpt-1 by loss 1>")  # closed


def test_a_manager_that_only_reads_shows_what_is_there_now(value, tmp_path):
    reader = manager_of(value, tmp_path, read_only=True)
    manager_of(value, tmp_path).save()
    assert "1 checkpoint," in repr(reader)
    (tmp_path / "ckpt-1.index").write_bytes(b"")
    assert repr(reader) == f"<CheckpointManager {tmp_path}: no checkpoints, 1 damaged>"
    assert "damaged: ckpt-1.index has 0 bytes" in reader._repr_html_()


def test_to_show_a_manager_takes_no_lock_changes_nothing_and_works_where_the_directory_is_gone(value, tmp_path):
    directory = tmp_path / "run"
    manager_of(value, directory).save()
    manager, reader = manager_of(value, directory), manager_of(value, directory, read_only=True)
    gc.collect()  # the first one is gone, and its lock
    value.assign([5.0, 5.0])
    before = sorted(directory.rglob("*"))
    assert all("1 checkpoint" in told for each in (manager, reader) for told in (repr(each), each._repr_html_()))
    assert sorted(directory.rglob("*")) == before
    assert value.numpy().tolist() == [5.0, 5.0]
    assert not any(key.startswith(str(directory)) for key in DirectoryLock._held)
    shutil.rmtree(directory)
    assert "1 checkpoint," in repr(manager)  # as far as it knows
    assert repr(reader) == f"<CheckpointManager {directory}: no checkpoints>"
    directory.write_text("a file")
    assert repr(reader) == f"<CheckpointManager {directory}: no checkpoints>"
    assert "no checkpoints" in reader._repr_html_()


def test_a_manager_whose_arguments_were_refused_can_be_shown_in_a_traceback():
    refused = object.__new__(ckptkit.CheckpointManager)
    assert repr(refused).startswith("<ckptkit.manager.CheckpointManager object at")
    assert refused._repr_html_() is None
