"""strace at work on a process of ours: what it changes on the disk, and death at a system call of our choice.

with attached(pid, "-o", "calls.txt"):
    ...                                         # the process runs
changes("calls.txt", folder)                    # [["write", "/runs/ckpt-1.index"], ...]
"""

from __future__ import annotations

import collections
import functools
import os
import re
import subprocess
from contextlib import contextmanager

# Every system call that changes a file system; where a machine does not have one, the question mark leaves it out.
CHANGING = {
    "open": ("open", "openat", "openat2", "creat"),
    "write": ("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "copy_file_range", "splice"),
    "truncate": ("truncate", "ftruncate", "fallocate"),
    "fsync": ("fsync", "fdatasync", "sync_file_range", "syncfs", "msync"),
    "rename": ("rename", "renameat", "renameat2"),
    "link": ("link", "linkat", "symlink", "symlinkat"),
    "unlink": ("unlink", "unlinkat"),
    "mkdir": ("mkdir", "mkdirat", "mknod", "mknodat"),
    "rmdir": ("rmdir",),
}
OURS = {call: name for name, calls in CHANGING.items() for call in calls}
ON_TWO_PATHS = {"link", "rename"}
SET = ",".join(f"?{call}" for call in OURS)
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\((?P<arguments>.*)")
_PATH = re.compile(r'(?:AT_FDCWD|\b\d+)<(?P<descriptor>/[^>]*)>|"(?P<text>[^"]+)"')
_READS = re.compile(r"O_RDONLY(?!.*O_(?:CREAT|TRUNC))")


@functools.cache
def why_not():
    """Say why strace cannot be used here, None if it can."""
    try:
        done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    except FileNotFoundError:
        return "strace is not installed"
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


@contextmanager
def attached(pid, *options):
    """Watch a process with strace until it ends."""
    command = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={SET}", *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        line = strace.stderr.readline()
        if "attached" not in line:
            raise RuntimeError(f"strace did not attach: {line}{strace.stderr.read()}")
        yield
        strace.stderr.read()


def changes(log, folder):
    """Return the calls in a log that change what is below a folder, or flush it: our names for them, and the paths."""
    found = []
    for call, arguments in ((match["call"], match["arguments"]) for match in _calls(log)):
        name = "rmdir" if "AT_REMOVEDIR" in arguments else OURS[call]
        paths = _paths(arguments)[: 2 if name in ON_TWO_PATHS else 1]
        reads = name == "open" and _READS.search(arguments)
        if any(path.startswith(folder) for path in paths) and not reads:
            found.append([name, *paths])
    return found


def most_of_each(log):
    """Return how often each system call of a log is made by the thread that makes it most."""
    counts = {}
    for match in _calls(log):
        counts.setdefault(match["call"], collections.Counter())[match["thread"]] += 1
    return {call: max(threads.values()) for call, threads in counts.items()}


def _calls(log):
    with open(log) as lines:
        return [match for match in map(_CALL.match, lines) if match is not None]


def _paths(arguments):
    """Return the paths among the arguments of a call, as strace prints them: "name", 3</path>, or both for one file."""
    paths, folder = [], ""
    for descriptor, text in _PATH.findall(arguments):
        if descriptor and folder:
            paths.append(folder)
        folder = descriptor or folder
        if text:
            paths.append(os.path.join(folder, text))
            folder = ""
    return [*paths, folder] if folder else paths
