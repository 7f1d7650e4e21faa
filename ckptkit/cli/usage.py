"""Wrong usage: what ends a command with exit code 2, and the numbers that arguments take.

parser.add_argument("--keep-latest", type=count)
parser.add_argument("--interval", type=secs)
raise UsageError("nothing says what to keep: --keep-latest 3, say")
"""

from __future__ import annotations

import argparse

__all__ = ["UsageError", "count", "secs", "steps"]


class UsageError(Exception):
    """Arguments that cannot be meant: printed below the usage of the command."""


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"it takes a whole number of at least 1, got {text!r}")
    return int(text)


def secs(text: str) -> float:
    """Return a number of seconds of more than 0, and no more than a thousand years."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 4e10:
        raise argparse.ArgumentTypeError(f"it takes a number of seconds of more than 0, got {text!r}")
    return found


def steps(text: str) -> tuple[int, ...]:
    """Return some step numbers, written with commas between them."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"it takes step numbers with commas between them, got {text!r}")
    return tuple(map(int, parts))
