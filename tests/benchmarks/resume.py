"""How long a resume takes, by place: ``python -m tests.benchmarks.resume --batches 50 50000``.

For each place a child process trains that far into its first epoch and is killed behind a save. Then children resume
and end at their first trained batch, in turn: each way of keeping the place, each place, several rounds.
Measured is the time from the call of ``fit`` to that batch; a fresh ``fit``, which has to trace its step as well, is
there beside it.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

WAYS = ("iterator", "replay")


def train(directory, way, save_at, stop_after):
    """Train a small model on one long epoch; die behind the save, or print the seconds to the first batch."""
    import keras
    import tensorflow as tf

    import ckptkit
    from ckptkit.policies import EverySteps, Never

    keras.utils.set_random_seed(1)
    rows = tf.data.Dataset.range(60_000).shuffle(1000).map(lambda at: (tf.fill([8], tf.cast(at % 7, tf.float32)), 1.0))
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    began = time.perf_counter()

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if stop_after is None:
                print(json.dumps({"batch": batch, "seconds": time.perf_counter() - began}), flush=True)
                os._exit(0)
            if batch == stop_after:
                os.kill(os.getpid(), signal.SIGKILL)

    policy = EverySteps(save_at) if save_at else Never()
    checkpoint = ckptkit.TrainingCheckpoint(directory, save_freq=policy, input_state=way, async_save=False)
    model.fit(rows.batch(1), epochs=1, verbose=0, shuffle=False, callbacks=[checkpoint, Watch()])


def child(directory, way, save_at, stop_after):
    """Run :func:`train` in a process of its own; return what it printed."""
    arguments = json.dumps([directory, way, save_at, stop_after])
    command = [sys.executable, "-m", "tests.benchmarks.resume", "--train", arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a child ended with exit code {done.returncode}")
    return json.loads(done.stdout) if done.stdout else None


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.resume", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[50, 50_000], help="places to resume at")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train(*json.loads(options.train))

    from rich.console import Console
    from rich.table import Table

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            for place in options.batches:
                child(f"{folder}/{way}-{place}", way, place, place)
        for turn in range(options.rounds):
            fresh = child(f"{folder}/fresh-{turn}", "iterator", 0, None)
            seconds.setdefault(("no resume", 0), []).append(fresh["seconds"])
            for way in WAYS:
                for place in options.batches:
                    done = child(f"{folder}/{way}-{place}", way, 0, None)
                    assert done["batch"] == place, done
                    seconds.setdefault((way, place), []).append(done["seconds"])
    table = Table(title="from the call of fit to the first trained batch")
    for heading in ("place kept by", "resumed at batch", "median", "least", "more than a fresh fit"):
        table.add_column(heading, justify="left" if heading == "place kept by" else "right")
    fresh = statistics.median(seconds["no resume", 0])
    for (way, place), times in seconds.items():
        median = statistics.median(times)
        table.add_row(way, f"{place:,}", f"{median:.2f} s", f"{min(times):.2f} s", f"{median - fresh:.2f} s")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
