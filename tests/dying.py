"""Death at a call to the disk, played by a machine that stops: from that call on, every call raises."""

from __future__ import annotations

import itertools
import os

CALLS = ("fsync", "makedirs", "rename", "replace", "link", "unlink", "rmdir")


class Died(BaseException):
    """The process is gone; nothing it would do afterwards is done."""


def dies(monkeypatch, index, action):
    """Run an action with death at a call to the disk; say whether it came to that."""
    calls = itertools.count()

    def deadly(real):
        def call(*arguments, **keywords):
            if next(calls) >= index:
                raise Died
            return real(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, deadly(getattr(os, name)))
        try:
            action()
        except Died:
            return True
    return False
