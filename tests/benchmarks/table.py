"""Figures on a screen and in a file, with the facts of the machine they were measured on."""

import importlib.metadata
import json
import os
import platform

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figure, Target, median, ratio, spread

WIDTH = 150
FORMAT = 1
PACKAGES = ("tensorflow", "keras", "orbax-checkpoint", "numpy", "protobuf", "crc32c", "jax")


def show(figures, title, file=None):
    """Print one table."""
    table = Table(title=title)
    for heading in ("figure", "contestant", "median", "spread", "ratio", "must be", "reached"):
        table.add_column(heading, justify="right" if heading in ("median", "spread", "ratio") else "left")
    for figure in figures:
        heading = figure.name
        for name, samples in figure.samples.items():
            targets = [target for target in figure.targets if target.contestant == name] or [None]
            for at, target in enumerate(targets):
                told = (name, *_measured(samples, figure.unit)) if not at else ("", "", "")
                table.add_row(heading, *told, *_judged(figure, target))
                heading = ""
        table.add_section()
    Console(width=WIDTH, file=file).print(table)


def facts(folder):
    """Return what kind of a machine this is."""
    import tensorflow as tf

    with open("/proc/meminfo", encoding="ascii") as file:
        memory_kb = int(file.readline().split()[1])
    devices = tf.config.list_physical_devices("GPU")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb / 1e6, 1),
        "devices": [tf.config.experimental.get_device_details(each).get("device_name", each.name) for each in devices]
        or ["CPU"],
        "file_system": _file_system(folder),
        "load_average": os.getloadavg()[0],
        "kernel": platform.release(),
        "processor": _processor(),
    }


def versions():
    """Return the versions of everything that takes part."""
    import ckptkit

    found = {"python": platform.python_version(), "ckptkit": ckptkit.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def to_json(figures, **more):
    """Return everything, raw samples included, as JSON."""
    told = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "samples": {name: list(samples) for name, samples in figure.samples.items()},
            "medians": {name: median(samples) for name, samples in figure.samples.items()},
            "targets": [
                {
                    "contestant": target.contestant,
                    "must": "at least" if target.at_least else "at most",
                    "limit": target.limit,
                    "against": target.against,
                    "value": figure.value(target),
                    "reached": figure.reached(target),
                }
                for target in figure.targets
            ],
            "notes": dict(figure.notes),
        }
        for figure in figures
    ]
    return json.dumps({"format": FORMAT, **more, "figures": told}, indent=1, ensure_ascii=False)


def compared(figures, state_mb, other):
    """Return how the blocking times of two runs differ, the larger state over the smaller one.

    The limit is what the two spreads leave open: up to it they overlap, and the difference may be noise.
    """
    found = []
    theirs = {each["name"]: each["samples"] for each in other["figures"]}
    for figure in figures:
        if not figure.name.startswith("blocking (") or figure.name not in theirs:
            continue
        pairs = {name: (samples, theirs[figure.name].get(name, ())) for name, samples in figure.samples.items()}
        if state_mb < other["state_mb"]:
            pairs = {name: pair[::-1] for name, pair in pairs.items()}
        pairs = {name: pair for name, pair in pairs.items() if all(pair)}
        sizes = sorted((state_mb, other["state_mb"]), reverse=True)
        found.append(
            Figure(
                f"{figure.name}, {sizes[0]} MB over {sizes[1]} MB",
                "×",
                {name: [ratio(median(large), median(small))] for name, (large, small) in pairs.items()},
                tuple(
                    Target(t.contestant, noise(*pairs[t.contestant])) for t in figure.targets if t.contestant in pairs
                ),
            )
        )
    return found


def noise(large, small):
    """Return the greatest ratio of medians at which the spreads still overlap: min(large) ≤ max(small)."""
    return (median(large) / spread(large)[0]) * (spread(small)[1] / median(small))


def _measured(samples, unit):
    if not samples:
        return "–", ""
    least, most = spread(samples)
    return f"{_number(median(samples))} {unit}", f"{_number(least)} – {_number(most)}"


def _judged(figure, target):
    if target is None:
        return "", "", ""
    value, reached = figure.value(target), figure.reached(target)
    told = {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[reached]
    if target.against is None and not target.worst and value is not None:
        return "", str(target), told  # it is the median
    return "–" if value is None else _number(value), str(target), told


def _number(value):
    """Three digits, and thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _file_system(folder):
    best = ("", "unknown")
    with open("/proc/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, place, kind, *_ = line.split()
            inside = os.path.realpath(folder) + "/"
            if inside.startswith(place.rstrip("/") + "/") and len(place) >= len(best[0]):
                best = (place, kind)
    return best[1]


def _processor():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
