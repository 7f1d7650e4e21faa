"""A checkpoint of a Keras 3 model that a Keras 2 model is to be restored from, and the other way round."""

import re

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit.which_keras import IS_LEGACY, keras

pytestmark = pytest.mark.core

SAVE = """
import os
os.environ["TF_USE_LEGACY_KERAS"] = {legacy!r}
import sys
import numpy as np
import tensorflow as tf
import ckptkit
from ckptkit.which_keras import keras

model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
model.compile("adam", "mse")
model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[ckptkit.TrainingCheckpoint(sys.argv[1])])
print(keras.__version__)
"""


@pytest.fixture(scope="module")
def saved(run_fork, tmp_path_factory):
    """Return a directory that the other Keras has saved to, and that one's version."""
    directory = str(tmp_path_factory.mktemp("saved"))
    return directory, run_fork("-c", SAVE.format(legacy="0" if IS_LEGACY else "1"), directory).split()[-1]


def told(version):
    other, name, how = (
        ("keras", "tf_keras", "without TF_USE_LEGACY_KERAS")
        if IS_LEGACY
        else ("tf_keras", "keras", "with TF_USE_LEGACY_KERAS=1")
    )
    message = f"It was saved with {other} {version}, and this process uses {name} {keras.__version__}: start it {how}"
    return rf"(?s)(variables differ|another optimizer).*{re.escape(message)}"


def compiled(optimizer="adam"):
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    return model


@pytest.mark.slow
def test_a_restore_from_the_other_keras_names_both(saved):
    directory, version = saved
    model = compiled()
    before = [variable.numpy() for variable in model.variables]
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = ckptkit.CheckpointManager(checkpoint, directory, None, read_only=True)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=told(version)):
        manager.restore()
    np.testing.assert_equal([variable.numpy() for variable in model.variables], before)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_fit_that_resumes_from_the_other_keras_names_both(saved, optimizer):
    directory, version = saved
    callback = ckptkit.TrainingCheckpoint(directory)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=told(version)):
        compiled(optimizer).fit(np.ones((4, 3)), np.ones((4, 2)), epochs=2, verbose=0, callbacks=[callback])


def test_a_mismatch_between_models_of_one_keras_is_no_matter_of_keras(tmp_path):
    with ckptkit.CheckpointManager(tf.train.Checkpoint(model=compiled()), tmp_path, None) as manager:
        manager.save()
    wider = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(3)])
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(model=wider), tmp_path, None, read_only=True)
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"to skip these\.$"):
        manager.restore()
