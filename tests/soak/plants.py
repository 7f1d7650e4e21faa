"""Ways to break ckptkit that a soak must find: ``python -m tests.soak.plants FOLDER CYCLES`` prints JSON, a line each.

The first is none: a soak of the library as it is, which must find nothing.
"""

import functools
import itertools
import json
import os
import sys
import time
from dataclasses import replace

from ckptkit.bundle_writer import BundleWriter
from ckptkit.input_position import InputPosition
from ckptkit.lock import DirectoryLock
from ckptkit.store import Store
from tests.kill_child import forked
from tests.soak import life, soaking
from tests.soak.__main__ import parse, references, soak
from tests.soak.onlooker import Onlooker
from tests.soak.plan import Kill, Plan

EPOCHS = 3


def deletes_before_the_commit():
    """Delete what will be too much when the save that begins is committed: a kill in between loses it."""
    begin = Store.begin

    def spoilt(self, name):
        records = self.scan().records
        best = min(
            (r for r in records if life.MONITOR in r.metrics), key=lambda r: r.metrics[life.MONITOR], default=None
        )
        for record in records[: -(life.KEPT - 1)]:
            if record is not best and record.step > 0:
                for end in (".manifest.json", ".index", ".data-00000-of-00001"):
                    os.unlink(record.prefix + end)
        return begin(self, name)

    Store.begin = spoilt


def writes_other_bytes():
    """Write one value that is another than it was, with the right checksum."""
    add = BundleWriter.add

    def spoilt(self, key, array, *arguments, **named):
        add(self, key, array + array.dtype.type(1) if array.shape == (520,) else array, *arguments, **named)

    BundleWriter.add = spoilt


def resumes_a_batch_off():
    """Skip a batch of the data too many."""
    move = InputPosition._move

    def spoilt(self, place, state):
        move(self, place, state)
        next(self._current)

    InputPosition._move = spoilt


def does_not_clean_up():
    """Leave what a writer that died has left."""
    Store.recover = lambda self: None


def takes_long():
    """Take so long to commit that who is killed in a save leaves its folder; that is no loss."""
    commit = Store.commit

    def slow(self, *arguments):
        time.sleep(0.5)
        return commit(self, *arguments)

    Store.commit = slow


def lets_anybody_write():
    """Take the lock, whoever has it."""
    DirectoryLock._take = lambda self, descriptor: None


def hangs():
    """Wait for ever in the third commit of a life."""
    commit, commits = Store.commit, itertools.count(1)
    soaking.LIMIT_SECS = 8.0

    def spoilt(self, *arguments):
        if next(commits) == 3:
            time.sleep(1000)
        return commit(self, *arguments)

    Store.commit = spoilt


QUIET = Plan(
    async_save=False,
    on_save_error="raise",
    save_freq=2,
    kill=None,
    faults=(),
    pauses=(),
    second_writer=False,
    reader=False,
    full_disk=False,
    rot=None,
    seed=2,  # a second writer after the first commit
)
KILLED = replace(QUIET, kill=Kill(after_commits=3, secs=0.0, in_a_save=True))
SOAKS = (  # what is broken, and what befalls each life
    (  # who is let in must not sweep the first writer's save, or nothing else comes to light
        (lets_anybody_write, does_not_clean_up, writes_other_bytes, deletes_before_the_commit, hangs),
        replace(QUIET, second_writer=True),
    ),
    ((resumes_a_batch_off,), KILLED),
    ((takes_long, does_not_clean_up), KILLED),
)


def found_by(plants, plan, options, known, onlooker):
    """Break the library in this process and soak it; return what was found."""
    for plant in plants:
        plant()
    if plan is not None:
        Plan.draw = lambda chosen: plan
    tally = soak(options, known, onlooker)
    return {"losses": tally.losses, "unexpected": tally.unexpected, "counts": tally.counts}


def main(folder, cycles):
    """Soak the library as it is, and then with each thing broken."""
    with Onlooker(os.path.join(folder, "onlooker.output")) as onlooker:
        known = references(folder, EPOCHS)
        for plants, plan in (((), None), *SOAKS):
            told = {"cycles": cycles, "epochs": EPOCHS, "problems": 1, "directory": folder}
            options = parse([f"--{name}={value}" for name, value in told.items()])
            result, _ = forked(functools.partial(found_by, plants, plan, options, known, onlooker))
            print(json.dumps({"broken": [plant.__name__ for plant in plants], **result}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
