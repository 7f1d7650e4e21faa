"""The model of a fit: what is noted of it, and how it is built before its values come back."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ckptkit import fit_model
from ckptkit.errors import CheckpointMismatchError

DATA = tf.data.Dataset.from_tensors((np.ones((4, 6), "float32"), np.ones((4, 1), "float32")))


def unbuilt(optimizer="adam", metrics=("mae",)):
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", metrics=list(metrics))
    return model


def test_contract_keras_builds_model_optimizer_and_metrics_from_the_shapes_of_the_data():
    fit_model.build(model := unbuilt(), DATA, {})
    assert model.built
    assert model.optimizer.built
    assert fit_model.facts_of(model)["metrics"] == ["Mean", "MeanAbsoluteError(mean_absolute_error)"]


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
