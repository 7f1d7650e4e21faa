"""A terminal that a test looks at: a pseudo terminal in the place of one of the standard streams."""

import os
import pty
import sys
import threading


class Screen:
    """Stands for a standard stream while its block lasts, and has all that was shown as ``text`` behind it.

    Inside a test's own body: between a fixture and a test pytest puts its own streams back.
    """

    def __init__(self, stream="stderr"):
        self._stream = stream
        self.text = ""

    def __enter__(self):
        self._ours, theirs = pty.openpty()
        self._before = getattr(sys, self._stream)
        self._pieces = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        setattr(sys, self._stream, open(theirs, "w", buffering=1, encoding="utf-8"))
        return self

    def __exit__(self, *error):
        getattr(sys, self._stream).close()
        setattr(sys, self._stream, self._before)
        self._reader.join()
        os.close(self._ours)
        self.text = b"".join(self._pieces).decode()

    def _read(self):
        try:
            while piece := os.read(self._ours, 1 << 16):
                self._pieces.append(piece)
        except OSError:  # the other end is closed
            pass
