"""What the examples share: real images, a small model, a fingerprint of it, and the start of a run that is killed.

The data are scikit-learn's digits: 1,797 images of 8 x 8 pixels.
"""

import hashlib
import os
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is loaded


def load():
    """Return images and labels for training, and the last 360 of them for test; images (n, 8, 8, 1) float32 in 0..1."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images / 16.0).astype("float32")[..., None]
    return images[:-360], images[-360:], data.target[:-360], data.target[-360:]


def build_model():
    """Return a small convolutional net with augmentation, dropout and batch normalization, compiled."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            layers.Input((8, 8, 1), name="images"),
            layers.RandomTranslation(0.1, 0.1),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def fingerprint(model):
    """Return twelve digits that stand for every bit of a model: weights, averages of batch normalization, seeds."""
    bits = b"".join(variable.numpy().tobytes() for variable in model.variables)
    return hashlib.sha256(bits).hexdigest()[:12]


def start(script, directory, **options):
    """Start a script that trains in a directory, as you would in a terminal."""
    command = [sys.executable, os.path.abspath(script), directory]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)


def newest_step(directory):
    """Return the step of the newest checkpoint, 0 if there is none: the manifest is the commit."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return max((int(name.split("-")[1].split(".")[0]) for name in names if name.endswith(".manifest.json")), default=0)


def wait_for_step(directory, step, run):
    """Wait until a run has committed a checkpoint of at least this step."""
    while newest_step(directory) < step:
        if run.poll() is not None:
            raise SystemExit(f"the run ended before step {step}, with exit code {run.returncode}")
        time.sleep(0.01)
