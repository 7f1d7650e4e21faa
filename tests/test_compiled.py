"""What a model is compiled with, in files of either Keras: nothing of the optimizer is left behind."""

import numpy as np
import pytest

import ckptkit
from ckptkit.export.compiled import build, in_hdf5_of, is_built, is_compiled, left_out_of, optimizer_of, variables_of
from ckptkit.export.silence import without
from ckptkit.which_keras import IS_LEGACY, keras
from tests.format_models import digests, of_optimizer

pytestmark = pytest.mark.core
only_keras_2 = pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 leaves out nothing")

X = np.random.default_rng(0).random((8, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def made(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


def trained(optimizer):
    model = made(optimizer)
    model.fit(X, Y, batch_size=2, verbose=0)
    return model


def scaled(inner):
    return keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=64.0, dynamic_growth_steps=2)


OPTIMIZERS = {"by name": lambda: "adam", "scaled": lambda: scaled(keras.optimizers.Adam())}
if IS_LEGACY:
    OPTIMIZERS |= {
        "older": lambda: keras.optimizers.legacy.Adam(),
        "older without slots": lambda: keras.optimizers.legacy.SGD(),
        "older, scaled": lambda: scaled(keras.optimizers.legacy.SGD(momentum=0.9)),
    }


@pytest.mark.parametrize("file", ["model.keras", "model.h5"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.slow
def test_an_optimizer_comes_back_whole_with_the_learning_rate_it_had_come_to(tmp_path, kind, file):
    model = trained(OPTIMIZERS[kind]())
    getattr(model.optimizer, "inner_optimizer", model.optimizer).learning_rate = 0.25
    ckptkit.save_model(model, tmp_path / file, verify=False)
    loaded = ckptkit.load_model(tmp_path / file).optimizer
    assert digests(of_optimizer(loaded)) == digests(of_optimizer(model.optimizer))
    assert digests(variables_of(loaded)) == digests(variables_of(model.optimizer))
    assert float(loaded.learning_rate) == 0.25
    assert int(loaded.iterations) == 4


@pytest.mark.parametrize("file", ["model.keras", "model.h5"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_that_was_not_used_yet_comes_back_as_that(tmp_path, kind, file, caplog):
    ckptkit.save_model(made(OPTIMIZERS[kind]()), tmp_path / file, verify=False)
    assert int(ckptkit.load_model(tmp_path / file).optimizer.iterations) == 0
    assert caplog.text == ""


def test_what_is_compiled_is_told_from_what_is_not():
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    assert (is_compiled(model), optimizer_of(model)) == (False, None)
    model.compile("adam", "mse")
    assert is_compiled(model)
    assert not is_built(optimizer_of(model))
    build(model.optimizer, model.trainable_variables)
    assert is_built(optimizer_of(model))


@only_keras_2
def test_contract_keras_2_leaves_out_of_its_archive_learning_rate_loss_scale_and_older_optimizers(tmp_path):
    found = {}
    for kind in ("scaled", "older"):
        model = trained(OPTIMIZERS[kind]())
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
        build(loaded, model.trainable_variables)
        pairs = zip(variables_of(loaded), variables_of(model.optimizer))
        found[kind] = sum(digests([one]) != digests([other]) for one, other in pairs)
    assert found["scaled"] > 0
    assert found["older"] == len(model.optimizer.variables())
    model = made("adam")
    model.optimizer.learning_rate = 0.25
    model.save(tmp_path / "model.keras")
    assert float(keras.models.load_model(tmp_path / "model.keras").optimizer.learning_rate) == np.float32(0.001)


@only_keras_2
def test_contract_keras_2_reads_no_scaled_optimizer_from_hdf5(tmp_path):
    model = trained(scaled(keras.optimizers.Adam()))
    with without("You are saving your model as an HDF5 file"):
        model.save(tmp_path / "model.h5")
    assert int(keras.models.load_model(tmp_path / "model.h5").optimizer.iterations) == 0


@only_keras_2
def test_a_scaled_optimizer_in_hdf5_of_keras_2_alone_is_read_all_the_same(tmp_path):
    model = trained(scaled(keras.optimizers.Adam()))
    with without("You are saving your model as an HDF5 file"):
        model.save(tmp_path / "model.h5")
    loaded = ckptkit.load_model(tmp_path / "model.h5").optimizer
    assert digests(in_hdf5_of(loaded)) == digests(in_hdf5_of(model.optimizer))


def test_what_is_left_out_is_not_what_keras_holds():
    optimizer = trained("adam").optimizer
    names = [each.name for each in left_out_of(optimizer)]
    assert names == (["learning_rate:0"] if IS_LEGACY else [])
    assert len(variables_of(optimizer)) == len(in_hdf5_of(optimizer)) + len(names)
