"""Every public name says what it does, its example runs as it stands, and ``help(ckptkit)`` lists all of them."""

import doctest
import inspect
import os
import re
import threading
from types import ModuleType

import pytest

import ckptkit

HOMES = {
    "ckptkit": ckptkit,
    "ckptkit.policies": ckptkit.policies,
    "ckptkit.preservation": ckptkit.preservation,
    "ckptkit.versions": ckptkit.versions,
}
NAMES = ["ckptkit", *(f"{home}.{name}" for home, module in HOMES.items() for name in module.__all__)]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
LISTED = re.compile(r"^ +(\w+)  +(\S.*)$", re.MULTILINE)

every_name = pytest.mark.parametrize("name", NAMES)


def named(name):
    home, _, rest = name.rpartition(".")
    return getattr(HOMES[home], rest) if home else HOMES[name]


def own_doc(value):
    """Return the docstring of a value itself, not one that it inherits."""
    return inspect.cleandoc(vars(value).get("__doc__") or "") if isinstance(value, type) else inspect.getdoc(value)


def members(value):
    """Return the public methods and properties that a class defines, by name."""
    found = {} if not isinstance(value, type) else vars(value)
    kinds = (property, classmethod, staticmethod)
    return {
        name: member
        for name, member in found.items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds))
    }


def undocumented(value, doc):
    """Return the parameters of a function or class that its docstring does not speak of."""
    if isinstance(value, ModuleType) or (isinstance(value, type) and issubclass(value, ckptkit.CheckpointError)):
        return []
    return [name for name in inspect.signature(value).parameters if not re.search(rf"\b{name}\b", doc)]


def failures(value, name, world):
    """Run the examples of a value and of its methods; return how many there are, and what went wrong, as text."""
    told = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    finder = doctest.DocTestFinder(recurse=isinstance(value, type))
    tests = [each for each in finder.find(value, name, globs=world) if each.examples]
    for each in tests:
        runner.run(each, out=told.append)
    return sum(len(each.examples) for each in tests), "".join(told)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Return the names that the examples take for granted, in a folder of their own."""
    import keras
    import numpy as np
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(1)
    x = np.linspace(0, 1, 64, dtype="float32").reshape(16, 4)
    y = x.sum(axis=1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    checkpoint = tf.train.Checkpoint(model=model)

    def write(folder):
        os.mkdir(folder)
        os.mkdir(os.path.join(folder, "variables"))

    return {
        "ckptkit": ckptkit,
        "keras": keras,
        "np": np,
        "os": os,
        "tf": tf,
        "threading": threading,
        "model": model,
        "x": x,
        "y": y,
        "dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(4),
        "checkpoint": checkpoint,
        "manager": ckptkit.CheckpointManager(checkpoint, "runs/digits", 3),
        "write": write,
        "train_step": lambda x, y: model.train_on_batch(x, y),
    }


@every_name
@pytest.mark.slow
def test_the_example_of_a_public_name_runs_and_prints_what_stands_below_it(name, world, checked_by_forks):
    examples, told = failures(named(name), name, world)
    assert examples > 0, "there is no line with >>>"
    assert not told, told


@every_name
def test_a_public_name_says_what_it_does_in_a_sentence_has_an_example_and_explains_its_parameters(name):
    value = named(name)
    doc = own_doc(value)
    assert re.match(r"\S.*[.:…]$", doc.splitlines()[0]), "the first line is no sentence"
    assert isinstance(value, ModuleType) or re.search(r"^Example:\n +>>> ", doc, re.MULTILINE)
    assert undocumented(value, doc) == []


@every_name
def test_the_methods_and_properties_of_a_public_class_say_what_they_do_and_explain_their_parameters(name):
    value = named(name)
    for method, member in members(value).items():
        member = getattr(member, "__func__", member)
        assert re.match(r"\S.*[.:…]\n", f"{inspect.getdoc(member)}\n"), f"{method}: the first line is no sentence"
        inherited = [inspect.getdoc(vars(each)[method]) or "" for each in value.__mro__ if method in vars(each)]
        if inspect.isfunction(member):
            assert set(undocumented(member, " ".join(inherited))) <= {"self", "cls", "logs"}, method


@pytest.mark.parametrize(
    ("doc", "told"),
    [
        ("Example:\n    >>> 1 + 1\n    2\n", ""),
        ("Example:\n    >>> 1 + 1\n    3\n", "Expected:\n    3\nGot:\n    2"),
        ("Example:\n    >>> print(model)\n", "NameError"),
    ],
    ids=["right", "wrong", "unknown name"],
)
def test_the_check_of_examples_finds_what_is_wrong(doc, told):
    def documented(parameter):
        pass

    documented.__doc__ = doc
    examples, found = failures(documented, "documented", {})
    assert examples == 1
    assert told in found
    assert bool(told) == bool(found)
    assert undocumented(documented, doc) == ["parameter"]


def test_the_package_lists_every_public_name_with_the_first_line_of_its_docstring():
    listed = dict(LISTED.findall(ckptkit.__doc__))
    assert listed == {name: own_doc(getattr(ckptkit, name)).splitlines()[0] for name in ckptkit.__all__}


def test_pydoc_shows_the_list_first_and_below_it_every_class_and_function_though_they_are_loaded_lazily(run_fork):
    shown = run_fork("-m", "pydoc", "ckptkit")
    description, _, rest = shown.partition("\nPACKAGE CONTENTS\n")
    assert dict(LISTED.findall(description)).keys() == set(ckptkit.__all__)
    modules = {name for name in ckptkit.__all__ if isinstance(getattr(ckptkit, name), ModuleType)}
    for name in set(ckptkit.__all__) - modules:
        assert re.search(rf"^    (?:class )?{name}\(", rest, re.MULTILINE), name
    assert modules <= set(rest.split())
