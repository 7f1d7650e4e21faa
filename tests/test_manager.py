"""What the manager adds to TensorFlow's: policies, the background, metrics; the rest is in test_differential.py."""

import gc
import logging
import time

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.lock import DirectoryLock
from ckptkit.policies import EverySteps
from ckptkit.preservation import Best, Latest
from ckptkit.store import Store


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


def test_a_save_under_way_is_not_the_latest_before_it_is_committed(value, tmp_path, gate):
    manager = manager_of(value, tmp_path, async_save=True)
    prefix = manager.save(1)
    assert manager.latest_checkpoint is None
    gate.set()
    manager.wait_until_finished()
    assert manager.latest_checkpoint == prefix
    manager.close()


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


def test_a_failed_background_save_is_raised_once_at_the_next_call_and_the_next_save_works(value, tmp_path, full_disk):
    manager = manager_of(value, tmp_path, async_save=True)
    manager.save(1)
    with pytest.raises(ckptkit.CheckpointSaveError, match=r"save of ckpt-1 .*No space left.*\nThere is no complete"):
        manager.wait_until_finished()
    full_disk.undo()
    manager.save(2)
    manager.close()
    assert steps(manager) == [2]
    assert [path.name for path in (tmp_path / ".ckptkit").iterdir()] == ["lock"]


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


def test_a_best_that_is_found_to_be_damaged_gives_its_place_to_the_next_but_is_not_replaced_when_asked_for(
    value, tmp_path
):
    def opened(max_to_keep):
        return manager_of(value, tmp_path, max_to_keep, preservation_policy=Best("loss", "min"))

    manager = opened(2)
    for step, loss in ((1, 0.5), (2, 0.1)):
        manager.save(step, metrics={"loss": loss})
    data = tmp_path / "ckpt-2.data-00000-of-00001"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    manager = opened(1)
    assert manager.restore().step == 1
    manager.save(3, metrics={"loss": 0.6})
    assert manager.best_record.step == 1
    with pytest.raises(ckptkit.CheckpointDamagedError, match=r"ckpt-2.* is damaged"):
        manager.restore("best")
    manager.save(2, metrics={"loss": 0.1})
    assert manager.restore("best").step == 2


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


@pytest.mark.parametrize("in_background", [True, False], ids=["async", "sync"])
def test_a_save_is_told_of_when_it_is_done_where_nobody_tells_of_steps(value, tmp_path, caplog, in_background):
    caplog.set_level("INFO", logger="ckptkit")
    manager = manager_of(value, tmp_path, 3, async_save=in_background)
    for _ in range(3):
        manager.save()
    manager._writer.wait()
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
    manager._writer.wait()
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
    manager._writer.wait()
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
