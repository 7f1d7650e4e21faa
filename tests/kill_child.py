"""Saves that die at a chosen call: ``python -m tests.kill_child FOLDER sync strace-async told-sync`` prints JSON.

``sync``, ``async`` and ``replace`` die at every call that ``disk_calls.py`` tells, one after another; with ``strace-``
it is strace that kills, at every second system call that could change something. ``told-`` kills nothing: one save is
watched by both, and what they saw is printed.

TensorFlow is loaded once and never used in this process; every case runs in a fork of it, which starts it for itself.
"""

import gc
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from contextlib import contextmanager, nullcontext

import tensorflow as tf

from ckptkit.listing import DirectoryReader
from ckptkit.manager import CheckpointManager
from tests import strace
from tests.disk_calls import hooked

BEFORE = 3  # saves that are committed when the one that dies begins


def manager_of(directory, **options):
    """Return a manager of one variable, and the variable."""
    value = tf.Variable(tf.zeros(1000))
    return CheckpointManager(tf.train.Checkpoint(value=value), directory, 2, **options), value


def prepare(directory):
    """Commit the checkpoints that are there before the save that dies."""
    manager, value = manager_of(directory)
    for number in range(1, BEFORE + 1):
        value.assign(tf.fill([1000], float(number)))
        manager.save()
    manager.close()


def save(directory, way, calls, tell, *, locked=False):
    """Save once more inside of a context; tell the commit through a pipe as soon as a user could know of it."""
    manager, value = manager_of(directory, async_save=way == "async")
    value.assign(tf.fill([1000], 4.0))
    enter = manager._ledger.add

    def enter_and_tell(record):
        enter(record)  # from now on it is manager.latest_checkpoint
        os.write(tell, b"4")

    manager._ledger.add = enter_and_tell
    if locked:
        manager._saver.become_writer(manager._reader.refresh)
    with calls:
        manager.save(BEFORE if way == "replace" else BEFORE + 1)
        manager.close()  # else the end of this process is entered in the history, out of sight


def look(directory):
    """Read what is left, without writing and then as the next writer; return it as JSON-able facts."""
    facts = {}
    reader, value = manager_of(directory, read_only=True)
    facts["latest"] = os.path.basename(reader.latest_checkpoint or "none")
    facts["damaged"] = dict(DirectoryReader(directory).scan().damaged)
    reader.restore()
    facts["value"] = sorted({float(x) for x in value.numpy()})
    plain = tf.train.latest_checkpoint(directory)
    facts["plain_value"] = (
        None if plain is None else float(tf.train.load_variable(plain, "value/.ATTRIBUTES/VARIABLE_VALUE")[0])
    )
    writer, value = manager_of(directory)
    writer.restore_or_initialize()
    facts["value_to_go_on_from"] = sorted({float(x) for x in value.numpy()})
    value.assign(tf.fill([1000], 9.0))
    saved = writer.save()
    value.assign(tf.zeros(1000))
    writer.restore()
    facts["next_value"] = sorted({float(x) for x in value.numpy()})
    facts["next_is_latest"] = writer.latest_checkpoint == saved
    writer.close()
    kept = {record.name for record in writer.records()}
    known = {"checkpoint", ".ckptkit"} | {
        name + end for name in kept for end in (".index", ".manifest.json", ".data-00000-of-00001")
    }
    facts["litter"] = sorted(set(os.listdir(directory)) - known) + [
        name for name in os.listdir(os.path.join(directory, ".ckptkit")) if name not in ("history.jsonl", "lock")
    ]
    return facts


def forked(work, watch=None):
    """Run ``work`` in a child; return its result and the signal that ended it.

    Where there is ``watch``, the child stops itself once, and goes on inside of the context that ``watch(pid)`` gives.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result = work()
            os.write(theirs, json.dumps(result).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe, watch(child) if watch else nullcontext():
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not ended_by and os.WEXITSTATUS(status):
        raise RuntimeError(f"a case ended with exit code {os.WEXITSTATUS(status)}")
    return json.loads(content) if content else None, ended_by


@contextmanager
def stopped():
    """Stop this process here until its parent lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)
    yield


@contextmanager
def straced(child, *options):
    """Let strace watch a child from where it has stopped until its end."""
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise RuntimeError("a case ended before it had stopped")
    with strace.attached(child, *options):
        os.kill(child, signal.SIGCONT)
        yield


def dying_at(directory, countdown):
    """Return a context in which this process dies at the n-th call that changes something in the directory."""
    left = itertools.count(countdown - 1, -1)

    def die_or_do(operation, call):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call()

    return hooked(directory, die_or_do)


def death(directory, work, watch=None):
    """Run ``work(tell)`` in a fork that may die; return what is known of it before the directory is looked at."""
    told, tell = os.pipe()
    _, ended_by = forked(lambda: work(tell), watch)
    os.close(tell)
    with os.fdopen(told) as pipe:
        return {"directory": directory, "killed": ended_by == signal.SIGKILL, "reported": pipe.read()}


def deaths_at_calls(directories, way):
    """Yield the death at each call in turn, until a save gets through."""
    for countdown in itertools.count(1):
        directory = next(directories)
        yield (case := death(directory, lambda tell: save(directory, way, dying_at(directory, countdown), tell)))  # noqa: B023  it is called at once
        if not case["killed"]:
            return


def deaths_by_strace(directories, way):
    """Yield the death at every second system call that strace sees in a save, each kind of them counted by itself.

    That ``deaths_at_calls`` misses none is seen by ``both_sights``.
    """

    def watched(*options):
        directory = next(directories)
        return death(
            directory,
            lambda tell: save(directory, way, stopped(), tell, locked=True),
            lambda child: straced(child, *options),
        )

    log = next(directories) + ".log"
    yield watched("-o", log)
    for call, count in strace.most_of_each(log).items():
        for number in range(1, count + 1, 2):
            yield watched("-o", os.devnull, "-e", f"inject={call}:signal=SIGKILL:when={number}")


def both_sights(directory, way):
    """Save once more; return the calls that ``disk_calls.py`` tells, and those that strace sees."""
    told, log = [], directory + ".log"

    @contextmanager
    def calls():
        with stopped(), hooked(directory, lambda operation, call: (told.append(operation), call())[1]):
            yield

    def work():
        save(directory, way, calls(), os.open(os.devnull, os.O_WRONLY))
        return [[each.name, each.path, *filter(None, [each.target])] for each in told]

    told, _ = forked(work, lambda child: straced(child, "-o", log))
    return {"told": told, "seen": strace.changes(log, directory)}


def copies(template, folder):
    """Yield copies of a directory for ever."""
    for number in itertools.count():
        yield shutil.copytree(template, os.path.join(folder, str(number)))


def main(folder, *ways):
    """Print what each way comes to, a line a case."""
    gc.freeze()  # a collection in a fork need not look at what it shares with this process
    template = os.path.join(folder, "template")
    forked(lambda: prepare(template))
    for asked in ways:
        directories = copies(template, os.path.join(folder, asked))
        by, _, way = asked.rpartition("-")
        if by == "told":
            print(json.dumps({"way": asked, **both_sights(next(directories), way)}))
            continue
        cases = list((deaths_by_strace if by else deaths_at_calls)(directories, way))
        looks, _ = forked(lambda: [look(case["directory"]) for case in cases])  # noqa: B023  it is called at once
        for case, facts in zip(cases, looks):
            print(json.dumps({"way": asked, **case, **facts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
