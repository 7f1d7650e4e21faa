"""The floors: what the machine can do at best with the same bytes."""

import os

import numpy as np

PIECE = 16 * 1024 * 1024


class Buffer:
    """Two warm buffers on the host: first touch of memory is slow, and no part of what is measured."""

    def __init__(self, size_bytes):
        self.source = np.ones(size_bytes, np.uint8)
        self.target = np.zeros(size_bytes, np.uint8)
        self.target[:] = 1  # zeros() only promises pages

    def memcpy(self):
        """Copy one to the other."""
        np.copyto(self.target, self.source)

    def write(self, path):
        """Write to a fresh file and flush it to the disk."""
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            whole = memoryview(self.source)
            for begin in range(0, len(whole), PIECE):
                piece = whole[begin : begin + PIECE]
                while piece:
                    piece = piece[os.write(file, piece) :]
            os.fsync(file)
        finally:
            os.close(file)

    def read(self, paths):
        """Read files into the one and copy what was read to the other."""
        filled = sum(_read_into(path, memoryview(self.source), at) for path, at in _places(paths))
        np.copyto(self.target[:filled], self.source[:filled])
        return filled


def warm(paths):
    """Bring files into the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(PIECE):
                pass


def size(paths):
    """Return the bytes of some files."""
    return sum(os.path.getsize(path) for path in paths)


def _places(paths):
    at = 0
    for path in paths:
        yield path, at
        at += os.path.getsize(path)


def _read_into(path, buffer, at):
    file = os.open(path, os.O_RDONLY)
    try:
        begin = at
        while got := os.readv(file, [buffer[at : at + PIECE]]):
            at += got
        return at - begin
    finally:
        os.close(file)
