"""MultiWorkerMirroredStrategy: real workers on loopback, killed at any point of a save, go on with the same bits."""

import os
import shutil

import pytest
import tensorflow as tf

from ckptkit.store import Store
from tests.clusters import run_workers

pytestmark = pytest.mark.slow

# Who is killed, and when: in the body of a step, or as a file is to get its name.
KILLS = [
    (1, 3),  # a worker, in a step
    (0, "common.json"),  # the chief, when its values are written and no other one knows it
    (1, "worker-1.at-"),  # a worker, when it has written its part and not handed it in
    (0, ".manifest.json"),  # the chief, before the commit
    (0, "ended.json"),  # the chief, when the commit is done and no other one knows it
    (1, "seen-1"),  # a worker, when it knows
    (0, 14),  # the chief, in a step
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def never_killed(fork_server, folder):
    """What comes of two workers that nobody kills."""
    return [worker.result for worker in run_workers(fork_server, 2, folder / "never", {"data": "per_worker"})]


@pytest.fixture(scope="module")
def told(fork_server, folder):
    """What comes of two workers, one of which is told to end in step 7, and where they have saved."""
    workers = run_workers(
        fork_server, 2, folder / "told", {"data": "distributed", "every": 100, "told": [1, 7]}, patience_secs=20
    )
    return workers, folder / "told"


def copied(told, name):
    """Return a copy of the directory that workers have left together."""
    return shutil.copytree(told[1], told[1].parent / name)


def committed(directory):
    return sorted(int(name[5:-14]) for name in os.listdir(directory) if name.endswith(".manifest.json"))


def test_workers_train_the_same_weights_on_data_of_their_own(never_killed):
    chief, other = never_killed
    assert chief["weights"] == other["weights"]
    assert chief["hash"] != other["hash"]  # BatchNorm's statistics, noise, NumPy's random numbers
    assert not set(chief["seen"]) & set(other["seen"])
    assert chief["checkpoints"][-1] == other["checkpoints"][-1]


def test_whoever_is_killed_at_whatever_point_of_a_save_the_cluster_ends_as_the_one_that_never_was(
    fork_server, folder, never_killed
):
    directory, newest = folder / "killed", 0
    for kill in KILLS:
        workers = run_workers(fork_server, 2, directory, {"data": "per_worker", "sync": True, "kill": kill})
        assert workers[kill[0]].code == -9, workers[kill[0]].err[-3000:]
        assert committed(directory)[-1:] >= [newest], kill  # none is lost
        newest = max([newest, *committed(directory)])
    ended = [worker.result for worker in run_workers(fork_server, 2, directory, {"data": "per_worker"})]
    assert [each["resumed"] for each in ended] == [newest, newest]
    assert [each["hash"] for each in ended] == [each["hash"] for each in never_killed]
    for each, never in zip(ended, never_killed):
        assert each["seen"] == never["seen"][newest:]


def test_workers_leave_together_when_one_is_told_to_end_and_go_on_with_data_that_they_share(fork_server, folder, told):
    workers, directory = told
    assert [worker.code for worker in workers] == [143, 143]
    step = committed(directory)[-1]
    assert 7 < step < 12
    assert all(
        f"SIGTERM: leaving at step {step}. {directory}/ckpt-{step} is the newest" in each.err for each in workers
    )
    case = {"data": "distributed"}
    ended = [worker.result for worker in run_workers(fork_server, 2, copied(told, "goes-on"), case)]
    never = [worker.result for worker in run_workers(fork_server, 2, folder / "never-told", case)]
    assert [each["resumed"] for each in ended] == [step, step]
    for each, other in zip(ended, never):
        assert (each["hash"], each["seen"]) == (other["hash"], other["seen"][step:])


def test_plain_tensorflow_finds_the_sum_over_all_workers_and_each_has_its_own(told):
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(told[1])))
    names = [name for name in reader.get_variable_to_shape_map() if "loss/0/" in name]
    replica_0, replica_1, common = map(reader.get_tensor, sorted(names))
    assert common == replica_0 + replica_1
    assert replica_0 != replica_1


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_workers_goes_on_and_says_what_is_exact(fork_server, told, count):
    directory = copied(told, f"{count}-go-on")
    step = committed(directory)[-1]
    workers = run_workers(fork_server, count, directory, {"data": "distributed"})
    results = [worker.result for worker in workers]
    assert {(each["resumed"], each["step"], each["weights"]) for each in results} == {(step, 18, results[0]["weights"])}
    for worker in workers:
        assert f"was saved by 2 workers that trained together, and there are {count} now. Exact are step" in worker.err


def test_workers_with_shares_of_another_size_go_on_behind_as_many_batches(fork_server, folder):
    directory = folder / "divided"
    left = run_workers(fork_server, 2, directory, {"data": "divided", "every": 100, "told": [1, 7]}, patience_secs=20)
    assert [worker.code for worker in left] == [143, 143]
    step = committed(directory)[-1]
    results = [worker.result for worker in run_workers(fork_server, 3, directory, {"data": "divided"})]
    assert len({each["weights"] for each in results}) == 1
    # Two workers have 6 batches an epoch, three have 4: what is left of the second epoch, and the third.
    assert {each["step"] for each in results} == {step + max(0, 4 - (step - 6)) + 4}


def test_those_that_are_left_end_by_themselves_and_name_who_died(fork_server, folder):
    case = {"every": 1, "kill": [1, 4], "timeout": 100}
    chief, other = run_workers(fork_server, 2, folder / "left", case, patience_secs=60)
    assert (chief.code, other.code) == (1, -9)
    assert "/job:worker/replica:0/task:1" in chief.err


def test_a_worker_that_hands_in_nothing_is_named_when_the_time_is_over(fork_server, folder):
    directory = folder / "mute"
    chief, _ = run_workers(fork_server, 2, directory, {"mute": 1, "timeout": 1.0, "sync": True})
    assert chief.code == 1
    assert f"CheckpointSaveError: save of ckpt-2 to {directory} failed: WorkerError worker 1 (127.0.0.1:" in chief.err
    assert "of 2 did not hand in what it saved within 1 s." in chief.err


def test_the_clock_that_counts_is_the_chiefs(fork_server, folder):
    directory = folder / "clock"
    workers = run_workers(fork_server, 2, directory, {"policy": "EverySecs(0.02) | EveryEpochs(3)"})
    assert workers[0].result["weights"] == workers[1].result["weights"]
    assert committed(directory)[-1] == 18


def test_a_directory_that_a_worker_does_not_see_is_an_error_that_names_it(fork_server, folder):
    for worker in run_workers(fork_server, 2, folder / "apart", {"apart": True}, patience_secs=20):
        assert worker.code == 1
        assert "WorkerError: worker 1 (127.0.0.1:" in worker.err
        assert "of 2 cannot see what the chief has made in" in worker.err


def test_a_checkpoint_that_does_not_fit_in_one_worker_is_restored_in_none(fork_server, told):
    chief, odd = run_workers(fork_server, 2, copied(told, "odd"), {"odd": 1, "data": "distributed"}, patience_secs=20)
    assert (chief.code, odd.code) == (1, 1)
    assert "was not restored: worker 1 (127.0.0.1:" in chief.err
    assert "CheckpointMismatchError: cannot restore" in odd.err


def test_if_the_newest_checkpoint_is_damaged_all_take_the_one_before_it(fork_server, told):
    directory = copied(told, "damaged")
    older, newest = committed(directory)[-2:]
    data = directory / f"ckpt-{newest}.data-00000-of-00001"
    data.write_bytes(bytes(100) + data.read_bytes()[100:])
    workers = run_workers(fork_server, 2, directory, {"data": "distributed"})
    assert [worker.result["resumed"] for worker in workers] == [older, older]
    assert "Falling back to the one before it" in workers[0].err


def test_a_checkpoint_that_one_worker_does_not_see_is_restored_in_none(fork_server, told):
    directory = copied(told, "unseen-0")
    case = {"apart": True, "data": "distributed"}
    chief, other = run_workers(fork_server, 2, directory.parent / "unseen", case, patience_secs=20)
    assert "WorkerError: " in chief.err
    assert f"{directory}/ckpt-" in chief.err
    assert "WorkerError: the chief restores ckpt-" in other.err


def test_a_directory_that_another_run_writes_to_is_an_error_of_all(fork_server, folder):
    directory = folder / "locked"
    lock = Store(str(directory)).lock()
    try:
        workers = run_workers(fork_server, 2, directory, {}, patience_secs=20)
    finally:
        lock.release()
    assert "DirectoryLockedError: cannot write checkpoints to" in workers[0].err
    assert "CheckpointSaveError: the chief, worker 0 (127.0.0.1:" in workers[1].err
