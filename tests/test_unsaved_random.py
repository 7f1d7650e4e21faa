"""Which layers' random numbers nobody can save, and what is said of them."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.unsaved_random import say_what_is_lost
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core
of_keras_2 = pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 always has variables")

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


@pytest.fixture
def in_operations(random_numbers_in_variables):
    """Let operations keep their state to themselves, as Keras 2 does if nobody says otherwise."""
    keras.backend.experimental.disable_tf_random_generator()
    yield
    keras.backend.experimental.enable_tf_random_generator()


def model(*layers, **options):
    made = keras.Sequential([keras.layers.Input((3,)), *(layers or [keras.layers.Dropout(0.5)]), keras.layers.Dense(1)])
    made.compile("sgd", "mse", **options)
    return made


def fit(made, directory):
    made.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[ckptkit.TrainingCheckpoint(directory, save_freq=1)])


def said(caplog):
    return [r for r in caplog.records if r.levelno == logging.WARNING and "random numbers of" in r.getMessage()]


@of_keras_2
def test_a_fit_says_once_which_layers_it_cannot_go_on_with_and_what_to_call(tmp_path, in_operations, caplog):
    drop = keras.layers.Dropout(0.5)
    fit(model(drop), tmp_path)
    (record,) = said(caplog)
    assert record.getMessage().startswith(f"random numbers of {drop.name}: not saved")
    assert "Call tf.keras.backend.experimental.enable_tf_random_generator() before the model is made" in caplog.text


@of_keras_2
def test_a_loop_says_it_as_well(tmp_path, in_operations, caplog):
    checkpoint = tf.train.Checkpoint(model=model())
    with ckptkit.CheckpointManager(checkpoint, tmp_path, 1) as manager:
        for _ in ckptkit.TrainingLoop(manager, tf.data.Dataset.range(2), epochs=2):
            pass
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("how", ["variables", "no amount", "eager"])
def test_nothing_is_said_where_nothing_is_lost(tmp_path, caplog, request, how):
    if IS_LEGACY and how != "variables":
        request.getfixturevalue("in_operations")
    layers = [keras.layers.Dropout(0.0 if how == "no amount" else 0.5)]
    fit(model(*layers, run_eagerly=how == "eager"), tmp_path)
    assert said(caplog) == []


@of_keras_2
def test_recurrent_layers_count_if_they_drop_anything(in_operations, caplog):
    plain, drops = keras.layers.GRU(2), keras.layers.LSTM(2, recurrent_dropout=0.1)
    say_what_is_lost([plain, plain.cell, drops, object()])
    assert f"random numbers of {drops.name}: " in caplog.text


@of_keras_2
def test_of_many_layers_five_are_named(in_operations, caplog):
    say_what_is_lost([keras.layers.GaussianNoise(0.1, name=f"noise_{n}") for n in range(7)])
    assert "random numbers of noise_0, noise_1, noise_2, noise_3, noise_4 and 2 more: not saved" in caplog.text
