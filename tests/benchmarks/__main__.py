"""Speed, measured as ratios inside one run: ``python -m tests.benchmarks --state-mb 1200``.

Contestants take turns, after a warm-up round; absolute times of two runs say little. Figures are named in ``--only``.
"""

import argparse
import json
import os
import signal
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # the children want some of it, too
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Orbax brings JAX, which would take the whole GPU

EXPERIMENTS = {  # which of them measures a figure
    "blocking": "saving",
    "lost": "saving",
    "step": "saving",
    "memory": "memory",
    "durable": "durable",
    "restore": "restoring",
    "variables": "variables",
    "batch": "batches",
    "directory": "directories",
    "import": "imports",
}


def main(arguments=None):
    """Run, print a table, and write JSON where it is asked for."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes
    figures = []
    other = None
    if options.compare:
        with open(options.compare, encoding="utf-8") as file:
            other = json.load(file)
    try:
        for name in dict.fromkeys(EXPERIMENTS[figure] for figure in options.only):
            figures += run(name, options)
    finally:  # what was measured before something went wrong is worth seeing
        show(figures, options, other)
    return 0


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--state-mb", type=float, default=400, help="size of the variables, slots included, in MB")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more goes before them")
    parser.add_argument("--only", type=figure_names, default=tuple(EXPERIMENTS), metavar=",".join(EXPERIMENTS))
    parser.add_argument("--jit-compile", choices=("on", "off", "both"), default="both", help="train steps with XLA")
    parser.add_argument("--variables", type=int, default=3000, help="number of small variables")
    parser.add_argument("--batches", type=int, default=3000, help="batches a round without a save")
    parser.add_argument("--checkpoints", type=int, default=2000, help="number of checkpoints in a directory")
    parser.add_argument("--directory", help="where to make temporary folders, on the disk to be measured")
    parser.add_argument("--json", metavar="FILE", help="also write everything there, raw samples included")
    parser.add_argument("--compare", metavar="FILE", help="JSON of a run with another size: is blocking the same?")
    return parser.parse_args(arguments)


def figure_names(text):
    """Return the names in a list with commas."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such figure: {', '.join(unknown)} (have: {', '.join(EXPERIMENTS)})")
    return names


def run(name, options):
    """Run an experiment in a folder of its own; return its figures, those that were asked for."""
    import importlib

    from tests.benchmarks.state import forget

    say(f"{name}:")
    measure = getattr(importlib.import_module(f"tests.benchmarks.{name}"), name)
    modes = {"on": (True,), "off": (False,), "both": (False, True)}[options.jit_compile]
    found = []
    for mode in modes if name in ("saving", "memory") else (None,):
        with tempfile.TemporaryDirectory(prefix="ckptkit-bench-", dir=options.directory) as folder:
            found += measure(folder, options, say) if mode is None else measure(folder, options, mode, say)
        forget()
    if name == "saving":
        found = [figure for figure in found if figure.name.split()[0] in options.only]
    return found


def show(figures, options, other):
    """Print the table and write the file."""
    from tests.benchmarks import table

    if other is not None:
        figures = figures + table.compared(figures, options.state_mb, other)
    machine = table.facts(options.directory or tempfile.gettempdir())
    device = ", ".join(machine["devices"])
    table.show(
        figures,
        f"{options.state_mb:g} MB of state, {options.rounds} rounds, {machine['cores']} cores, {device}, "
        f"{machine['file_system']}, load {machine['load_average']:.1f}",
    )
    if options.json:
        text = table.to_json(
            figures,
            state_mb=options.state_mb,
            rounds=options.rounds,
            options={name: value for name, value in vars(options).items() if name not in ("json", "compare")},
            machine=machine,
            versions=table.versions(),
        )
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")


def say(line):
    """Tell how far it is, beside the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
