"""One contestant's memory, run by ``memory``: ``python -m tests.benchmarks.memory_child [name, folder, …]``."""

import ctypes
import gc
import json
import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tests.benchmarks.contestants import contestants
from tests.benchmarks.state import Training

STEPS = 5


def main(name, folder, state_mb, saves, jit_compile):
    """Train, save, train; print the resident set before, at its peaks and after, in bytes."""
    training = Training(state_mb, jit_compile=jit_compile)
    rival = contestants()[name](training, folder)
    for _ in range(STEPS):
        rival.step()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    seen = {"state": training.size_bytes, "rss_before": resident("VmRSS"), "peaks": []}
    forget_peak()
    for _ in range(STEPS):
        rival.step()
    seen["peak_before"] = resident("VmHWM")
    for _ in range(saves + 1):  # the first one, which touches fresh memory, counts here as any other
        forget_peak()
        rival.save()
        while not rival.done():
            rival.step()
        rival.finish()
        for _ in range(STEPS):
            rival.step()
        seen["peaks"].append(resident("VmHWM"))
        rival.clean()
    rival.close()
    gc.collect()
    seen["rss_after"] = resident("VmRSS")
    ctypes.CDLL(None).malloc_trim(0)
    seen["rss_trimmed"] = resident("VmRSS")
    print(json.dumps(seen))


def resident(which):
    """Return a line of ``/proc/self/status`` in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return int(re.search(rf"^{which}:\s+(\d+) kB", file.read(), re.MULTILINE).group(1)) * 1024


def forget_peak():
    """Let ``VmHWM`` begin anew at what is resident now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
