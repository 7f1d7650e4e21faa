"""Seconds of a call."""

import time


def timed(call):
    """Call; return the seconds it took."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
