"""durable: how fast a save in the caller is, from call to commit, against raw write + fsync of the same bytes."""

import os

from tests.benchmarks.contestants import CKPTKIT_SYNC, TENSORFLOW, CkptkitSync, TensorFlow
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.floors import Buffer
from tests.benchmarks.state import Training
from tests.benchmarks.timing import timed

RAW = "floor: raw write + fsync"


def durable(folder, options, say):
    """Measure; return the figure."""
    training = Training(options.state_mb, jit_compile=False)
    buffer = Buffer(training.size_bytes)
    ours = CkptkitSync(training, os.path.join(folder, "ours"))
    theirs = TensorFlow(training, os.path.join(folder, "theirs"))
    raw = os.path.join(folder, "raw")
    calls = {CKPTKIT_SYNC: ours.call, TENSORFLOW: theirs.call, RAW: lambda: buffer.write(raw)}
    speeds = {name: [] for name in calls}
    for turn in range(options.rounds + 1):
        for name, call in calls.items():
            training.step()  # nothing is as it was saved last
            took = timed(call)
            ours.clean()
            theirs.clean()
            if os.path.exists(raw):
                os.remove(raw)
            if turn:
                speeds[name].append(training.size_bytes / 1e6 / took)
        say(f"  round {turn} of {options.rounds}")
    ours.close()
    return [Figure("durable throughput", "MB/s", speeds, (Target(CKPTKIT_SYNC, 0.85, RAW, at_least=True),))]
