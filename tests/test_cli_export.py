"""``ckptkit export``: the artifact of a checkpoint is the model that was saved, or there is none.

What an artifact holds is in test_formats.py and test_artifacts.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import cli
from ckptkit.errors import CheckpointMismatchError
from ckptkit.export.restored import restore_into
from ckptkit.preservation import Best
from ckptkit.which_keras import keras
from tests import checkpoint_dirs

BUILDERS = """
import keras

def bare(units=2):
    print("building")
    return keras.Sequential([
        keras.layers.Input((3,)), keras.layers.Dense(units), keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5), keras.layers.Dense(1),
    ])

def compiled():
    model = bare()
    model.compile("adam", "mse")
    return model

class Namespace:
    inner = staticmethod(bare)

def wide():
    return bare(9)

def needs(size, *, rate, more=1):
    return bare()

def fails():
    raise RuntimeError("no data here")

def returns_nothing():
    return None

def unbuilt():
    return keras.Sequential([keras.layers.Dense(1)])

number = 3
"""


def make_model(*, compiled=True):
    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            keras.layers.Dense(2),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    if compiled:
        model.compile("adam", "mse")
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two checkpoints of a model that was trained, the first the best, and plain TensorFlow's; the weights by step."""
    folder = tmp_path_factory.mktemp("export")
    model, weights = make_model(), {}
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    keep = {"max_to_keep": None, "preservation_policy": Best("loss", "min", 2)}
    with ckptkit.CheckpointManager(checkpoint, folder / "run", **keep) as manager:
        for step, loss in ((1, 0.25), (2, 0.5)):
            model.train_on_batch(np.ones((4, 3)) * step, np.ones((4, 1)))
            manager.save(step, metrics={"loss": loss})
            weights[step] = [each.copy() for each in model.get_weights()]
    tf.train.Checkpoint(net=model, optimizer=model.optimizer).write(str(folder / "plain" / "ckpt-1"))
    return folder, weights


@pytest.fixture
def here(saved, tmp_path, monkeypatch):
    """A working directory with a module of builders, under another name in each test, for Python keeps modules."""
    monkeypatch.chdir(tmp_path)
    name = f"builders_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(BUILDERS)
    os.symlink(saved[0] / "run", "run")
    os.symlink(saved[0] / "plain", "plain")
    yield name
    sys.modules.pop(name, None)


def export(name, *arguments, path="run", verify=False):
    return cli.main(["export", path, "--model", name, *([] if verify else ["--no-verify"]), *arguments])


def same(weights, others):
    return all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True))


@pytest.mark.slow
def test_a_checkpoint_becomes_an_artifact_that_is_checked_and_trains_on(here, saved, capsys, checked_by_forks):
    path = list(sys.path)
    assert export(f"{here}:compiled", "-o", "out/model.keras", verify=True) == 0
    out, _ = capsys.readouterr()
    assert out == "keras of run/ckpt-2: out/model.keras\n"
    model = ckptkit.load_model("out/model.keras")
    assert same(model.get_weights(), saved[1][2])
    assert int(model.optimizer.iterations) == 2
    with open("out/model.keras.ckptkit.json") as file:
        noted = json.load(file)
    assert (noted["source"]["checkpoint"], noted["source"]["step"]) == ("run/ckpt-2", 2)
    assert noted["verified"]
    assert sys.path == path


def test_several_formats_go_to_a_folder_and_json_is_all_that_is_printed(here, saved, capsys):
    formats = ["--format", "h5", "--format", "weights", "--format", "json", "--format", "h5"]
    assert export(f"{here}:bare", *formats, "-o", "out/all/", "--json", path="run/ckpt-1.index") == 0
    assert json.loads(capsys.readouterr().out) == {
        "checkpoint": "run/ckpt-1",
        "step": 1,
        "artifacts": {
            "h5": "out/all/model.h5",
            "weights": "out/all/model.weights.h5",
            "json": "out/all/model.json",
        },
    }
    assert same(ckptkit.load_model("out/all/model.h5").get_weights(), saved[1][1])
    again = ckptkit.load_architecture("out/all/model.json")
    ckptkit.load_weights(again, "out/all/model.weights.h5")
    assert same(again.get_weights(), saved[1][1])


@pytest.mark.parametrize(("which", "step"), [("best", 1), ("latest", 2), ("1", 1)])
def test_of_a_directory_the_best_the_latest_or_a_step_is_exported(here, saved, which, step):
    assert export(f"{here}:Namespace.inner", "-o", "model.weights.h5", "--which", which) == 0
    model = make_model()
    ckptkit.load_weights(model, "model.weights.h5")
    assert same(model.get_weights(), saved[1][step])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.keras", "keras"),
        ("a.h5", "h5"),
        ("a.hdf5", "h5"),
        ("a.weights.h5", "weights"),
        ("a.json", "json"),
        ("a.yml", "yaml"),
        ("folder", "saved_model"),
    ],
)
def test_the_ending_of_the_path_says_the_format(here, capsys, monkeypatch, path, kind):
    monkeypatch.setattr(cli.export, "_save", lambda *arguments, **options: None)
    assert export(f"{here}:bare", "-o", path) == 0
    assert capsys.readouterr().out == f"{kind} of run/ckpt-2: {path}\n"


def test_a_model_of_a_module_is_taken_as_it_is(here, saved):
    with open(f"{here}.py", "a") as file:
        file.write("\nmodel = bare()\n")
    assert export(f"{here}:model", "-o", "a.keras") == 0
    assert same(sys.modules[here].model.get_weights(), saved[1][2])


def test_the_model_of_plain_tensorflow_under_another_name_is_exported(here, saved):
    assert export(f"{here}:bare", "-o", "a.keras", "--object", "net", path="plain/ckpt-1") == 0
    assert same(ckptkit.load_model("a.keras").get_weights(), saved[1][2])


def test_a_model_that_was_saved_without_its_optimizer_beside_it_is_exported(here):
    os.unlink("run")
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model).write("run/ckpt-1")
    for builder in ("bare", "compiled"):
        assert export(f"{here}:{builder}", "-o", f"{builder}.keras") == 0
        assert same(ckptkit.load_model(f"{builder}.keras").get_weights(), model.get_weights())


def test_the_optimizer_of_a_loop_of_ones_own_is_restored_into_a_compiled_model(here):
    model, optimizer = make_model(compiled=False), keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(7)
    os.unlink("run")
    tf.train.Checkpoint(model=model, optimizer=optimizer).write("run/ckpt-1")
    assert export(f"{here}:compiled", "-o", "a.keras") == 0
    assert int(ckptkit.load_model("a.keras").optimizer.iterations) == 7


def test_modules_of_the_working_directory_come_before_others_of_their_name(here, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{here}.py").write_text("bare = None\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert export(f"{here}:bare", "-o", "a.json") == 0


def test_what_belongs_to_another_object_stays_in_the_checkpoint(here):
    model = make_model(compiled=False)
    checkpoint = tf.train.Checkpoint(model=model, other=make_model(compiled=False))
    os.unlink("run")
    with ckptkit.CheckpointManager(checkpoint, "run", 1) as manager:
        manager.save(1)
    assert export(f"{here}:bare", "-o", "a.keras") == 0
    assert same(ckptkit.load_model("a.keras").get_weights(), model.get_weights())


def test_what_is_there_is_replaced_only_where_that_is_asked_for(here, capsys):
    with open("a.json", "w") as file:
        file.write("mine")
    assert export(f"{here}:bare", "-o", "a.json") == 1
    assert capsys.readouterr().err == "a.json is there already. Choose another path, or replace it with --overwrite.\n"
    with open("a.json") as file:
        assert file.read() == "mine"
    assert export(f"{here}:bare", "-o", "a.json", "--overwrite") == 0
    ckptkit.load_architecture("a.json")


def test_a_model_that_does_not_fit_is_told_with_both_sides_and_nothing_is_written(here, capsys):
    assert export(f"{here}:wide", "-o", "out/a.keras") == 1
    err = capsys.readouterr().err
    assert "cannot restore step 2 from run/ckpt-2: " in err
    assert "checkpoint (3, 2) float32   model (3, 9) float32" in err
    assert err.endswith("Build the model as it was saved.\n")
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("{here}", "--model takes MODULE:NAME, my_module:build_model, got '{here}'"),
        (":bare", "--model takes MODULE:NAME"),
        ("{here}x:bare", "no module '{here}x', in the working directory or installed.\nDid you mean '{here}'?"),
        ("{here}.x:bare", "no module '{here}.x'"),
        ("{here}:bear", "{here} has no 'bear'.\nDid you mean 'bare'?"),
        ("{here}:Namespace.iner", "{here} has no 'Namespace.iner'.\nDid you mean 'inner'?"),
        ("{here}:number", "{here}:number is of type int: name a function that builds a model"),
        ("{here}:needs", "{here}:needs cannot be called without size, rate: name one that can"),
        ("{here}:returns_nothing", "{here}:returns_nothing returns a NoneType: it is to return a keras.Model"),
        ("{here}:unbuilt", "{here}:unbuilt returns a model that is not built: call it on a batch first"),
    ],
)
def test_a_builder_that_cannot_be_meant_is_wrong_usage(here, capsys, model, told):
    with pytest.raises(SystemExit, match=r"^2$"):
        export(model.format(here=here), "-o", "a.keras")
    assert told.format(here=here) in capsys.readouterr().err
    assert not os.path.exists("a.keras")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "a.foo"], "the ending '.foo' says no format: say it with --format, or take another ending"),
        (["-o", "a.json", "--format", "h5"], "h5 goes to a path like model.h5, got a.json"),
        (["-o", "a.h5", "--format", "keras"], "keras goes to a path like model.keras, got a.h5"),
        (["-o", "a", "--format", "kears"], "Did you mean 'keras'?"),
        (["-o", "a", "--which", "best"], "--which chooses from a directory, and CKPT is none"),
        ([], "the following arguments are required: -o/--output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_ends_before_anything_is_loaded(here, capsys, arguments, told):
    with pytest.raises(SystemExit, match=r"^2$"):
        export(f"{here}:bare", *arguments, path="run/ckpt-1")
    assert told in capsys.readouterr().err
    assert here not in sys.modules


def test_where_somebodys_code_fails_is_told(here, capsys):
    assert export(f"{here}:fails", "-o", "a.keras") == 1
    line = BUILDERS.splitlines().index('    raise RuntimeError("no data here")') + 1
    told = f"{here}:fails failed: RuntimeError: no data here\n{os.path.abspath(here)}.py, line {line}\n"
    assert capsys.readouterr().err.endswith(told)
    with open("broken.py", "w") as file:
        file.write("import nothing_of_the_kind\n")
    assert export("broken:bare", "-o", "a.keras") == 1
    told = "importing broken failed: ModuleNotFoundError: No module named 'nothing_of_the_kind'\n"
    assert told in capsys.readouterr().err


def test_a_checkpoint_that_is_damaged_or_not_there_is_told(here, saved, capsys, tmp_path):
    os.unlink("run")
    ckptkit.CheckpointManager(tf.train.Checkpoint(model=make_model()), "run", 1).save(1)
    checkpoint_dirs.flip("run", "ckpt-1.data-00000-of-00001", 5)
    assert export(f"{here}:bare", "-o", "a.keras") == 1
    assert "ckpt-1.data-00000-of-00001 is damaged: tensor" in capsys.readouterr().err
    assert export(f"{here}:bare", "-o", "a.keras", path="run/ckpt-7") == 1
    assert capsys.readouterr().err == "no checkpoint run/ckpt-7.\nDid you mean 'ckpt-1'?\n"
    assert not os.path.exists("a.keras")


def test_files_of_another_checkpoint_under_its_name_are_damage(here, saved, capsys):
    os.unlink("run")
    shutil.copytree(saved[0] / "run", "run")
    for end in ("index", "data-00000-of-00001"):
        checkpoint_dirs.write("run", f"ckpt-2.{end}", checkpoint_dirs.read("run", f"ckpt-1.{end}"))
    assert export(f"{here}:bare", "-o", "a.keras") == 1
    assert "ckpt-2.index has checksum" in capsys.readouterr().err


def test_a_format_that_cannot_hold_the_model_is_told(here, capsys):
    with open(f"{here}.py", "a") as file:
        file.write("\nclass Own(keras.Model):\n    def __init__(self):\n        super().__init__()\n")
        file.write("        self.out = bare()\n    def call(self, x):\n        return self.out(x)\n")
        file.write("def own():\n    model = Own()\n    model.build((None, 3))\n    return model\n")
    os.unlink("run")
    os.mkdir("run")
    sys.path.insert(0, os.getcwd())
    try:
        tf.train.Checkpoint(model=__import__(here).own()).write("run/ckpt-1")
    finally:
        sys.path.remove(os.getcwd())
    capsys.readouterr()
    assert export(f"{here}:own", "-o", "a.h5") == 1
    assert "cannot be saved as h5: " in capsys.readouterr().err


# The restore -------------------------------------------------------------------------------------------------------


def test_an_object_that_is_not_there_is_an_error_with_those_that_are(saved):
    record = ckptkit.CheckpointManager(tf.train.Checkpoint(), saved[0] / "run", None, read_only=True).records()[0]
    with pytest.raises(CheckpointMismatchError, match=r"no object called 'modle' \(have: .*\)\.\nDid you mean 'model'"):
        restore_into(make_model(), record, "modle")


def test_a_layer_that_is_not_built_is_an_error(saved):
    record = ckptkit.CheckpointManager(tf.train.Checkpoint(), saved[0] / "run", None, read_only=True).records()[0]
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    with pytest.raises(CheckpointMismatchError, match=r"found no variable, .* among them: the model is not built\."):
        restore_into(model, record, "model")


def test_values_of_the_model_that_find_no_variable_are_an_error_and_those_of_others_are_not(saved):
    record = ckptkit.CheckpointManager(tf.train.Checkpoint(), saved[0] / "run", None, read_only=True).records()[0]
    short = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(CheckpointMismatchError, match=r"7 of 10 variables differ.*\n.*seed_generator"):
        restore_into(short, record, "model")
