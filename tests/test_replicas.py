"""Each replica of a distributed variable comes back with its own value: on two logical devices, in a child process."""

import json

import pytest
import tensorflow as tf

from ckptkit.replicas import common_key, name_of, names_in, replicas_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, run_fork):
    said = run_fork("-m", "tests.replicas_child", str(tmp_path_factory.mktemp("replicas")))
    return json.loads(said.splitlines()[-1])


def test_contract_replicas_of_keras_variables_hold_values_of_their_own(scenes):
    different = [parts for parts in scenes["save"]["saved"] if parts[1:] != parts[:-1]]
    assert len(different) >= 4, "BatchNorm's two statistics, and metrics: nothing is left to test if they are alike"


def test_a_restore_brings_back_the_value_of_each_replica(scenes):
    assert scenes["restore"]["restored"] == scenes["save"]["saved"]
    assert scenes["restore"]["before"] != scenes["save"]["saved"]


def test_the_values_of_replicas_are_those_of_the_moment_of_the_save(scenes):
    assert scenes["save"]["later"] != scenes["save"]["saved"]


def test_tensorflows_own_restore_brings_back_the_value_of_each_replica(scenes):
    assert scenes["restore_by_tensorflow"]["restored"] == scenes["save"]["saved"]


def test_a_model_that_is_built_after_the_restore_takes_the_value_of_each_replica(scenes):
    scene = scenes["restore_before_the_build"]
    assert scene["restored"] == scene["saved"]
    assert scene["left"] == []


def test_what_is_held_is_put_back_replica_by_replica(scenes):
    assert scenes["hold"]["put back"] == scenes["hold"]["before"] != scenes["hold"]["later"]


def test_an_export_leaves_every_replica_as_it_was(scenes):
    assert scenes["export"]["after"] == scenes["export"]["before"]


def test_contract_mirrored_variables_are_read_with_all_others_and_not_asked_one_by_one(scenes):
    assert scenes["save"]["asked"] == []


def test_a_loop_on_two_devices_goes_on_with_the_same_bits_in_every_replica(scenes):
    whole, left, again = scenes["loop"], scenes["loop_left"], scenes["loop_again"]
    assert again["resumed"] == 4 < left["step"] < again["step"] == whole["step"]
    assert again["values"] == whole["values"] != left["values"]


def test_replicas_that_are_alike_are_stored_once(scenes):
    names = scenes["save"]["names"]
    assert any("moving_mean" in name for name in names)
    assert not any("kernel" in name for name in names)


@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_replicas_takes_the_common_values_and_says_so(scenes, number):
    scene, saved, metrics = scenes[f"restore_on_{number}"], scenes["save"]["saved"], scenes["save"]["metrics"]
    for parts, before in zip(scene["restored"][:-metrics], saved):
        assert parts == number * [before[0]]
    for parts, before in zip(scene["restored"][-metrics:], saved[-metrics:]):
        assert sum(parts) == pytest.approx(sum(before))  # counted by each for itself
    assert [line for line in scene["said"] if f"was saved by 2 replicas, and there are {number} now" in line]


def test_plain_tensorflow_restores_the_common_value(scenes):
    scene = scenes["restore_plainly"]
    assert scene["values"] == [[1.0, 2.0], 21.0]
    assert sum("_CKPTKIT_REPLICA" in name for name in scene["names"]) == 2


def test_a_plain_variable_has_no_replicas():
    assert replicas_of(tf.Variable(1.0)) == {}


def test_names_tell_the_key_the_replica_and_their_number():
    names = [name_of("model/a", 1, 2), name_of("model/a", 0, 2), "model/a", "b"]
    assert names_in(names) == {"model/a": (2, {0: names[1], 1: names[0]})}
    assert [common_key(name) for name in names] == ["model/a", "model/a", None, None]
