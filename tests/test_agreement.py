"""agreement: all workers restore what the chief proposes, or none restores anything and each knows why."""

import pytest

from ckptkit.agreement import Agreement, ChiefFailedError, proposed
from ckptkit.cluster import Cluster, said
from ckptkit.errors import CheckpointDamagedError, CheckpointError, CheckpointNotFoundError, WorkerError
from tests.thread_clusters import in_all_workers


def restoring(names, broken):
    """Return what a worker does: the chief proposes these names; ``broken`` has (worker, name) that cannot be read."""

    def work(cluster):
        if cluster.is_chief:
            agreement = Agreement(cluster)
            try:
                for name in names:
                    agreement.propose(name)
                    if (0, name) in broken:
                        agreement.failed()
                        continue
                    agreement.ready(name)
                    return name
                raise CheckpointDamagedError("nothing can be read")
            except Exception as error:
                agreement.give_up(error)
                raise
        while True:
            name, agreement = proposed(cluster), Agreement(cluster)
            agreement.propose(name)
            try:
                if (cluster.index, name) in broken:
                    agreement.failed()
                    raise CheckpointDamagedError(f"{name} cannot be read here")
                agreement.ready(name)
                return name
            except ChiefFailedError:
                continue

    return work


def test_all_restore_what_the_chief_proposes():
    assert in_all_workers(3, restoring(["b", "a"], set())) == ["b", "b", "b"]


def test_what_the_chief_cannot_read_is_passed_by_whoever_else_can():
    assert in_all_workers(3, restoring(["b", "a"], {(0, "b")})) == ["a", "a", "a"]
    assert in_all_workers(3, restoring(["b", "a"], {(0, "b"), (2, "b")})) == ["a", "a", "a"]


def test_what_another_cannot_read_is_restored_by_nobody():
    chief, bad, other = in_all_workers(3, restoring(["b", "a"], {(1, "b")}))
    assert isinstance(bad, CheckpointDamagedError)
    for error in (chief, other):
        assert isinstance(error, WorkerError)
        assert "b was not restored: worker 1 (host-1:1) of 3 could not read it" in str(error)


def test_if_nothing_is_left_to_propose_all_get_the_chiefs_error():
    chief, other = in_all_workers(2, restoring(["b"], {(0, "b")}))
    assert isinstance(chief, CheckpointDamagedError)
    assert isinstance(other, CheckpointDamagedError)
    assert str(other) == "nothing can be read\nthe chief, worker 0 (host-0:1) has said so."


@pytest.mark.parametrize(
    ("error", "kind"), [(CheckpointNotFoundError, CheckpointNotFoundError), (KeyError, CheckpointError)]
)
def test_an_error_of_the_chief_comes_as_its_own_kind_where_it_is_one_of_ours(error, kind):
    def work(cluster):
        if not cluster.is_chief:
            proposed(cluster)
        Agreement(cluster).give_up(error("there is none"))

    _, other = in_all_workers(2, work)
    assert type(other) is kind


def test_alone_nobody_is_asked():
    agreement = Agreement(None)
    agreement.propose("a")
    agreement.ready("a")
    agreement.failed()
    agreement.give_up(KeyError())


def test_what_the_chief_says_all_hear_and_what_others_say_nobody_does():
    heard = in_all_workers(3, lambda cluster: cluster.told({"says": f"{cluster.index} ä\n", "to": [1, None, True]}))
    assert heard == 3 * [{"says": "0 ä\n", "to": [1, None, True]}]


def test_those_that_say_no_are_named():
    assert in_all_workers(3, lambda cluster: cluster.failed(fine=cluster.index == 1)) == 3 * [[0, 2]]


def test_nobody_goes_on_from_a_no_before_all_have_heard_it():
    def calls(fine):
        return in_all_workers(2, lambda cluster: (cluster.failed(fine=fine), cluster.calls)[1])

    assert calls(fine=True) == [1, 1]
    assert calls(fine=False) == [2, 2]


def test_a_message_that_is_too_long_is_refused_and_what_an_error_says_is_cut():
    with pytest.raises(ValueError, match="a message to all workers may take 2048 bytes, got 3002"):
        Cluster(object.__new__(type("Strategy", (), {})), 0, ("a:1", "b:2")).told("x" * 3000)
    assert len(said(KeyError("ä" * 5000)).encode()) <= 1024
