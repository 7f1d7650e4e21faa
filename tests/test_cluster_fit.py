"""fit under MultiWorkerMirroredStrategy, which Keras 2 has: killed and told to end, it goes on with the same bits."""

import os

import pytest
import tensorflow as tf

from ckptkit.which_keras import IS_LEGACY
from tests.clusters import run_workers
from tests.test_cluster import committed, copied

pytestmark = [
    pytest.mark.core,
    pytest.mark.slow,
    pytest.mark.skipif(not IS_LEGACY, reason="Keras 3's fit does not work with several workers"),
]
MODULE = "tests.worker_fit_child"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def never_killed(fork_server, folder):
    workers = run_workers(fork_server, 2, folder / "never", {}, module=MODULE, patience_secs=20)
    return [worker.result for worker in workers]


@pytest.fixture(scope="module")
def told(fork_server, folder):
    case = {"every": 100, "told": [1, 7]}
    return run_workers(fork_server, 2, folder / "told", case, module=MODULE, patience_secs=20), folder / "told"


def without(result, *names):
    return {name: value for name, value in result.items() if name not in names}


def test_whoever_is_killed_fit_ends_as_the_one_that_never_was(fork_server, folder, never_killed):
    directory, newest = folder / "killed", 0
    for kill in [(1, 3), (0, ".manifest.json"), (1, "worker-1.at-"), (0, 13)]:
        workers = run_workers(fork_server, 2, directory, {"kill": kill}, module=MODULE)
        assert workers[kill[0]].code == -9, workers[kill[0]].err[-3000:]
        assert not newest or committed(directory)[-1] >= newest
        newest = max([newest, *committed(directory)])
    ended = [worker.result for worker in run_workers(fork_server, 2, directory, {}, module=MODULE)]
    assert [each["resumed"] for each in ended] == [newest, newest]
    for each, never in zip(ended, never_killed):
        assert without(each, "resumed", "drawn") == without(never, "resumed", "drawn")
        assert each["drawn"] == never["drawn"][newest:]  # NumPy's random numbers are each worker's own
    assert ended[0]["hash"] != ended[1]["hash"]  # and so are BatchNorm's statistics


def test_workers_leave_fit_together_when_one_is_told_to_end(fork_server, never_killed, told):
    workers, directory = told
    assert [worker.code for worker in workers] == [143, 143]
    step = committed(directory)[-1]
    assert all(f"SIGTERM: leaving at step {step}. {directory}/ckpt-{step} is" in each.err for each in workers)
    ended = [worker.result for worker in run_workers(fork_server, 2, copied(told, "goes-on"), {}, module=MODULE)]
    for each, never in zip(ended, never_killed):
        assert without(each, "resumed", "drawn") == without(never, "resumed", "drawn")


@pytest.mark.parametrize("count", [1, 3])
def test_fit_goes_on_with_another_number_of_workers(fork_server, told, count):
    workers = run_workers(fork_server, count, copied(told, f"{count}-go-on"), {}, module=MODULE)
    results = [worker.result for worker in workers]
    assert {each["weights"] for each in results} == {results[0]["weights"]}
    assert [len(each["history"]["loss"]) for each in results] == count * [3]
    for worker in workers:
        assert f"was saved by 2 workers that trained together, and there are {count} now" in worker.err


def test_one_worker_exports_what_all_have_trained(folder, never_killed):
    export = folder / "never-export"
    assert sorted(os.listdir(export)) == ["export.json", "model.h5", "saved_model"]
    served = tf.saved_model.load(str(export / "saved_model"))
    assert served.signatures["serving_default"] is not None
    assert not [name for name in os.listdir(folder) if name.startswith("never-export") and name != "never-export"]
