"""MultiWorkerMirroredStrategy: real workers on loopback, killed at any point of a save, go on with the same bits."""

import os

import pytest

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
