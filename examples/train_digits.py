"""Train on handwritten digits, get killed, go on, export.

    python examples/train_digits.py               the whole story, in a temporary folder
    python examples/train_digits.py DIRECTORY     one training run there; start it again after a kill and it resumes

The data are scikit-learn's digits: 1,797 real images of 8 x 8 pixels.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
EPOCHS = 8
# Run in a process that never imports ckptkit: what is exported needs nothing but TensorFlow.
CHECK = """
import sys, keras, numpy as np, tensorflow as tf
images, labels = np.load("test_images.npy"), np.load("test_labels.npy")
artifact = tf.saved_model.load("export/saved_model")
served = artifact.serve(images).numpy()
loaded = keras.models.load_model("export/model.h5", compile=False).predict(images, verbose=0)
assert "ckptkit" not in sys.modules
for name, outputs in (("SavedModel", served), (".h5", loaded)):
    print(f"  {name:<10} test accuracy {np.mean(outputs.argmax(axis=1) == labels):.4f}")
assert np.array_equal(served.argmax(axis=1), loaded.argmax(axis=1)), "SavedModel and .h5 disagree"
"""


def digits():
    """Return (images, labels) for training and for test; images are (n, 8, 8, 1) float32 in 0..1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16.0).astype("float32")[..., None]
    return train_test_split(images, data.target, test_size=0.2, random_state=0, stratify=data.target)


def build_model():
    """Return a small convolutional net with augmentation and dropout, compiled."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.RandomTranslation(0.1, 0.1),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", padding="same"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def train(directory):
    """Train in ``directory``, or go on with the training that is there."""
    import keras
    import numpy as np

    import ckptkit

    keras.utils.set_random_seed(7)
    train_images, test_images, train_labels, test_labels = digits()
    np.save(os.path.join(directory, "test_images.npy"), test_images)
    np.save(os.path.join(directory, "test_labels.npy"), test_labels)
    checkpoint = ckptkit.TrainingCheckpoint(os.path.join(directory, "checkpoints"), save_freq=20, max_to_keep=3)
    export = ckptkit.ExportOnCompletion(os.path.join(directory, "export"), formats=("saved_model", "h5"))
    model = build_model()
    history = model.fit(
        train_images,
        train_labels,
        epochs=EPOCHS,
        validation_data=(test_images, test_labels),
        callbacks=[checkpoint, export],
        verbose=2,
    )
    start = checkpoint.resumed_from
    print("started afresh" if start is None else f"resumed from step {start.step}")
    print(f"ended at step {int(model.optimizer.iterations)}, epochs in the history: {len(history.epoch)}")


def story():
    """Train in a child process, kill it, start it again, and look at what is left."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, os.path.abspath(__file__), directory]
        print("1. A training run, in a process of its own")
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        last = wait_for_step(os.path.join(directory, "checkpoints"), 100, child)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        last = max(last, *committed_steps(os.path.join(directory, "checkpoints")))
        print(f"   killed by SIGKILL in mid-epoch; the newest checkpoint is step {last}")
        print("2. The same command again")
        again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        told = again.strip().splitlines()[-2:]
        print("   " + "\n   ".join(told))
        assert told[0] == f"resumed from step {last}", again
        print("3. The exports, in a process without ckptkit", flush=True)
        subprocess.run([sys.executable, "-c", CHECK], cwd=directory, check=True, stderr=subprocess.DEVNULL)
        print("4. The checkpoints on disk: ckptkit ls checkpoints", flush=True)
        subprocess.run([sys.executable, "-m", "ckptkit", "ls", "checkpoints"], cwd=directory, env=here(), check=True)


def wait_for_step(directory, step, child):
    """Wait until a checkpoint of at least ``step`` is committed, and return its step."""
    while child.poll() is None:
        steps = committed_steps(directory)
        if steps and max(steps) >= step:
            return max(steps)
        time.sleep(0.01)
    raise SystemExit(f"training ended before step {step}, exit code {child.returncode}")


def committed_steps(directory):
    """Return the steps of the checkpoints in a directory: the manifest is the commit."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return [int(name.split("-")[1].split(".")[0]) for name in names if name.endswith(".manifest.json")]


def here():
    """Return the environment with this repository on the path, for a run without installing it."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


if __name__ == "__main__":
    sys.path.insert(0, here()["PYTHONPATH"].split(os.pathsep)[0])
    if len(sys.argv) > 1:
        os.makedirs(sys.argv[1], exist_ok=True)
        train(sys.argv[1])
    else:
        story()
