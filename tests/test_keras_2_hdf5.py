"""Keras 2's HDF5 with weights of one name."""

import h5py
import numpy as np
import pytest

import ckptkit
from ckptkit.export.keras_2_hdf5 import names_told_apart
from ckptkit.export.silence import without
from ckptkit.which_keras import IS_LEGACY, keras
from tests.format_models import TwoOfAKind, digests, of_optimizer

pytestmark = [pytest.mark.core, pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 has no two weights of one name")]

X = np.ones((4, 4), "float32")


@pytest.fixture
def model():
    made = keras.Sequential([keras.layers.Input((4,)), TwoOfAKind(3)])
    made.compile("adam", "mse")
    made.fit(X, X[:, :3], verbose=0)
    return made


def test_contract_keras_2_cannot_write_two_weights_of_one_name(model, tmp_path):
    with without("You are saving your model"), pytest.raises(ValueError, match="name already exists"):
        model.save(tmp_path / "model.h5")


def test_what_is_written_with_names_told_apart_plain_keras_reads(model, tmp_path):
    with without("You are saving your model"), names_told_apart():
        model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert digests(loaded.weights) == digests(model.weights)
    assert digests(loaded.optimizer.variables) == digests(model.optimizer.variables)
    with h5py.File(tmp_path / "model.h5") as file:
        names = file["model_weights"][model.layers[0].name].attrs["weight_names"].tolist()
    assert [name.split("/")[-1] for name in names] == ["kernel:0", "bias:0", "kernel:0_2", "bias:0_2"]


def test_keras_own_saver_is_as_it_was_afterwards(model, tmp_path):
    ckptkit.save_model(model, tmp_path / "model.h5", verify=False)
    assert digests(of_optimizer(ckptkit.load_model(tmp_path / "model.h5").optimizer)) == digests(
        of_optimizer(model.optimizer)
    )
    with without("You are saving your model"), pytest.raises(ValueError, match="name already exists"):
        model.save(tmp_path / "again.h5")


def test_a_lambda_in_hdf5_of_keras_2_alone_is_refused_unless_it_is_trusted(tmp_path):
    doubles = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: 2 * x)])
    with without("You are saving your model"):
        doubles.save(tmp_path / "model.h5")
    with pytest.raises(ckptkit.ArtifactError, match=r"holds code, such as a Lambda layer's.*refused"):
        ckptkit.load_model(tmp_path / "model.h5")
    assert np.array_equal(ckptkit.load_model(tmp_path / "model.h5", safe_mode=False)(X), 2 * X)


def test_a_lambda_in_text_of_an_older_keras_2_is_refused_unless_it_is_trusted(tmp_path):
    doubles = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: 2 * x)])
    with without("You are saving your model"):
        doubles.save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5") as file:
        text = file.attrs["model_config"]
    with pytest.raises(ckptkit.ArtifactError, match=r"holds code, such as a Lambda layer's.*refused"):
        ckptkit.model_from_json(text)
    assert np.array_equal(ckptkit.model_from_json(text, safe_mode=False)(X), 2 * X)
