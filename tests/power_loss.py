"""What a file system may leave behind when power fails, built from a record of what was done before.

    with recorded(folder) as log:               # a list of operations, paths relative to the folder
        manager.save()
        log.append(Report(1.0))                 # the save was reported committed
    for state, reported in crashes({}, log, random.Random(1)):
        materialise(state, elsewhere)

The model is as mean as POSIX allows, but for renames, which ckptkit needs to be whole. What no fsync has covered may be
lost, each thing by itself:

* what was written to a file since its last fsync: all of it is there, none, a part, or zeros of the right length;
* a name that was made, moved or removed: it may be as it was before, also if what came later is on the disk. An fsync
  of a folder covers the names in it, one of a file its content alone. A rename happens whole or not at all, and is
  covered by an fsync of the folder it goes to. An fsync of a folder does not cover the folder's own name.

What was there at the beginning is on the disk.

Source: Pillai et al., All File Systems Are Not Created Equal, OSDI 2014.
"""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.disk_calls import Operation, hooked

ROOT = 0  # the folder that all paths are relative to
FEW = 4  # things that may be lost: all combinations are tried, of more a sample
SAMPLES = 4


@dataclass(frozen=True)
class Report:
    """Not an operation: from here on the user knows that a value was saved."""

    value: float


@contextmanager
def recorded(root, fail=lambda operation: None):
    """Record what changes below a folder; nothing is really flushed. ``fail`` may raise in place of an operation."""
    log, lock = [], threading.Lock()
    root = os.path.realpath(root)

    def relative(path):
        return path and os.path.relpath(path, root)

    def record(operation, call):
        with lock:  # the order in the log is the order on the disk
            fail(operation)
            done = None if operation.name == "fsync" else call()
            if operation.name == "write":
                operation = replace(operation, content=operation.content[:done])
            log.append(replace(operation, path=relative(operation.path), target=relative(operation.target)))
            return done

    with hooked(root, record):
        yield log


def _cut(content, share):
    return content[: int(len(content) * share)]


# What may be on the disk of a file's content if what was safe is ``safe``.
_SPOILT = (
    lambda content, safe, share: content,
    lambda content, safe, share: safe,
    lambda content, safe, share: bytes(len(content)),
    lambda content, safe, share: _cut(content, share),
    lambda content, safe, share: _cut(content, share).ljust(len(content), b"\0"),
)


@dataclass(frozen=True)
class File:
    """A file in a state of the disk; ``node`` tells those of the same name apart, ``written`` orders them by age."""

    node: int
    written: int
    content: bytes


@dataclass(frozen=True)
class Change:
    """Names that change together: what each stands for afterwards, None for nothing.

    Attributes:
        covered_by: The folder whose fsync makes it last.
        names: ``((folder, name), node)`` each.
        after: The change that made the name that this one takes away: it cannot be lost alone.
    """

    covered_by: int
    names: tuple[tuple[tuple[int, str], int | None], ...]
    after: int | None = None


class Disk:
    """A disk, what is safe on it, and what is not yet.

    Args:
        state: What is on it at the beginning; see :meth:`states`.
    """

    def __init__(self, state):
        self._nodes = itertools.count(ROOT + 1)
        self._folders = {ROOT}
        self._content = {}
        self._written = {}
        self._safe_content = {}
        self._changes = []
        self._safe_changes = set()
        self._names = {}
        self._made_by = {}
        self._clock = itertools.count(1)
        for path, file in sorted(state.items(), key=lambda item: (item[1].written if item[1] else 0, item[0])):
            if file is None:
                self.do(Operation("mkdir", path))
            else:
                self.do(Operation("open", path, flags=os.O_CREAT))
                self.do(Operation("write", path, content=file.content))
                self.do(Operation("fsync", path))
        self._safe_changes = set(range(len(self._changes)))

    def do(self, operation):
        """Do what a recorded operation did."""
        getattr(self, f"_{operation.name}")(operation)

    def states(self, random):
        """Yield what the disk may hold after a loss of power: the file at each path, None for a folder."""
        unsafe = [number for number in range(len(self._changes)) if number not in self._safe_changes]
        for kept in _subsets(unsafe, random):
            names = self._names_with(kept)
            unsure = [node for node in set(names.values()) if self._is_unsure(node)]
            for contents in self._contents(unsure, random, thorough=kept == unsafe):
                yield dict(self._paths(names, {**self._content, **contents}))

    # Operations ------------------------------------------------------------------------------------------------------

    def _open(self, operation):
        place = self._place(operation.path)
        if place not in self._names:
            self._content[node := next(self._nodes)] = self._safe_content[node] = b""
            self._written[node] = next(self._clock)
            self._change(place[0], (place, node))
        elif operation.flags & os.O_TRUNC:
            self._set_content(self._names[place], b"")

    def _write(self, operation):
        node, at = self._node(operation.path), operation.offset
        content = self._content[node].ljust(at, b"\0")
        self._set_content(node, content[:at] + operation.content + content[at + len(operation.content) :])

    def _truncate(self, operation):
        node = self._node(operation.path)
        self._set_content(node, self._content[node][: operation.offset].ljust(operation.offset, b"\0"))

    def _fsync(self, operation):
        node = self._node(operation.path)
        if node in self._folders:
            self._safe_changes |= {number for number, each in enumerate(self._changes) if each.covered_by == node}
        else:
            self._safe_content[node] = self._content[node]

    def _mkdir(self, operation):
        place = self._place(operation.path)
        self._folders.add(node := next(self._nodes))
        self._change(place[0], (place, node))

    def _unlink(self, operation):
        place = self._place(operation.path)
        self._change(place[0], (place, None), after=self._made_by[place])

    _rmdir = _unlink

    def _link(self, operation):
        target = self._place(operation.target)
        self._change(target[0], (target, self._node(operation.path)))

    def _rename(self, operation):
        source, target = self._place(operation.path), self._place(operation.target)
        self._change(target[0], (source, None), (target, self._names[source]), after=self._made_by[source])

    def _change(self, covered_by, *names, after=None):
        for place, node in names:
            self._made_by[place] = len(self._changes)
            if node is None:
                del self._names[place]
            else:
                self._names[place] = node
        self._changes.append(Change(covered_by, names, after))

    def _set_content(self, node, content):
        self._content[node] = content
        self._written[node] = next(self._clock)

    def _node(self, path):
        node = ROOT
        for name in path.split(os.sep) if path != os.curdir else ():
            node = self._names[node, name]
        return node

    def _place(self, path):
        folder, name = os.path.split(path)
        return self._node(folder or os.curdir), name

    # States ----------------------------------------------------------------------------------------------------------

    def _names_with(self, kept):
        """Return the names on the disk if of the unsafe changes just these last."""
        chosen, more = set(), self._safe_changes | set(kept)
        while more:
            chosen |= more
            more = {self._changes[number].after for number in more} - chosen - {None}
        names = {}
        for number in sorted(chosen):
            for place, node in self._changes[number].names:
                if node is None:
                    names.pop(place, None)
                else:
                    names[place] = node
        return names

    def _is_unsure(self, node):
        return node not in self._folders and self._content[node] != self._safe_content[node]

    def _contents(self, unsure, random, *, thorough):
        """Yield contents for the files of which something was not flushed: as they were, and spoilt."""
        if not unsure:
            yield {}
        elif thorough:
            for spoil in _SPOILT:
                yield {node: spoil(self._content[node], self._safe_content[node], 0.5) for node in unsure}
        if unsure:
            yield {
                node: random.choice(_SPOILT)(self._content[node], self._safe_content[node], random.random())
                for node in unsure
            }

    def _paths(self, names, contents, folder=ROOT, above=""):
        for (parent, name), node in names.items():
            if parent == folder:
                path = os.path.join(above, name)
                if node in self._folders:
                    yield path, None
                    yield from self._paths(names, contents, node, path)
                else:
                    yield path, File(node, self._written[node], contents[node])


def crashes(before, log, random, since=0):
    """Yield the states that a loss of power may leave, each with the last value reported until then.

    Args:
        before: What was on the disk at the beginning.
        log: What was done, and reported.
        random: Chooses where there are too many.
        since: Place in the log before which the power does not fail.
    """
    disk, reported, seen = Disk(before), 0.0, set()
    for place, operation in enumerate([*log, None]):
        # Between two flushes nothing becomes safe: what may be left in between may be left at the end as well.
        if operation is None or isinstance(operation, Report) or operation.name == "fsync":
            reported = operation.value if isinstance(operation, Report) else reported
            for state in disk.states(random) if place >= since else ():
                key = frozenset(state.items()), reported
                if key not in seen:
                    seen.add(key)
                    yield state, reported
        if isinstance(operation, Operation):
            disk.do(operation)


def state_of(folder):
    """Return what lies in a folder as a state of a disk."""
    state = {}
    for at, folders, files in os.walk(folder):
        state.update((os.path.relpath(os.path.join(at, name), folder), None) for name in folders)
        for name in files:
            path = os.path.join(at, name)
            with open(path, "rb") as opened:
                state[os.path.relpath(path, folder)] = File(0, os.stat(path).st_mtime_ns, opened.read())
    return state


def materialise(state, folder):
    """Write a state into a new folder; files are as old, one compared with another, as they were."""
    os.mkdir(folder)
    for path, file in sorted(state.items()):
        path = os.path.join(folder, path)
        if file is None:
            os.mkdir(path)
        else:
            with open(path, "wb") as opened:
                opened.write(file.content)
            os.utime(path, ns=(0, file.written * 10**9))


def _subsets(numbers, random):
    """Yield subsets: all of them of a few, else the first ones, each alone, all but each, and some at random."""
    if len(numbers) <= FEW:
        for mask in range(1 << len(numbers)):
            yield [number for bit, number in enumerate(numbers) if mask >> bit & 1]
        return
    yield numbers
    for place, number in enumerate(numbers):
        yield numbers[:place]
        yield [number]
        yield numbers[:place] + numbers[place + 1 :]
    for _ in range(SAMPLES):
        yield [number for number in numbers if random.random() < 0.5]
