"""Artifacts of the other Keras: read where that works, and refused with what to set where it does not.

A child of the other Keras writes them; run under each Keras, both directions are tried.
"""

import os

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.errors import ArtifactError, CheckpointMismatchError
from ckptkit.export import facts
from ckptkit.export.origin import is_another, refuse_another, what_to_set
from ckptkit.which_keras import IS_LEGACY, keras
from tests.conftest import ROOT, printed

pytestmark = [pytest.mark.core, pytest.mark.slow]

X = np.random.default_rng(0).random((8, 4)).astype("float32")
WRITES = """
import os, sys
import numpy as np, ckptkit
from ckptkit.which_keras import keras

os.chdir(sys.argv[1])
layers = [keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
model = keras.Sequential(layers)
model.compile("adam", "mse")
x = np.random.default_rng(0).random((8, 4)).astype("float32")
model.fit(x, x.sum(axis=1, keepdims=True), verbose=0)
for name in ("model", "model.keras", "model.h5"):
    ckptkit.save_model(model, name, verify=False)
ckptkit.save_weights(model, "model.weights.h5", verify=False)
for name in ("model.json", "model.yaml"):
    ckptkit.save_architecture(model, name, verify=False)
open("theirs.json", "w").write(model.to_json())
model.save("theirs.keras")
np.save("answers.npy", model(x))
print(keras.__version__)
"""
TO_SET = "Take TF_USE_LEGACY_KERAS out of the environment" if IS_LEGACY else "Set TF_USE_LEGACY_KERAS=1 before"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, fork_server):
    """Return the folder, and the version, of what the other Keras has written."""
    folder = tmp_path_factory.mktemp("theirs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_USE_LEGACY_KERAS": "0" if IS_LEGACY else "1"}
    done = fork_server.run("-c", WRITES, folder, env=environment)
    return folder, printed(done).split()[-1]


def model_like_theirs():
    layers = [keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("name", ["model", "model.keras", "theirs.keras", "model.json", "model.yaml"])
def test_what_the_other_keras_wrote_is_refused_with_both_versions_and_what_to_set(theirs, name):
    folder, version = theirs
    load = ckptkit.load_architecture if name.endswith(("json", "yaml")) else ckptkit.load_model
    message = rf"{name} was written by Keras {version}, and this process uses Keras {keras.__version__}, which cannot"
    with pytest.raises(ArtifactError, match=rf"(?s){message} read it.\n{TO_SET}"):
        load(folder / name)


def test_every_artifact_of_ours_says_which_keras_wrote_it(theirs):
    folder, version = theirs
    for name in ("model", "model.keras", "model.h5", "model.weights.h5", "model.json", "model.yaml"):
        assert facts.read(str(folder / name))["versions"]["keras" if IS_LEGACY else "tf_keras"] == version


def test_a_text_of_the_other_keras_itself_is_refused_if_it_says_so(theirs):
    folder, _ = theirs
    message = "cannot be loaded: " if IS_LEGACY else TO_SET  # that of Keras 3 does not say
    with pytest.raises(ArtifactError, match=message):
        ckptkit.load_architecture(folder / "theirs.json")


def test_hdf5_of_keras_2_is_read_by_keras_3_and_not_the_other_way_round(theirs):
    folder, _ = theirs
    if IS_LEGACY:
        with pytest.raises(ArtifactError, match=rf"(?s)model.h5 was written by Keras 3.*{TO_SET}"):
            ckptkit.load_model(folder / "model.h5")
    else:
        loaded = ckptkit.load_model(folder / "model.h5")
        np.testing.assert_allclose(loaded(X), np.load(folder / "answers.npy"), rtol=1e-5)


def test_weights_of_the_other_keras_go_into_a_model_of_the_same_layers(theirs):
    folder, _ = theirs
    model = model_like_theirs()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, X[:, :1], verbose=0)
    before = [variable.numpy() for variable in model.optimizer.variables]
    ckptkit.load_weights(model, folder / "model.weights.h5")
    np.testing.assert_allclose(model(X), np.load(folder / "answers.npy"), rtol=1e-5)
    assert all(np.array_equal(value, variable) for value, variable in zip(before, model.optimizer.variables))


def test_weights_of_the_other_keras_that_do_not_fit_say_where_they_are_from(theirs):
    folder, version = theirs
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(9)])
    before = model.get_weights()
    with pytest.raises(CheckpointMismatchError, match=rf"(?s)written by Keras {version}, whose layers.*{TO_SET}"):
        ckptkit.load_weights(model, folder / "model.weights.h5")
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights()))


def test_a_saved_model_of_the_other_keras_is_served_all_the_same(theirs):
    folder, _ = theirs
    served = tf.saved_model.load(folder / "model")
    np.testing.assert_allclose(served.serve(X), np.load(folder / "answers.npy"), rtol=1e-5)


@pytest.mark.parametrize(
    ("version", "is_other"),
    [(None, False), ("2.21.0", not IS_LEGACY), ("2.4.0-tf", not IS_LEGACY), ("3.15.1", IS_LEGACY)],
    ids=str,
)
def test_a_version_tells_one_keras_from_the_other(version, is_other):
    assert is_another(version) is is_other
    refuse_another("model", keras.__version__)
    assert TO_SET in what_to_set()
