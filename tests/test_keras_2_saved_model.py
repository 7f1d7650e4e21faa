"""Keras 2's SavedModel: the whole model, also without its class, with its optimizer as it was."""

import os

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.export import facts, keras_2_saved_model
from ckptkit.export.compiled import is_compiled, variables_of
from ckptkit.which_keras import IS_LEGACY, keras
from tests.format_models import all_of, digests, of_optimizer

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 writes no SavedModel of its own"),
]

X = np.random.default_rng(0).random((8, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Needs(keras.Model):
    """Cannot be made again: nobody knows what it needs."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.blocks = [keras.layers.Dense(4), keras.layers.Dense(4)]
        self.norm, self.answer = keras.layers.BatchNormalization(), keras.layers.Dense(1)

    def call(self, inputs, training=False):
        for block in self.blocks:
            inputs = block(inputs)
        return self.answer(self.norm(inputs, training=training))


def scaled():
    adam = keras.optimizers.Adam()
    return keras.mixed_precision.LossScaleOptimizer(adam, initial_scale=64.0, dynamic_growth_steps=2)


OPTIMIZERS = {"older": lambda: keras.optimizers.legacy.Adam(), "scaled": scaled}


def fit(model):
    return model.fit(X, Y, batch_size=2, verbose=0, shuffle=False).history


def trained(optimizer):
    keras.utils.set_random_seed(1)
    model = Needs(object())
    model.compile(optimizer, "mse")
    fit(model)
    return model


def untrained():
    model = Needs(object())
    model.compile("adam", "mse")
    model(X)
    return model


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "model")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_model_without_its_class_comes_back_with_its_optimizer_and_trains_on_as_the_live_one(path, kind, caplog):
    model = trained(OPTIMIZERS[kind]())
    model.optimizer.learning_rate.assign(0.02)
    ckptkit.save_model(model, path, verify=False)
    assert "comes back without its class: Needs cannot be made again" in caplog.text
    loaded = ckptkit.load_model(path)
    assert not isinstance(loaded, Needs)
    assert digests(of_optimizer(loaded.optimizer)) == digests(of_optimizer(model.optimizer))
    assert int(loaded.optimizer.iterations) == 4
    assert fit(loaded) == fit(model)
    assert digests(all_of(loaded)) == digests(all_of(model))


@pytest.mark.slow
def test_its_answers_are_checked_by_another_process_of_keras_2_before_it_appears(path, monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")  # too late to matter here
    ckptkit.save_model(keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)]), path)
    assert facts.read(path)["verified"] == "child"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Return a model, and the folder that Keras 2 alone has written of it."""
    folder = str(tmp_path_factory.mktemp("theirs") / "model")
    model = trained("adam")
    model.save(folder)
    return model, folder


def test_a_folder_of_keras_2_alone_is_read_with_its_optimizer_as_well(theirs):
    model, folder = theirs
    assert digests(of_optimizer(ckptkit.load_model(folder).optimizer)) == digests(of_optimizer(model.optimizer))
    assert not is_compiled(ckptkit.load_model(folder, compile=False))


def test_contract_keras_2_alone_reads_its_folder_without_iterations_and_slots(theirs):
    optimizer = keras.models.load_model(theirs[1]).optimizer
    assert int(optimizer.iterations) == 0
    assert len(variables_of(optimizer)) == 2


def test_an_optimizer_that_has_done_no_step_is_read_as_that(path, caplog):
    ckptkit.save_model(untrained(), path, verify=False)
    assert int(ckptkit.load_model(path).optimizer.iterations) == 0
    assert "afresh" not in caplog.text


def test_slots_that_are_not_of_the_variables_there_are_are_not_taken(theirs, caplog, monkeypatch):
    build = keras_2_saved_model.build
    monkeypatch.setattr(keras_2_saved_model, "build", lambda optimizer, variables: build(optimizer, variables[::-1]))
    assert int(ckptkit.load_model(theirs[1]).optimizer.iterations) == 0
    assert f"the optimizer of {theirs[1]} starts afresh: its slots are not of the variables" in caplog.text


def test_what_keras_cannot_read_is_said_as_everywhere(path):
    ckptkit.save_model(untrained(), path, verify=False)
    os.unlink(f"{path}/assets.extra/ckptkit.json")
    with open(f"{path}/keras_metadata.pb", "wb") as file:
        file.write(b"nonsense")
    with pytest.raises(ckptkit.ArtifactError, match=r"model cannot be loaded: "):
        ckptkit.load_model(path)


def test_a_lambda_beside_the_graph_is_refused_unless_it_is_trusted(path):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: 2 * x)])
    model.save(path)
    with pytest.raises(ckptkit.ArtifactError, match=r"holds code, such as a Lambda layer's.*refused"):
        ckptkit.load_model(path)
    assert np.array_equal(ckptkit.load_model(path, safe_mode=False)(X), 2 * X)


def test_writing_gives_the_live_model_nothing_and_takes_nothing(path):
    class Serves(Needs):
        @tf.function
        def serve(self, inputs):
            return inputs

    keras.utils.set_random_seed(1)
    model = Serves(object())
    model.compile("adam", "mse")
    model(X)
    model.answer.call = call = model.answer.call
    before = [set(vars(layer)) for layer in model._flatten_layers()]
    children = set(tf.train.Checkpoint(model)._trackable_children())
    ckptkit.save_model(model, path, verify=False)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == before
    assert set(tf.train.Checkpoint(model)._trackable_children()) == children
    assert model.answer.call == call
    assert np.array_equal(model.serve(X), X)
    served = tf.saved_model.load(path)
    np.testing.assert_allclose(served.serve(X), model(X), rtol=1e-5)


def test_a_served_layer_takes_several_inputs_by_name(path):
    class Adds(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), name="a"), tf.TensorSpec((None,), name="b")])
        def __call__(self, a, b):
            return {"sum": a + b}

    tf.saved_model.save(Adds(), path)
    layer = ckptkit.load_model(path)
    assert isinstance(layer, keras_2_saved_model.ServedLayer)
    assert layer({"a": tf.constant([1.0]), "b": tf.constant([2.0])})["sum"].numpy() == [3.0]
