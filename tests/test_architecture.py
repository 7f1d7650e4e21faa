"""How the modules hang together: imports point down, TensorFlow stays upstairs, and the top is loaded lazily.

The floors are those of DESIGN.md, section 5, with the order inside a floor spelled out: a module imports from floors
below its own, never from its own or from above.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import ckptkit

PACKAGE = Path(ckptkit.__file__).parent

FLOORS = [
    {"arguments", "checksums", "errors", "readable", "spelling"},
    {
        "bundle_protos",
        "combinators",
        "contents",
        "data_file",
        "dtypes",
        "durability",
        "config_changes",
        "lock",
        "preemption",
        "records",
        "slices",
        "staging",
        "state_file",
        "stats",
        "tolerance",
        "varint",
        "worker_keys",
    },
    {
        "coordination",
        "failures",
        "free_space",
        "listing",
        "mismatch",
        "progress",
        "ranking",
        "resuming",
        "snappy",
        "string_tensors",
        "writer",
    },
    {"history", "policies", "preservation", "table"},
    {"appointment", "bundle_index", "ledger", "monitors", "schedule", "shard_stream", "store"},
    {
        "bundle",
        "bundle_writer",
        "export",
        "export.facts",
        "export.names",
        "export.publishing",
        "export.silence",
        "export.versions",
        "finding",
        "input_facts",
        "overview",
        "policy_text",
    },
    {"keeping", "option_rules", "tensor_values", "variable_names", "verifying", "yaml_file"},
    {"comparing", "options", "pruning", "repairing"},
    {"report", "report.chart", "report.event_facts", "report.thinning", "report.wording"},
    {"report.turns"},
    {"report.curves", "report.saves"},
    {"report.cost_charts", "report.facts", "report.table"},
    {"report.metric_charts", "report.summary", "report.time_line"},
    {"report.page"},
    # Keras and TensorFlow from here on.
    {"keras2", "keras3"},
    {"cluster", "tensorboard", "which_keras"},
    {
        "export.built",
        "export.compiled",
        "export.origin",
        "export.state",
        "graph_watch",
        "reading",
        "replicas",
        "untracked",
    },
    {"agreement", "held"},
    {"snapshot"},
    {
        "callback_state",
        "export.custom_code",
        "export.example",
        "pipeline",
        "randomness",
        "restoring",
        "run_state",
        "unsaved_random",
    },
    {
        "export.architecture",
        "export.keras_2_hdf5",
        "export.keras_2_saved_model",
        "export.keras_archive",
        "export.restored",
        "export.weights",
        "input_position",
    },
    {"export.hdf5", "export.saved_model"},
    {"export.formats"},
    {"export.verification"},
    {"finished_fits", "fit", "fit_callbacks", "fit_frame", "fit_model", "fit_place", "interval", "save_options"},
    {"input_hooks2", "input_hooks3"},
    {"input_hooks"},
    {"fit_inputs"},
    {"following", "reader", "saving"},
    {"saver"},
    {"manager"},
    {"leaving"},
    {"artifacts", "callbacks", "loop"},
    {"completion"},
    {"cli.printing", "cli.usage", "config"},
    {"cli.chosen"},
    {"cli.diff", "cli.export", "cli.ls", "cli.prune", "cli.repair", "cli.report", "cli.show", "cli.verify"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, modules in enumerate(FLOORS) for module in modules}
HEAVY = {"tensorflow", "keras", "tf_keras"}
FIRST_HEAVY = LEVEL["keras3"]
LIGHT = {"config", "run_state"}  # stand upstairs and are to start without TensorFlow all the same
CHOSEN = {"keras2": {"keras", "tree"}, "keras3": {"keras", "tree"}}  # what is there to be imported by all others
CHOICES = {
    "input_hooks": ("input_hooks2", "input_hooks3"),
    "which_keras": ("keras2", "keras3"),
}  # what offers the names of either, which have the same
PRIVATE = {"snapshot"}  # the only one to touch TensorFlow's private parts
# What decides when to save and what to keep, and all that may be had there: no clock, no disk, no log, nothing random.
PURE = {"arguments", "combinators", "policies", "preservation", "ranking"}
PURE_SOURCES = {
    "__future__",
    "bisect",
    "collections.abc",
    "dataclasses",
    "math",
    "operator",
    "statistics",
    "typing",
}
IMPURE_CALLS = {
    "__import__",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "globals",
    "hash",
    "id",
    "input",
    "open",
    "print",
}


@dataclass(frozen=True)
class Import:
    """One imported name: as much of it as is a module, and whether only a type checker sees it."""

    target: str
    line: int
    for_types: bool = False


def sources():
    """Name and source of every module of the package; a package goes by its own name, the top one by ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


SOURCES = sources()


def imports(source, modules=frozenset(LEVEL)):
    """Every import in a source, wherever it stands; ``from package import module`` is one of the module."""

    def visit(node, for_types):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, for_types)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, for_types)
        elif isinstance(node, ast.ImportFrom):
            home = "." * node.level + (node.module or "")
            for alias in node.names:
                whole = f"{home}.{alias.name}"
                is_module = whole.removeprefix("ckptkit.") in modules or whole == "tensorflow.python"
                yield Import(whole if is_module else home, node.lineno, for_types)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, for_types)

    return list(visit(ast.parse(source), False))


def violations(module, source):
    """What a module's imports break, a line each."""
    found = []
    for each in imports(source):
        where = f"{module or 'ckptkit'}, line {each.line}: {each.target}"
        root, _, rest = each.target.partition(".")
        if module == "" and each.for_types:
            continue  # what it re-exports is loaded lazily
        if root == "":
            found.append(f"{where} is relative")
        elif root == "ckptkit":
            if module == "" or LEVEL.get(rest, len(FLOORS)) >= LEVEL[module]:
                found.append(f"{where} does not lie below")
        elif root in HEAVY and (module == "" or LEVEL[module] < FIRST_HEAVY or module in LIGHT):
            found.append(f"{where} is too heavy for this floor")
        if (each.target + ".").startswith("tensorflow.python.") and module not in PRIVATE:
            found.append(f"{where} is private")
    return found


def impurities(source):
    """What in a source could make the same question have another answer, or leave a trace; a line each."""
    found = []
    for each in imports(source):
        if each.target not in PURE_SOURCES | {f"ckptkit.{module}" for module in PURE | {"records"}}:
            found.append(f"line {each.line}: imports {each.target}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            found.append(f"line {node.lineno}: keeps {', '.join(node.names)}")
        elif isinstance(node, ast.Name) and node.id in IMPURE_CALLS:
            found.append(f"line {node.lineno}: calls {node.id}")
    return found


def definitions(source):
    """The names that a module's own top level binds, imports left out."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def declared(source):
    """A module's ``__all__``, None where it has none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def sorting(name):
    """Constants, then classes, then the rest, as isort has it."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


# The floors --------------------------------------------------------------------------------------------------------


def test_every_module_has_a_floor_and_every_floor_only_modules_that_are_there():
    assert set(LEVEL) == set(SOURCES) - {""}
    assert sum(len(floor) for floor in FLOORS) == len(LEVEL)


@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module or "ckptkit")
def test_the_imports_of_a_module_point_down_and_keep_tensorflow_upstairs(module):
    assert violations(module, SOURCES[module]) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("records", "from ckptkit.errors import CheckpointError", []),
        ("store", "import json\nfrom ckptkit.records import Manifest", []),
        ("manager", "from ckptkit import restoring\nimport tensorflow as tf", []),
        ("completion", "from ckptkit.export import hdf5, saved_model", []),
        ("snapshot", "from tensorflow.python.ops import resource_variable_ops", []),
        ("loop", "from tensorflow.pythonic import x", []),
        ("", "if TYPE_CHECKING:\n    from ckptkit.manager import CheckpointManager", []),
        ("records", "from ckptkit.store import Store", ["records, line 1: ckptkit.store does not lie below"]),
        ("records", "import ckptkit.store", ["records, line 1: ckptkit.store does not lie below"]),
        ("records", "from ckptkit import manager", ["records, line 1: ckptkit.manager does not lie below"]),
        ("policies", "from ckptkit import preservation", ["policies, line 1: ckptkit.preservation does not lie below"]),
        ("callbacks", "\n\nimport ckptkit.loop", ["callbacks, line 3: ckptkit.loop does not lie below"]),
        ("fit", "from ckptkit.export import hdf5", []),
        ("snapshot", "from ckptkit.export import hdf5", ["snapshot, line 1: ckptkit.export.hdf5 does not lie below"]),
        ("fit", "def f():\n    from ckptkit.manager import x", ["fit, line 2: ckptkit.manager does not lie below"]),
        ("cli", "from ckptkit import CheckpointManager", ["cli, line 1: ckptkit does not lie below"]),
        ("cli", "from ckptkit.nowhere import x", ["cli, line 1: ckptkit.nowhere does not lie below"]),
        (
            "lock",
            "if typing.TYPE_CHECKING:\n    from ckptkit.store import Store",
            ["lock, line 2: ckptkit.store does not lie below"],
        ),
        ("", "from ckptkit.errors import CheckpointError", ["ckptkit, line 1: ckptkit.errors does not lie below"]),
        (
            "",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import keras",
            ["ckptkit, line 4: keras is too heavy for this floor"],
        ),
        ("lock", "from . import store", ["lock, line 1: . is relative"]),
        ("lock", "from .store import Store", ["lock, line 1: .store is relative"]),
        ("store", "import tensorflow as tf", ["store, line 1: tensorflow is too heavy for this floor"]),
        ("ledger", "from keras import ops", ["ledger, line 1: keras is too heavy for this floor"]),
        (
            "writer",
            "try:\n    import tf_keras\nexcept ImportError:\n    pass",
            ["writer, line 2: tf_keras is too heavy for this floor"],
        ),
        ("run_state", "def f():\n    import keras.ops", ["run_state, line 2: keras.ops is too heavy for this floor"]),
        (
            "saving",
            "import tensorflow.python.eager.context",
            ["saving, line 1: tensorflow.python.eager.context is private"],
        ),
        ("saving", "from tensorflow import python", ["saving, line 1: tensorflow.python is private"]),
        ("restoring", "from tensorflow.python import ops", ["restoring, line 1: tensorflow.python is private"]),
    ],
    ids=lambda value: value.replace("\n", "; ") if isinstance(value, str) else "fine" if not value else "refused",
)
def test_the_check_finds_what_was_planted_and_nothing_else(module, source, found):
    assert violations(module, source) == found


def test_private_parts_of_tensorflow_are_touched_in_the_snapshot_alone():
    users = {
        module
        for module, source in SOURCES.items()
        if any((each.target + ".").startswith("tensorflow.python.") for each in imports(source))
    }
    assert users == PRIVATE


# Purity ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(PURE))
def test_what_decides_about_saves_reads_no_clock_and_no_disk_writes_no_log_and_rolls_no_dice(module):
    assert impurities(SOURCES[module]) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import math\nfrom ckptkit.ranking import is_better\nfrom ckptkit.records import CheckpointRecord", []),
        ("import time", ["line 1: imports time"]),
        ("def f():\n    from datetime import datetime", ["line 2: imports datetime"]),
        ("import os.path, logging", ["line 1: imports os.path", "line 1: imports logging"]),
        ("import random\nfrom numpy import random", ["line 1: imports random", "line 2: imports numpy"]),
        ("from ckptkit.store import Store", ["line 1: imports ckptkit.store"]),
        ("def f():\n    return open('x').read()", ["line 2: calls open"]),
        ("order = sorted(names, key=hash)", ["line 1: calls hash"]),
        ("def f():\n    global asked\n    asked += 1", ["line 2: keeps asked"]),
        ("import sys\nsys.stderr.write('')", ["line 1: imports sys"]),
    ],
    ids=lambda value: value.replace("\n", "; ") if isinstance(value, str) else "fine" if not value else "refused",
)
def test_the_check_of_purity_finds_what_was_planted_and_nothing_else(source, found):
    assert impurities(source) == found


# The public surface ------------------------------------------------------------------------------------------------


def is_public(module):
    return not any(part.startswith("_") for part in module.split("."))


@pytest.mark.parametrize(
    "module", [module for module in SOURCES if is_public(module)], ids=lambda module: module or "ckptkit"
)
def test_a_public_module_declares_what_it_offers_sorted_and_nothing_it_does_not_have(module):
    defined = {name for name in definitions(SOURCES[module]) if not name.startswith("_")} | CHOSEN.get(module, set())
    for choice in CHOICES.get(module, ()):
        defined |= set(declared(SOURCES[choice]))
    names = declared(SOURCES[module])
    if names is None:
        assert not defined
        return
    assert names == sorted(set(names), key=sorting)
    assert names != []
    if module:
        assert set(names) <= defined


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_what_is_chosen_from_has_the_same_names(choices):
    first, second = (declared(SOURCES[choice]) for choice in choices)
    assert first == second


def test_every_name_of_the_package_can_be_had_and_is_what_its_home_has():
    for name in ckptkit.__all__:
        value, home = getattr(ckptkit, name), ckptkit._HOME[name]
        module = importlib.import_module(f"ckptkit.{home}")
        assert value is (module if home.split(".")[-1] == name else getattr(module, name))
        assert vars(ckptkit)[name] is value


def test_the_package_lists_what_it_has_and_a_type_checker_sees_the_same():
    seen = {
        alias.name
        for node in ast.walk(ast.parse(SOURCES[""]))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ckptkit"
        for alias in node.names
    }
    assert seen == set(ckptkit.__all__) == set(ckptkit._HOME)
    assert set(dir(ckptkit)) == {*ckptkit.__all__, "__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'ckptkit' has no attribute 'CheckpointManger'$"):
        ckptkit.CheckpointManger  # noqa: B018


def test_what_needs_no_tensorflow_starts_without_it():
    script = """
import sys

def heavy():
    return sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "tf_keras"})

import ckptkit
loaded = [name for name in sys.modules if name.startswith("ckptkit.")]
assert loaded == [], f"import ckptkit loads {loaded}"
dir(ckptkit), ckptkit.__version__
ckptkit.policies.EverySteps(5), ckptkit.preservation.Latest(3), ckptkit.CheckpointRecord("a", 1), ckptkit.ReadOnlyError
ckptkit.load_config("examples/run.yaml").dump()
import ckptkit.policies, ckptkit.preservation, ckptkit.cli, ckptkit.ledger, ckptkit.repairing, ckptkit.run_state
assert heavy() == [], f"{heavy()} were imported"
ckptkit.CheckpointManager
assert "tensorflow" in heavy(), "this check finds nothing"
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
