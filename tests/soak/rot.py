"""What happens to a directory between two lives: bits flip, files are cut short or deleted, folders move."""

import contextlib
import os
import random
import shutil

from ckptkit.listing import MANIFEST, shards_of


def flip(directory: str, name: str, chosen: random.Random) -> str:
    """Flip a bit of a checkpoint's index or data; return where."""
    path = os.path.join(directory, chosen.choice([f"{name}.index", *shards_of(os.listdir(directory))[name]]))
    at, bit = chosen.randrange(os.path.getsize(path)), chosen.randrange(8)
    times = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # nobody wrote to it
    return f"bit {bit} of byte {at} of {path}"


def truncate(directory: str, name: str, chosen: random.Random) -> str:
    """Cut one of a checkpoint's files short; return which."""
    files = [f"{name}.index", name + MANIFEST, *shards_of(os.listdir(directory))[name]]
    path = os.path.join(directory, chosen.choice(files))
    length = chosen.randrange(os.path.getsize(path))
    os.truncate(path, length)
    return f"{path} cut to {length} bytes"


def delete_state_file(directory: str) -> None:
    """Delete TensorFlow's state file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, "checkpoint"))


def move(directory: str, target: str) -> str:
    """Rename the folder; return where it is now."""
    os.rename(directory, target)
    return target


def copy(directory: str, target: str) -> str:
    """Copy the folder and remove the old one; return where it is now."""
    shutil.copytree(directory, target)
    shutil.rmtree(directory)
    return target
