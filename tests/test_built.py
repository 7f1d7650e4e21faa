"""What a model was built for is in its files, whoever built it."""

import json

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.export.built import called_with
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core
only_keras_2 = pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 forgets nothing of it")

X = np.ones((2, 4), "float32")


@keras.saving.register_keras_serializable("tests")
class Builds(keras.Model):
    """Builds its layer itself, and does not tell its parent."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)


class Two(keras.Model):
    def call(self, left, right):
        return left + right


def called():
    model = Builds()
    model.build((None, 4))
    model(X)
    return model


def test_a_model_that_builds_itself_comes_back_from_its_archive_and_its_text(tmp_path):
    model = called()
    ckptkit.save_model(model, tmp_path / "model.keras", verify=False)
    assert np.array_equal(ckptkit.load_model(tmp_path / "model.keras")(X), model(X))
    assert [w.shape for w in ckptkit.model_from_json(ckptkit.model_to_json(model)).weights] == [(4, 3), (3,)]
    assert not IS_LEGACY or model.get_build_config() is None  # the model itself is as it was


@only_keras_2
def test_contract_keras_2_forgets_what_such_a_model_was_built_for(tmp_path):
    called().save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="expected 0 variables, but received 2 variables"):
        keras.models.load_model(tmp_path / "model.keras")


@only_keras_2
def test_what_a_model_was_called_with_is_known_if_it_is_one_argument():
    assert called_with(Builds()) is None
    assert called_with(called()) == tf.TensorSpec((None, 4), tf.float32)
    model = Two()
    model(X, X)
    assert called_with(model) is None


def test_a_model_that_was_never_called_is_as_it_was():
    model = Builds()
    model.build((None, 4))
    assert json.loads(ckptkit.model_to_json(model))["class_name"] == "Builds"
