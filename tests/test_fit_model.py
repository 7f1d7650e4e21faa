"""The model of a fit: what is noted of it, and how it is built before its values come back."""

import numpy as np
import pytest
import tensorflow as tf

from ckptkit import fit_model
from ckptkit.errors import CheckpointMismatchError
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core
of_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 has no such thing, or does it otherwise")

DATA = tf.data.Dataset.from_tensors((np.ones((4, 6), "float32"), np.ones((4, 1), "float32")))


def unbuilt(optimizer="adam", metrics=("mae",)):
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=list(metrics))
    return model


@of_keras_3
def test_contract_keras_builds_model_optimizer_and_metrics_from_the_shapes_of_the_data():
    fit_model.build(model := unbuilt(), DATA, {})
    assert model.built
    assert model.optimizer.built
    assert fit_model.facts_of(model)["metrics"] == ["Mean", "MeanAbsoluteError(mean_absolute_error)"]


@of_keras_3
def test_an_optimizer_that_was_never_used_stays_as_it_was():
    fit_model.build(model := unbuilt(), DATA, {"is_built": False})
    assert model.built
    assert model.optimizer.built is False


def test_steps_are_those_of_the_optimizer():
    model = unbuilt()
    assert fit_model.steps_of(model) == 0
    model.fit(DATA, epochs=3, verbose=0, shuffle=False)
    assert fit_model.steps_of(model) == 3


def test_other_metrics_are_told_from_the_same():
    fit_model.build(model := unbuilt(), DATA, {})
    fit_model.build(other := unbuilt(metrics=("mse",)), DATA, {})
    facts = fit_model.facts_of(model)
    assert not fit_model.has_other_metrics(facts, model)
    assert fit_model.has_other_metrics(facts, other)
    assert not fit_model.has_other_metrics({}, other)


def test_another_kind_of_optimizer_is_refused_and_nothing_known_is_not():
    facts = fit_model.facts_of(unbuilt())
    fit_model.compare(facts, unbuilt(), "run/ckpt-1")
    fit_model.compare({}, unbuilt("sgd"), "run/ckpt-1")
    with pytest.raises(CheckpointMismatchError, match=r"cannot resume from run/ckpt-1(?s:.*)Adam   model SGD"):
        fit_model.compare(facts, unbuilt("sgd"), "run/ckpt-1")


OWN = keras.metrics.MeanMetricWrapper(lambda y, p: p, name="own")


def two_headed(metrics):
    inputs = keras.layers.Input((3,))
    heads = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("left", "right")}
    model = keras.Model(inputs, heads)
    model.compile("sgd", {"left": "mse", "right": "mse"}, metrics=metrics)
    return model


@pytest.mark.parametrize(
    ("monitor", "metrics", "mode"),
    [
        ("loss", [], "min"),
        ("val_loss", [], "min"),
        ("accuracy", ["accuracy"], "max"),
        ("val_acc", ["acc"], "max"),
        ("mae", ["mae"], "min"),
        ("val_area", ["mae", keras.metrics.AUC(name="area")], "max"),
        ("cosine_similarity", ["cosine_similarity"], "max"),
    ],
)
@pytest.mark.parametrize("is_built", [False, True])
def test_contract_a_metric_of_keras_says_which_way_it_ranks(monitor, metrics, mode, is_built):
    model = unbuilt(metrics=metrics)
    if is_built:
        fit_model.build(model, DATA, {})
    assert fit_model.mode_of(monitor, model) == mode


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("left_loss", "min"), ("val_right_loss", "min"), ("left_accuracy", "max"), ("val_right_mae", "min")],
)
def test_a_metric_of_one_output_ranks_as_any_other(monitor, mode):
    assert fit_model.mode_of(monitor, two_headed({"left": ["accuracy"], "right": ["mae"]})) == mode


@pytest.mark.parametrize("monitor", ["own", "val_own", "val_accuracy", "my_loss"])
def test_a_metric_that_does_not_say_it_must_be_told(monitor):
    with pytest.raises(ValueError, match=f"say whether '{monitor}' is better when smaller or larger: mode="):
        fit_model.mode_of(monitor, unbuilt(metrics=[OWN, "mae"]))
