"""import: ``import ckptkit`` in fresh processes, which must not bring TensorFlow."""

import json
import subprocess
import sys

from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.memory import ROOT

SCRIPT = """
import json, sys, time
began = time.perf_counter()
import ckptkit
took = time.perf_counter() - began
print(json.dumps([took, "tensorflow" in sys.modules]))
"""
OURS = "import ckptkit"


def imports(folder, options, say):
    """Measure; return the figure."""
    seconds, brought = [], False
    for turn in range(options.rounds + 1):
        done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
        took, heavy = json.loads(done.stdout)
        brought |= heavy
        if turn:
            seconds.append(took)
    say(f"  {options.rounds} processes")
    with_tensorflow = "processes that imported TensorFlow"
    return [
        Figure(
            "import",
            "s",
            {OURS: seconds, with_tensorflow: [float(brought)]},
            (Target(OURS, 0.1), Target(with_tensorflow, 0.0)),
        )
    ]
