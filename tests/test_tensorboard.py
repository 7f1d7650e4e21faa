"""tensorboard: what saves cost is in event files that TensorBoard reads, whoever writes them and when."""

import collections
import glob
import os

import pytest
import tensorflow as tf

import ckptkit
from ckptkit.history import History
from ckptkit.tensorboard import SaveScalars
from ckptkit.which_keras import keras

pytestmark = pytest.mark.core


def scalars(log_dir):
    """(step, value) pairs by tag, of all files, in the order in which they were written."""
    found = collections.defaultdict(list)
    for path in sorted(glob.glob(os.path.join(log_dir, "events*")), key=os.path.getmtime):
        for record in tf.data.TFRecordDataset(path):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found[value.tag].append((event.step, float(tf.make_ndarray(value.tensor))))
    return dict(found)


@pytest.fixture
def history(tmp_path):
    (tmp_path / "run" / ".ckptkit").mkdir(parents=True)
    history = History(str(tmp_path / "run"))
    history.listen(SaveScalars(str(tmp_path / "logs"), str(tmp_path / "run")))
    return history


SAVED = {"written_secs": 0.5, "synced_secs": 0.25, "size_bytes": 400_000_000}


def test_each_number_stands_at_its_step(history, tmp_path):
    history.begin(step=0, resumed_from=None)
    assert not os.listdir(tmp_path / "logs")  # not a file before there is something to say
    history.note("saved", name="ckpt-10", step=10, **SAVED)
    history.note("cost", name="ckpt-10", step=10, blocked_secs=0.002, lost_secs=0.125)
    history.note("skipped", step=11)
    history.note("skipped", step=12)
    history.note("restored", name="ckpt-10", step=10)
    history.note("pruned", names=["ckpt-5"])
    history.note("saved", name="ckpt-15", step=15, **SAVED)  # what was there before it is in the file now
    assert scalars(tmp_path / "logs") == {
        "checkpoint/save_secs": [(10, 0.75), (15, 0.75)],
        "checkpoint/bytes": [(10, 4e8), (15, 4e8)],
        "checkpoint/blocked_secs": [(10, pytest.approx(0.002))],
        "checkpoint/lost_secs": [(10, 0.125)],
        "checkpoint/skipped_saves": [(11, 1.0), (12, 2.0)],
        "checkpoint/restores": [(10, 1.0)],
    }


def test_restores_count_on_in_the_next_process_and_after_an_end(history, tmp_path):
    history.begin(step=0, resumed_from=None)
    history.end()
    for step in (10, 20):
        history.begin(step=step, resumed_from=f"ckpt-{step}")
        history.note("saved", name=f"ckpt-{step + 5}", step=step + 5, **SAVED)
        history.end(kind="preempted", step=step + 5)
    other = History(str(tmp_path / "run"))
    other.listen(SaveScalars(str(tmp_path / "logs"), str(tmp_path / "run")))
    other.begin(step=30, resumed_from="ckpt-30")
    other.end()
    found = scalars(tmp_path / "logs")
    assert found["checkpoint/restores"] == [(10, 1.0), (20, 2.0), (30, 3.0)]
    assert [step for step, _ in found["checkpoint/bytes"]] == [15, 25]


def test_a_script_that_records_no_summaries_of_its_own_gets_ours_all_the_same(history, tmp_path):
    with tf.summary.record_if(False):
        history.begin(step=1, resumed_from="ckpt-1")
        history.note("saved", name="ckpt-2", step=2, **SAVED)
    assert set(scalars(tmp_path / "logs")) == {"checkpoint/restores", "checkpoint/save_secs", "checkpoint/bytes"}


def test_nothing_is_written_in_the_way_of_a_step_and_no_file_stays_open(history, tmp_path):
    def open_files():
        links = (os.path.join("/proc/self/fd", each) for each in os.listdir("/proc/self/fd"))
        return [path for path in map(os.path.realpath, links) if path.startswith(str(tmp_path / "logs"))]

    history.begin(step=5, resumed_from="ckpt-5")
    history.note("cost", name="ckpt-5", step=5, blocked_secs=0.1, lost_secs=0.2)
    history.note("skipped", step=6)
    assert os.listdir(tmp_path / "logs") == []
    history.note("saved", name="ckpt-7", step=7, **SAVED)
    assert len(open_files()) == 1
    history.end()
    assert open_files() == []


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        SaveScalars(str(tmp_path / "file" / "logs"), str(tmp_path))


def test_fit_writes_them(tmp_path):
    for epochs in (1, 2):
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        checkpoint = ckptkit.TrainingCheckpoint(tmp_path / "run", save_freq=2, tensorboard_dir=tmp_path / "logs")
        model.fit(tf.ones((16, 4)), tf.ones((16, 1)), 4, epochs=epochs, verbose=0, callbacks=[checkpoint])
    found = scalars(tmp_path / "logs")
    stats = checkpoint.manager.stats()
    assert [step for step, _ in found["checkpoint/bytes"]] == [2, 4, 6, 8]
    assert sum(value for _, value in found["checkpoint/bytes"][2:]) == stats.bytes_written
    for name in ("save_secs", "blocked_secs", "lost_secs"):
        assert [step for step, _ in found[f"checkpoint/{name}"]] == [2, 4, 6, 8]
    blocked = sum(value for _, value in found["checkpoint/blocked_secs"][2:])
    assert blocked == pytest.approx(stats.blocked_secs, rel=1e-4)
    assert found["checkpoint/restores"] == [(4, 1.0)]
