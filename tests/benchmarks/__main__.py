"""Speed, measured as ratios inside one run: ``python -m tests.benchmarks --state-mb 1200``.

How long ``save()`` keeps the training thread: ckptkit with ``async_save=True`` against ``tf.train.CheckpointManager``,
in turn, after a warm-up save of each. Between saves every variable is updated, as a training step would.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from rich.console import Console
from rich.table import Table

import ckptkit


def main():
    """Run, print a table, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--state-mb", type=int, default=400, help="size of the variables in MB")
    parser.add_argument("--variables", type=int, default=12, help="number of variables of equal size")
    parser.add_argument("--rounds", type=int, default=5, help="saves of each contestant that count")
    parser.add_argument("--json", metavar="FILE", help="also write the measurements there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(folder, options)
    table = Table(title=f"save() keeps the caller, {options.state_mb} MB in {options.variables} variables")
    for heading in ("contestant", "median", "least", "most", "ratio"):
        table.add_column(heading, justify="left" if heading == "contestant" else "right")
    ours = statistics.median(seconds["ckptkit, async"])
    for name, times in seconds.items():
        spread = [f"{value * 1000:.2f} ms" for value in (statistics.median(times), min(times), max(times))]
        table.add_row(name, *spread, f"{statistics.median(times) / ours:.0f}")
    Console(width=100).print(table)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"state_mb": options.state_mb, "variables": options.variables, "seconds": seconds}, file)
    return 0


def measure(folder, options):
    """Return the seconds of each save by contestant."""
    shape = (options.state_mb * 1_000_000 // 4 // options.variables,)
    values = [tf.Variable(tf.random.stateless_uniform(shape, (1, i))) for i in range(options.variables)]
    checkpoint = tf.train.Checkpoint(values=values)
    managers = {
        "ckptkit, async": ckptkit.CheckpointManager(checkpoint, f"{folder}/ours", 1, async_save=True),
        "tf.train.CheckpointManager": tf.train.CheckpointManager(checkpoint, f"{folder}/theirs", 1),
    }
    seconds = {name: [] for name in managers}
    for turn in range(options.rounds + 1):  # the first is a warm-up: first touch of memory is slow
        for name, manager in managers.items():
            for value in values:
                value.assign_add(tf.ones(shape))
            began = time.perf_counter()
            manager.save()
            took = time.perf_counter() - began
            manager.sync()
            if turn:
                seconds[name].append(took)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
