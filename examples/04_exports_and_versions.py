"""Export a model when training ends, publish versions that a server follows, and roll back.

    python examples/04_exports_and_versions.py

The server is a process of its own that knows TensorFlow and Keras, and not ckptkit: it loads what was exported, and
looks for new versions all the time. Every one that it sees is whole.
"""

import os
import subprocess
import sys
import tempfile
import time

import digits

import ckptkit

SERVER = """
import os, sys, time, keras, numpy as np, tensorflow as tf
folder, last, served = sys.argv[1], int(sys.argv[2]), 0
images, labels = (np.load(os.path.join(folder, name)) for name in ("images.npy", "labels.npy"))
graph = tf.saved_model.load(os.path.join(folder, "export", "saved_model"))
layers = keras.models.load_model(os.path.join(folder, "export", "model.h5"), compile=False)
for name, outputs in (("SavedModel", graph.serve(images).numpy()), (".h5", layers.predict(images, verbose=0))):
    print(f"   server: {name} has test accuracy {np.mean(outputs.argmax(axis=1) == labels):.4f}", flush=True)
while served < last:  # as a model server polls: the highest number is the one to serve
    base = os.path.join(folder, "versions")
    numbers = [int(name) for name in os.listdir(base) if name.isdigit()] if os.path.isdir(base) else []
    if max(numbers, default=0) > served:
        served = max(numbers)
        artifact = tf.saved_model.load(os.path.join(base, str(served)))
        print(f"   server: version {served} answers {artifact.serve(images).numpy()[0, 0]:.3f}", flush=True)
    time.sleep(0.02)
assert "ckptkit" not in sys.modules
"""


def main():
    """Train and export, publish again and again, and roll back."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(1)
    images, test_images, labels, test_labels = digits.load()
    model = digits.build_model()
    with tempfile.TemporaryDirectory() as folder:
        export, base = os.path.join(folder, "export"), os.path.join(folder, "versions")
        np.save(os.path.join(folder, "images.npy"), test_images)
        np.save(os.path.join(folder, "labels.npy"), test_labels)
        print("1. Train; the exports appear when fit has ended, all of them checked", flush=True)
        done = ckptkit.ExportOnCompletion(export, formats=("saved_model", "h5", "yaml"))
        model.fit(images, labels, epochs=2, callbacks=[done], verbose=0)
        print(f"   {', '.join(sorted(os.listdir(export)))}", flush=True)
        server = subprocess.Popen([sys.executable, "-c", SERVER, folder, "4"], stderr=subprocess.DEVNULL)
        again = ckptkit.load_model(os.path.join(export, "model.h5"))
        print(f"   loaded again, compiled, its optimizer at step {int(again.optimizer.iterations)}", flush=True)
        print("2. Train on and publish, three times", flush=True)
        for _ in range(3):
            again.fit(images, labels, verbose=0)
            number = ckptkit.publish_version(again, base, labels=["canary"])
            answer = again.predict(test_images[:1], verbose=0)[0, 0]
            print(f"   published version {number}, which answers {answer:.3f}", flush=True)
            time.sleep(1.0)  # a moment for the server, so that the story can be followed
        ckptkit.versions.set_label(base, "stable", 2)
        number = ckptkit.versions.rollback(base)
        print(f"3. Version 3 was no good: rolled back, {number} is what 2 was", flush=True)
        assert server.wait(120) == 0, "the server failed"
        print(f"   versions {ckptkit.versions.versions(base)}, labels {ckptkit.versions.labels(base)}")


if __name__ == "__main__":
    main()
