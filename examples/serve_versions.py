"""Publish versions of a model while a reader follows the newest one, as TensorFlow Serving does; then roll back.

    python examples/serve_versions.py

The reader is a process of its own that knows TensorFlow alone, neither ckptkit nor Keras. It looks into the folder all
the time, and every version that it sees is whole.
"""

import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
VERSIONS = 3
# As a model server polls: the highest number is the one to serve.
READER = """
import os, sys, time, numpy as np, tensorflow as tf
folder, last, served = sys.argv[1], int(sys.argv[2]), 0
rows = tf.ones([2, 4])
while served < last:
    numbers = [int(name) for name in os.listdir(folder) if name.isdigit()]
    if max(numbers, default=0) > served:
        served = max(numbers)
        artifact = tf.saved_model.load(os.path.join(folder, str(served)))
        (answer,) = artifact.signatures["serving_default"](rows=rows).values()
        print(f"  reader: version {served} answers {np.round(answer.numpy()[0, 0], 3)}", flush=True)
    time.sleep(0.02)
assert "ckptkit" not in sys.modules
"""


def main():
    """Train and publish, again and again."""
    import keras
    import numpy as np

    import ckptkit

    keras.utils.set_random_seed(1)
    x = np.random.rand(256, 4).astype("float32")
    rows = keras.layers.Input((4,), name="rows")
    model = keras.Model(rows, keras.layers.Dense(1, name="total")(rows))
    model.compile(keras.optimizers.Adam(0.05), "mse")

    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "total")
        os.mkdir(base)
        reader = subprocess.Popen([sys.executable, "-c", READER, base, str(VERSIONS + 1)])
        for _ in range(VERSIONS):
            model.fit(x, x.sum(axis=1), epochs=2, verbose=0)
            number = ckptkit.publish_version(model, base, labels=["canary"])
            print(f"published version {number}: {np.round(np.asarray(model(np.ones((1, 4))))[0, 0], 3)}", flush=True)
            await_reader(reader)
        ckptkit.versions.set_label(base, "stable", VERSIONS - 1)
        number = ckptkit.versions.rollback(base)
        print(f"version {VERSIONS} was no good: rolled back, {number} is what {VERSIONS - 1} was", flush=True)
        assert reader.wait(120) == 0, "the reader failed"
        print(f"versions {ckptkit.versions.versions(base)}, labels {ckptkit.versions.labels(base)}")


def await_reader(reader):
    """Give the reader a moment to see this version, so that the story can be followed; it needs none to be right."""
    time.sleep(1.0)
    assert reader.poll() in (None, 0), "the reader failed"


if __name__ == "__main__":
    main()
