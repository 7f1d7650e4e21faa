"""blocking, lost, step: what a save takes from the training that goes on.

Each contestant in its turn, several rounds, the first a warm-up: some steps, a save, steps until the save is over, some
steps. A step without a save is the median of those around it.
"""

import os
import time
from contextlib import ExitStack

from tests.benchmarks import contestants as names
from tests.benchmarks.figures import Figure, Target, against_best, lost, median
from tests.benchmarks.floors import Buffer
from tests.benchmarks.state import Training, has_gpu
from tests.benchmarks.timing import timed

STEPS_AROUND = 5
MEMCPY = "floor: memcpy"


def saving(folder, options, jit_compile, say):
    """Measure; return the figures."""
    training = Training(options.state_mb, jit_compile=jit_compile)
    training.step()
    copy = Buffer(training.size_bytes)
    memcpy = []
    with ExitStack() as opened:
        rivals = open_all(training, folder, opened, say)
        seen = {name: [] for name in rivals}
        for turn in range(options.rounds + 1):  # the first is a warm-up: first touch of memory is slow
            copy.memcpy()  # the buffers have been idle for a while
            took = timed(copy.memcpy)
            for name, rival in rivals.items():
                one = one_save(rival)
                if turn:
                    seen[name].append(one)
            if turn:
                memcpy.append(took)
            say(f"  round {turn} of {options.rounds}" + ("" if turn else ": warm-up"))
    return figures(seen, memcpy, "XLA" if jit_compile else "no XLA", training.size_bytes)


def open_all(training, folder, opened, say):
    """Return the contestants by name, each in a directory of its own, to be closed with ``opened``."""
    classes = dict(names.contestants())
    if not names.has_orbax():
        say(f"  {names.ORBAX} is left out: orbax-checkpoint is not installed, see the extra `benchmark`.")
        classes.pop(names.ORBAX, None)
    if has_gpu():
        classes[names.TO_HOST] = names.ToHost
    rivals = {}
    for at, (name, kind) in enumerate(classes.items()):
        rivals[name] = kind(training, os.path.join(folder, str(at)))
        opened.callback(rivals[name].close)
    return rivals


def one_save(rival):
    """Take a save between steps; return what it took."""
    before = [timed(rival.step) for _ in range(STEPS_AROUND)]
    began, came_back = rival.save()
    during = []
    while not rival.done():
        during.append(timed(rival.step))
        if sum(during) > names.SAVE_TIMEOUT_SECS:
            raise TimeoutError(f"{type(rival).__name__}: a save was not over after {names.SAVE_TIMEOUT_SECS} s.")
    over = time.perf_counter() if during else came_back
    rival.finish()
    after = [timed(rival.step) for _ in range(STEPS_AROUND)]
    saved_bytes = rival.saved_bytes()
    rival.clean()
    step = median(before + after)
    return {
        "blocked": came_back - began,
        "window": over - began,
        "step": step,
        "saved_bytes": saved_bytes,
        "during": during,
        "lost": lost(over - began, len(during), step),
    }


def figures(seen, memcpy, setting, size_bytes):
    """Return the three figures of what was seen."""
    blocked = {name: [one["blocked"] for one in each] for name, each in seen.items()}
    losses = {name: [one["lost"] for one in each] for name, each in seen.items()}
    slowed = {}
    for name in seen:
        ratios = [[took / one["step"] for took in one["during"]] for one in seen[name]]
        if name in (*names.OURS, names.ORBAX):
            slowed[name] = [median(each) for each in ratios if each]
            slowed[f"{name}, worst"] = [max(each) for each in ratios if each]
    notes = {f"step of {name}, s": median(one["step"] for one in each) for name, each in seen.items()}
    notes |= {
        f"steps during a save of {name}": median(len(one["during"]) for one in each) for name, each in seen.items()
    }
    notes |= {f"files of {name}, bytes": median(one["saved_bytes"] for one in each) for name, each in seen.items()}
    notes |= {"state, bytes": size_bytes}
    floor = {MEMCPY: memcpy}
    return [
        Figure(
            f"blocking ({setting})",
            "s",
            blocked | floor,
            against_best(names.OURS, blocked, names.PEERS, 1 / 100),
            notes,
        ),
        Figure(f"lost ({setting})", "s", losses | floor, against_best(names.OURS, losses, names.PEERS, 1 / 3), notes),
        Figure(f"step during a save ({setting})", "×", slowed, tuple(Target(name, 1.5) for name in names.OURS), notes),
    ]
