"""restore: from the page cache into the live variables, against TensorFlow and against raw read + memcpy."""

import glob
import os

import numpy as np

import ckptkit
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.floors import Buffer, size, warm
from tests.benchmarks.state import Training
from tests.benchmarks.timing import timed

OURS = "ckptkit manager"
THEIRS = "tf.train.Checkpoint.read"
RAW = "floor: raw read + memcpy"


def restoring(folder, options, say):
    """Measure; return the figure."""
    training = Training(options.state_mb, jit_compile=False)
    training.step()
    theirs = training.checkpoint()
    with ckptkit.CheckpointManager(training.checkpoint(), os.path.join(folder, "saved"), None) as manager:
        prefix = manager.save()
        saved = sample(training)
        data = sorted(glob.glob(glob.escape(prefix) + ".data-*"))
        buffer = Buffer(size(data))
        calls = {
            OURS: manager.restore,
            THEIRS: lambda: theirs.read(prefix).expect_partial(),
            RAW: lambda: buffer.read(data),
        }
        seconds = {name: [] for name in calls}
        for turn in range(options.rounds + 1):
            for name, call in calls.items():
                training.step()
                warm(data)
                took = timed(call)
                if name != RAW and not np.array_equal(sample(training), saved):
                    raise RuntimeError(f"{name} did not bring back what was saved.")
                if turn:
                    seconds[name].append(took)
            say(f"  round {turn} of {options.rounds}")
    return [Figure("restore", "s", seconds, (Target(OURS, 0.6, THEIRS), Target(OURS, 2.0, RAW)))]


def sample(training):
    """Return one weight and one slot of the optimizer."""
    return np.concatenate([training.variables[0].value.numpy(), training.optimizer.variables[-1].value.numpy()[None]])
