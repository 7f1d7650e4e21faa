"""memory: host memory that saving adds, peak and after ``close()``, each contestant in a process of its own.

What is compared is the resident set's peak as the kernel keeps it (``VmHWM``, reset by ``/proc/self/clear_refs``):
exact, and nothing in the process has to look on. The peak of steps with saves is held against that of steps without,
since a step's own gradients are no memory of a save. After ``close()`` what malloc keeps for the next one is told
apart, by ``malloc_trim``. See ``memory_child``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import contestants as names
from tests.benchmarks.figures import Figure, Target

TAKING_PART = (names.CKPTKIT, names.CKPTKIT_FIT, names.TENSORFLOW, names.ORBAX, names.BACKUP)
LEFT = 0.1  # of the state: what may be left and still count as given back
ROOT = Path(__file__).resolve().parents[2]


def memory(folder, options, jit_compile, say):
    """Measure; return the figures."""
    extra, left, notes = {}, {}, {}
    for at, name in enumerate(TAKING_PART):
        if name == names.ORBAX and not names.has_orbax():
            continue
        seen = run(name, os.path.join(folder, str(at)), options, jit_compile)
        state = seen["state"]
        extra[name] = [(peak - seen["peak_before"]) / state for peak in seen["peaks"]]
        left[name] = [(seen["rss_trimmed"] - seen["rss_before"]) / state]
        left[f"{name}, malloc's free lists too"] = [(seen["rss_after"] - seen["rss_before"]) / state]
        notes |= {f"{name}: {what}, bytes": value for what, value in seen.items() if what != "peaks"}
        say(f"  {name}")
    setting = "XLA" if jit_compile else "no XLA"
    return [
        Figure(
            f"memory ({setting})", "× state", extra, tuple(Target(name, 1.3, worst=True) for name in names.OURS), notes
        ),
        Figure(f"memory after close() ({setting})", "× state", left, tuple(Target(name, LEFT) for name in names.OURS)),
    ]


def run(name, folder, options, jit_compile):
    """Measure one contestant in a child; return what it saw."""
    arguments = json.dumps([name, folder, options.state_mb, options.rounds, jit_compile])
    command = [sys.executable, "-m", "tests.benchmarks.memory_child", arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"the child for {name} ended with exit code {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])
