"""Be told to end by SIGTERM, as a scheduler does it: save, leave with the exit code that it expects, and lose no step.

python examples/05_preemption.py               the whole story, in a temporary folder
python examples/05_preemption.py DIRECTORY     one run there; press Ctrl-C or send SIGTERM, and start it again
"""

import signal
import sys
import tempfile

import digits

import ckptkit


def train(directory):
    """Train in a directory, or go on with the training that is there."""
    import keras

    keras.utils.set_random_seed(7)
    images, _, labels, _ = digits.load()
    model = digits.build_model()
    checkpoint = ckptkit.TrainingCheckpoint(
        directory,
        save_freq="epoch",
        preemption_signals=["SIGTERM", "SIGINT"],
        grace_secs=60,  # what the scheduler waits before it kills
    )
    try:
        model.fit(images, labels, epochs=4, callbacks=[checkpoint], verbose=0)
    except ckptkit.Preempted as told:  # a script that catches nothing ends in the same way, with exit code 143
        print(told)
        raise
    begun = checkpoint.resumed_from
    print("   started afresh" if begun is None else f"   resumed from step {begun.step}")
    print(f"   ended at step {checkpoint.step}")


def story():
    """Tell a run to end, and start it again."""
    with tempfile.TemporaryDirectory() as directory:
        print("1. A run that saves once an epoch is told to end, by SIGTERM")
        run = digits.start(__file__, directory)
        digits.wait_for_step(directory, 45, run)
        run.send_signal(signal.SIGTERM)
        print(f"   {run.communicate()[0].strip()}")
        print(f"   it has ended with exit code {run.returncode}")
        print("2. The scheduler starts it again: it goes on at that very step")
        train(directory)


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else story()
