"""Train with model.fit, get killed, and start the same script again: it goes on where it was.

python examples/01_fit.py               the whole story, in a temporary folder
python examples/01_fit.py DIRECTORY     one run there; kill it, start it again, and it goes on
"""

import subprocess
import sys
import tempfile

import digits

import ckptkit


def train(directory):
    """Train in a directory, or go on with the training that is there: the one line more is the callback."""
    import keras

    keras.utils.set_random_seed(7)  # so that the data are shuffled alike when the script is started again
    images, test_images, labels, test_labels = digits.load()
    model = digits.build_model()
    checkpoint = ckptkit.TrainingCheckpoint(directory, save_freq=20, max_to_keep=3)
    test = (test_images, test_labels)
    history = model.fit(images, labels, epochs=5, validation_data=test, callbacks=[checkpoint], verbose=0)
    begun = checkpoint.resumed_from
    print("   started afresh" if begun is None else f"   resumed from step {begun.step}")
    print(f"   ended at step {checkpoint.step}, epochs in the history: {len(history.epoch)}")
    print(f"   test accuracy {history.history['val_accuracy'][-1]:.4f}")


def story():
    """Kill a run, start it again, and look at what is on the disk."""
    with tempfile.TemporaryDirectory() as directory:
        print("1. A training run, killed by SIGKILL in mid-epoch")
        run = digits.start(__file__, directory)
        digits.wait_for_step(directory, 100, run)
        run.kill()
        run.wait()
        print(f"   its newest checkpoint is step {digits.newest_step(directory)}")
        print("2. The same once more")
        train(directory)
        print("3. The checkpoints on the disk: ckptkit ls", flush=True)
        subprocess.run([sys.executable, "-m", "ckptkit", "ls", directory], check=True)


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else story()
