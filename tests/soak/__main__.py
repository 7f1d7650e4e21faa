"""Kill and resume for a while, with faults: ``python -m tests.soak --minutes 20 --seed 7``.

A script that trains is killed at random moments, stopped, refused writes, has its disk filled and its checkpoints
damaged, and is started again. What ckptkit has reported as saved must be there, whole; what is resumed must be, bit for
bit, where the run would be that nothing befalls. What is chosen hangs on the seed; when it happens, on the machine.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.soak import life
from tests.soak.child import Child
from tests.soak.disk import small_disk
from tests.soak.onlooker import Onlooker
from tests.soak.soaking import Soak


def main(arguments=None):
    """Soak; return 1 if anything was lost, or was not as it must be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the small disk is unmounted
    return 1 if soak(parse(arguments)).problems else 0


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long; the cycle under way is finished")
    parser.add_argument("--cycles", type=int, default=sys.maxsize, help="how many at the most")
    parser.add_argument("--seed", type=int, default=7, help="of what is chosen")
    parser.add_argument("--epochs", type=int, default=40, help="of a run, which is killed many times")
    parser.add_argument("--problems", type=int, default=5, help="how many are enough to end")
    parser.add_argument("--directory", help="where to make a temporary folder, on the disk to be tried")
    return parser.parse_args(arguments)


def soak(options, known=None, onlooker=None):
    """Soak and print a table; return what was counted. What had a problem is kept, and it is said where.

    Args:
        options: As :func:`parse` returns them.
        known: What :func:`references` returned, None to find out.
        onlooker: Restores without writing, None to start one.
    """
    if options.directory is not None:
        os.makedirs(options.directory, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="ckptkit-soak-", dir=options.directory)
    small = os.path.join(folder, "small")
    with contextlib.ExitStack() as stack:
        known = known or references(folder, options.epochs)
        onlooker = onlooker or stack.enter_context(Onlooker(os.path.join(folder, "onlooker.output")))
        why_not = stack.enter_context(small_disk(small))
        soaking = Soak(folder, None if why_not else small, options.seed, options.epochs, known, onlooker)
        began, tally = time.monotonic(), soaking.tally
        try:
            for _ in range(options.cycles):
                soaking.cycle()
                if time.monotonic() > began + 60.0 * options.minutes or len(tally.problems) >= options.problems:
                    break
        finally:
            tally.show(f"soak of {(time.monotonic() - began) / 60.0:.1f} minutes, seed {options.seed}", sys.stderr)
    if why_not is not None:
        tell(f"no disk was filled, for none could be mounted: {why_not}")
    if tally.problems:
        tell(*tally.problems, f"kept in {folder}; to see it again: python -m tests.soak {' '.join(again(options))}")
    else:
        shutil.rmtree(folder)
    return tally


def references(folder, epochs):
    """Return what a run that nothing befalls has at each step, by kind of script."""
    found = {}
    for kind in life.SCRIPTS:
        told = os.path.join(folder, f"undisturbed-{kind}.jsonl")
        directory = os.path.join(folder, f"undisturbed-{kind}")
        child = Child(told, lambda kind=kind, to=told, at=directory: life.undisturbed(kind, at, epochs, to))
        child.poll(0)
        if child.status != 0:
            raise RuntimeError(f"the undisturbed run ended with status {child.status}")
        found[kind] = {line["step"]: line for line in child.lines}
    return found


def again(options):
    """Return the arguments that choose the same things."""
    told = (("--minutes", options.minutes), ("--seed", options.seed), ("--epochs", options.epochs))
    return [text for name, value in told for text in (name, f"{value:g}")]


def tell(*lines):
    """Say something beside the table."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
