"""held and reading: of several workers one writes, the others hand in what differs, and each reads what it had."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.bundle import Bundle
from ckptkit.held import Held, HeldValue, sums_of
from ckptkit.reading import CheckpointFile
from ckptkit.replicas import name_of


def held(values, reductions=()):
    return Held(HeldValue(key, "", tf.constant(value), dict(reductions).get(key, "")) for key, value in values.items())


def saved_by(folder, workers, reductions=()):
    """Save as so many workers, each with its values; return the prefix."""
    prefix = str(folder / "ckpt-1")

    def gather(entries):
        sums = sums_of(entries)
        for index, values in enumerate(workers[1:], 1):
            part = str(folder / f"part-{index}")
            held(values, reductions).write_own(part, sums, index, len(workers))
            yield Bundle(part)

    held(workers[0], reductions).write(prefix, gather=gather)
    return prefix


def read(prefix, index, count):
    with CheckpointFile(prefix, (index, count)) as file:
        return {key: np.asarray(value).tolist() for key, value in file.read(file.types).items()}


values = st.dictionaries(
    st.sampled_from(["a", "b/c", "_CKPTKIT/loop", "_CKPTKIT_OBJECT_GRAPH"]),
    st.sampled_from([0.0, 1.0, [1.0, 2.0], [[3]], 7, b"text", [b"x", b""], True, float("inf")]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, min_size=1, max_size=4))
def test_each_worker_reads_what_it_held_and_what_the_chief_held_besides(tmp_path_factory, workers):
    prefix = saved_by(tmp_path_factory.mktemp("parts"), workers)
    for index, own in enumerate(workers):
        expected = {key: np.asarray(tf.constant(value)).tolist() for key, value in (workers[0] | own).items()}
        assert read(prefix, index, len(workers)) == expected
    assert read(prefix, 0, 1) == read(prefix, len(workers), len(workers)) == read(prefix, 0, len(workers))


def test_what_all_have_in_common_is_stored_once_and_by_the_bytes(tmp_path):
    chief = {"same": 1.0, "zero": np.float32(0.0), "type": 1.0, "shape": [1.0]}
    other = {"same": 1.0, "zero": np.float32(-0.0), "type": 1, "shape": [[1.0]]}
    with Bundle(saved_by(tmp_path, [chief, other])) as bundle:
        assert sorted(key for key in bundle.entries if key.startswith("_CKPTKIT_WORKER")) == [
            "_CKPTKIT_WORKER/1-of-2/shape",
            "_CKPTKIT_WORKER/1-of-2/type",
            "_CKPTKIT_WORKER/1-of-2/zero",
        ]


def test_the_common_value_is_made_of_those_of_all_replicas(tmp_path):
    def replicas(numbers, *held):
        return {"total": held[0], **{name_of("total", number, 4): one for number, one in zip(numbers, held)}}

    workers = [replicas([0, 1], 1.0, 2.0), replicas([2, 3], 3.0, 10.0)]
    assert read(saved_by(tmp_path, workers, {"total": "sum"}), 0, 2) == {
        "total": 16.0,
        **{name_of("total", number, 4): one for number, one in enumerate([1.0, 2.0, 3.0, 10.0])},
    }
    assert read(saved_by(tmp_path, workers, {"total": "mean"}), 0, 2)["total"] == 4.0


def test_a_replica_of_another_worker_is_stored_where_it_differs_from_the_chiefs_first(tmp_path):
    chief = {"mean": 1.0, name_of("mean", 1, 4): 1.0}
    other = {"mean": 5.0, name_of("mean", 2, 4): 5.0, name_of("mean", 3, 4): 1.0}
    prefix = saved_by(tmp_path, [chief, other])
    assert read(prefix, 0, 2) == read(prefix, 1, 2) == {"mean": 1.0, name_of("mean", 2, 4): 5.0}


def test_the_position_of_an_iterator_is_each_workers_own(tmp_path):
    from ckptkit.snapshot import pick_up_iterator, put_down_iterator

    positions = []
    for taken in (2, 5):
        iterator = iter(tf.data.Dataset.range(10))
        for _ in range(taken):
            next(iterator)
        positions.append(pick_up_iterator(iterator))
    workers = [Held([HeldValue("input", "", each)]) for each in positions]

    def gather(entries):
        workers[1].write_own(str(tmp_path / "part"), sums_of(entries), 1, 2)
        return [Bundle(tmp_path / "part")]

    workers[0].write(str(tmp_path / "x"), gather=gather)
    for index, number in enumerate([2, 5]):
        iterator = iter(tf.data.Dataset.range(10))
        with CheckpointFile(str(tmp_path / "x"), (index, 2)) as file:
            put_down_iterator(iterator, file.read(["input"])["input"])
        assert next(iterator).numpy() == number


def test_a_part_that_is_damaged_is_not_taken(tmp_path):
    def gather(entries):
        held({"a": np.ones(100)}).write_own(str(tmp_path / "part"), sums_of(entries), 1, 2)
        data = tmp_path / "part.data-00000-of-00001"
        data.write_bytes(bytes([1]) + data.read_bytes()[1:])
        return [Bundle(tmp_path / "part")]

    with pytest.raises(OSError, match="has checksum"):
        held({"a": np.zeros(100)}).write(str(tmp_path / "x"), gather=gather)
