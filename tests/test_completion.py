"""ExportOnCompletion: what it writes when a fit ends, and what it refuses before one begins."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import completion, finished_fits
from ckptkit.export import facts, formats, hdf5, names, publishing, saved_model
from ckptkit.preservation import Best
from ckptkit.which_keras import keras
from tests.screen import Screen
from tests.test_callbacks import BreakOff, BreaksOff, X, everything, fit, sequential, subclassed

pytestmark = pytest.mark.slow
by_forks = pytest.mark.usefixtures("checked_by_forks")


@pytest.fixture
def paths(tmp_path):
    finished_fits.forget()
    yield str(tmp_path / "run"), str(tmp_path / "export")
    finished_fits.forget()


def served(path, inputs):
    artifact = tf.saved_model.load(path)
    return artifact.serve(inputs).numpy()


@pytest.mark.core
@by_forks
def test_both_formats_are_written_when_fit_ends_and_give_the_models_outputs(paths):
    run, export = paths
    model = sequential()
    fit(model, ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    assert sorted(os.listdir(export)) == ["export.json", "model.h5", "saved_model"]
    outputs = model.predict(X, verbose=0)
    np.testing.assert_allclose(served(f"{export}/saved_model", X), outputs, rtol=1e-6)
    loaded = keras.models.load_model(f"{export}/model.h5", compile=False)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), outputs)


@by_forks
def test_the_facts_say_what_it_was_made_from(paths):
    run, export = paths
    fit(sequential(), callback := ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    with open(f"{export}/export.json") as file:
        facts = json.load(file)
    record = callback.manager.records()[-1]
    assert (facts["step"], facts["checkpoint"], facts["run_id"]) == (30, "ckpt-30", record.run_id)
    assert facts["metrics"] == record.metrics


@by_forks
@pytest.mark.parametrize("save_freq", [7, 10**6])
def test_the_final_model_is_told_from_the_newest_checkpoint_where_no_last_save_is_taken(paths, save_freq):
    run, export = paths
    callback = ckptkit.TrainingCheckpoint(run, save_freq=save_freq, final_save=False)
    fit(sequential(), callback, ckptkit.ExportOnCompletion(export, formats=["weights"]))
    with open(f"{export}/export.json") as file:
        facts = json.load(file)
    assert (facts["step"], facts["checkpoint"], facts["metrics"]) == (30, None, {})


def test_an_interrupted_fit_exports_nothing(paths):
    run, export = paths
    with pytest.raises(BreakOff):
        fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export), BreaksOff(12))
    assert not os.path.exists(export)


@pytest.mark.core
@by_forks
def test_the_best_checkpoint_is_exported_and_the_live_model_stays_as_it_was(paths):
    class Losses(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = [3.0, 1.0, 2.0][epoch]

    run, export = paths
    model = sequential()
    training = ckptkit.TrainingCheckpoint(run, monitor="val_loss", max_to_keep=1)
    fit(model, Losses(), training, ckptkit.ExportOnCompletion(export, which="best"))
    final = sequential()
    fit(final)
    assert everything(model) == everything(final)
    best = sequential()
    fit(best, epochs=2)
    np.testing.assert_allclose(served(f"{export}/saved_model", X), best.predict(X, verbose=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["saved_model", "h5"])
def test_a_format_that_fails_leaves_nothing_behind(paths, monkeypatch, name):
    def fails(model, path, signature):
        raise OSError(28, "No space left on device")

    run, export = paths
    monkeypatch.setitem(formats.WRITERS, name, fails)
    with pytest.raises(ckptkit.ExportError, match=f"could not write {name} to .*No space left"):
        fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    assert os.listdir(os.path.dirname(export)) == ["run"]


def test_artifacts_of_something_else_are_refused_before_training(paths):
    run, export = paths
    os.makedirs(export)
    model = sequential()
    with pytest.raises(ckptkit.ExportError, match=r"exists and was not made by this run.*overwrite=True"):
        fit(model, ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    assert int(model.optimizer.iterations) == 0


@by_forks
def test_a_finished_script_started_again_leaves_its_artifacts(paths):
    run, export = paths
    fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    before = os.stat(f"{export}/model.h5").st_mtime_ns
    finished_fits.forget()
    fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    assert os.stat(f"{export}/model.h5").st_mtime_ns == before


@by_forks
def test_a_run_that_was_trained_on_replaces_its_own_artifacts(paths):
    run, export = paths
    fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export))
    finished_fits.forget()
    fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export), epochs=4)
    with open(f"{export}/export.json") as file:
        assert json.load(file)["step"] == 40
    assert sorted(os.listdir(os.path.dirname(export))) == ["export", "run"]


@by_forks
def test_overwrite_replaces_artifacts_of_something_else(paths):
    run, export = paths
    os.makedirs(f"{export}/other")
    fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export, overwrite=True))
    assert sorted(os.listdir(export)) == ["export.json", "model.h5", "saved_model"]


def test_the_old_artifacts_are_back_where_the_new_ones_cannot_take_their_place(paths, monkeypatch):
    _, export = paths
    os.makedirs(f"{export}/other")
    rename = os.rename

    def refuses_the_new_ones(source, target):
        if ".tmp-" in source and target == export:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuses_the_new_ones)
    monkeypatch.setattr(publishing, "_exchange", lambda one, other: False)
    with pytest.raises(OSError, match="Input/output error"):
        fit(sequential(), ckptkit.ExportOnCompletion(export, formats=["h5"], overwrite=True, verify=False))
    assert os.listdir(os.path.dirname(export)) == ["export"]
    assert os.listdir(export) == ["other"]


@by_forks
def test_export_works_without_checkpoints(paths):
    _, export = paths
    fit(sequential(), ckptkit.ExportOnCompletion(export, formats=["h5"]))
    assert sorted(os.listdir(export)) == ["export.json", "model.h5"]


@by_forks
def test_a_subclassed_model_is_refused_as_hdf5_before_training_and_exported_as_saved_model(paths):
    run, export = paths
    with pytest.raises(ValueError, match=r'cannot export to "h5": HDF5 holds Sequential and functional models; Blocks'):
        fit(subclassed(), ckptkit.ExportOnCompletion(export))
    model = subclassed()
    fit(model, ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export, formats=["saved_model"]))
    np.testing.assert_allclose(
        served(f"{export}/saved_model", X[:7]), model.predict(X[:7], verbose=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["onnx"]}, r"formats must be some of saved_model, h5, keras, weights, json, yaml, got \['onnx'\]"),
        ({"formats": "h5"}, "formats must be some of"),
        ({"formats": []}, "formats must be some of"),
        ({"which": "last"}, 'which must be "final" or "best"'),
        ({"versions": 0}, "versions must be a number of versions to keep, at least 1, got 0"),
        ({"versions": True}, "versions must be a number of versions to keep, at least 1, got True"),
        ({"versions": 3, "formats": ["h5"]}, 'versions are SavedModels: put "saved_model" into formats'),
    ],
    ids=str,
)
def test_nonsense_is_refused_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        ckptkit.ExportOnCompletion("somewhere", **options)


@by_forks
def test_the_best_by_a_policy_of_what_to_keep_is_exported_as_one_by_a_monitor(paths):
    run, export = paths
    policy = Best("loss", "max")
    training = ckptkit.TrainingCheckpoint(run, max_to_keep=1, preservation_policy=policy)
    fit(sequential(), training, ckptkit.ExportOnCompletion(export, formats=["weights"], which="best"))
    with open(f"{export}/export.json") as file:
        assert json.load(file)["step"] == 10


def test_the_best_without_a_monitor_is_refused_before_training(paths):
    run, export = paths
    with pytest.raises(ValueError, match=r'which="best" needs a TrainingCheckpoint with monitor='):
        fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export, which="best"))


def test_augmentation_is_off_in_a_saved_model(tmp_path):
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.RandomTranslation(0.3, 0.3)])
    images = np.random.default_rng(0).random((5, 8, 8, 1)).astype("float32")
    saved_model.write(model, str(tmp_path / "ours"))
    np.testing.assert_array_equal(served(str(tmp_path / "ours"), images), images)


def test_keras_own_export_still_augments_so_that_ours_is_needed(tmp_path):
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.RandomTranslation(0.3, 0.3)])
    images = np.random.default_rng(0).random((5, 8, 8, 1)).astype("float32")
    model.export(str(tmp_path / "theirs"), verbose=False)
    assert not np.array_equal(served(str(tmp_path / "theirs"), images), images)


@pytest.mark.core
def test_a_saved_model_keeps_the_names_and_the_structure_of_several_inputs_and_outputs(tmp_path):
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    both = keras.layers.Concatenate()([first, second])
    outputs = {"sum": keras.layers.Dense(1)(both), "two": keras.layers.Dense(2)(both)}
    model = keras.Model({"first": first, "second": second}, outputs)
    saved_model.write(model, str(tmp_path / "m"))
    artifact = tf.saved_model.load(str(tmp_path / "m"))
    signature = artifact.signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"first", "second"}
    for rows in (1, 5):
        inputs = {"first": np.ones((rows, 4), "float32"), "second": np.ones((rows, 3), "float32")}
        expected = model.predict(inputs, verbose=0)
        for name, value in signature(**{k: tf.constant(v) for k, v in inputs.items()}).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-6)


def test_a_model_that_was_never_built_cannot_become_a_saved_model(tmp_path):
    with pytest.raises(ValueError, match=r"is not built: call it on a batch"):
        saved_model.write(keras.Sequential([keras.layers.Dense(1)]), str(tmp_path / "m"))


@pytest.mark.core
def test_hdf5_leaves_the_live_models_compile_config_whole(tmp_path):
    model = sequential()
    fit(model)
    hdf5.write(model, str(tmp_path / "m.h5"))
    model.save(str(tmp_path / "m.keras"))
    loaded = keras.models.load_model(str(tmp_path / "m.keras"))
    assert type(loaded.optimizer) is keras.optimizers.Adam
    assert int(loaded.optimizer.iterations) == 30


def test_keras_own_hdf5_saver_still_takes_the_optimizer_out_so_that_ours_is_needed(tmp_path):
    model = sequential()
    fit(model)
    model.save(str(tmp_path / "m.h5"))
    assert "optimizer" not in model._compile_config.config


@by_forks
def test_all_formats_are_checked_at_once_and_noted(paths):
    run, export = paths
    every = list(names.FILES)
    fit(model := sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export, formats=every))
    assert sorted(os.listdir(export)) == sorted([*names.FILES.values(), "export.json"])
    with open(f"{export}/export.json") as file:
        noted = json.load(file)
    assert noted["verified"] == "child"
    there = facts.files_of(export)
    assert noted["files"] == {name: there[name] for name in there if name != "export.json"}
    for name in ("saved_model", "model.h5", "model.keras"):
        assert everything(ckptkit.load_model(f"{export}/{name}")) == everything(model)


def test_versions_are_published_one_a_run_and_none_for_a_run_that_was_over(paths):
    run, export = paths

    def train(epochs):
        finished_fits.forget()
        options = {"formats": ["saved_model", "h5"], "versions": 2, "verify": False}
        fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export, **options), epochs=epochs)
        return ckptkit.versions.versions(export)

    assert [train(epochs) for epochs in (2, 2, 3, 4)] == [(1,), (1,), (1, 2), (2, 3)]
    assert sorted(os.listdir(f"{export}/3/assets.extra")) == ["ckptkit.json", "model.h5", "model.keras"]
    assert int(ckptkit.load_model(f"{export}/3").optimizer.iterations) == 40


class Closed(keras.Model):
    """Cannot be made again: its __init__ does not take what Keras would give it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)


@by_forks
def test_a_class_that_cannot_be_made_again_is_refused_before_training_and_served_all_the_same(paths, caplog):
    _, export = paths
    model = Closed()
    model.compile("adam", "mse")
    message = r'cannot export to "keras": Closed cannot be made again from its config, .* \*\*kwargs'
    with pytest.raises(ValueError, match=message):
        fit(model, ckptkit.ExportOnCompletion(export, formats=["keras"]))
    assert int(model.optimizer.iterations) == 0
    fit(model, ckptkit.ExportOnCompletion(export, formats=["saved_model"]))
    assert "is for inference alone: Closed cannot be made again from its config" in caplog.text
    np.testing.assert_allclose(served(f"{export}/saved_model", X), model.predict(X, verbose=0), rtol=1e-6)
    assert isinstance(ckptkit.load_model(f"{export}/saved_model"), keras.layers.TFSMLayer)


def test_a_version_that_was_rolled_back_is_not_published_again_by_a_finished_script(paths):
    run, export = paths

    def train():
        finished_fits.forget()
        options = {"formats": ["saved_model"], "versions": 5, "verify": False}
        fit(sequential(), ckptkit.TrainingCheckpoint(run), ckptkit.ExportOnCompletion(export, **options))

    fit(sequential(), ckptkit.ExportOnCompletion(export, formats=["saved_model"], versions=5, verify=False), epochs=1)
    train()
    assert ckptkit.versions.rollback(export) == 3
    train()
    assert ckptkit.versions.versions(export) == (1, 2, 3)


def test_what_somebody_else_has_put_there_during_the_fit_is_not_deleted(paths):
    class Puts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            os.makedirs(f"{export}/precious", exist_ok=True)

    _, export = paths
    with pytest.raises(ckptkit.ExportError, match="is there already"):
        fit(sequential(), Puts(), ckptkit.ExportOnCompletion(export, formats=["keras"], verify=False))
    assert os.listdir(export) == ["precious"]


def test_the_best_is_not_exported_if_there_is_none(paths):
    class NotANumber(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = float("nan")

    run, export = paths
    training = ckptkit.TrainingCheckpoint(run, monitor="val_loss")
    with pytest.raises(ckptkit.ExportError, match="no checkpoint has a value to rank by, it was NaN or missing"):
        fit(sequential(), NotANumber(), training, ckptkit.ExportOnCompletion(export, which="best"))
    assert not os.path.exists(export)


# What a person sees ---------------------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize("versions", [None, 2], ids=["folder", "versions"])
def test_an_export_shows_its_steps_has_one_line_in_the_log_and_none_where_it_is_to_be_silent(
    paths, monkeypatch, caplog, versions
):
    def write(model, folder, kinds, made, verify, signature, step, *, is_version):
        step("writing saved_model")
        os.makedirs(folder)
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(b"graph")
        if is_version:
            facts.write(facts.place_of(folder), made)
        return {**made, "files": facts.files_of(folder)}

    run, export = paths
    caplog.set_level("INFO", "ckptkit")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(completion, "write_all", write)

    def lines_of(**options):
        caplog.clear()
        finished_fits.forget()
        ours = ckptkit.ExportOnCompletion(export, formats=["saved_model"], versions=versions, **options)
        fit(model, ckptkit.TrainingCheckpoint(run, verbose=0), ours, epochs=1)
        return [record.getMessage() for record in caplog.records if record.levelname == "INFO"]

    model = sequential()
    with Screen() as screen:
        (line,) = lines_of()
    assert "exporting export" in screen.text
    assert "writing saved_model" in screen.text
    done = f"published version 1 of {export}" if versions else f"exported saved_model to {export}"
    assert line.startswith(f"{done}: 5 B in ")
    assert lines_of() == [f"{export} is there already, made from step 10 of this run."]
    assert lines_of(verbose=0) == []
    shutil.rmtree(export)
    assert lines_of(verbose=0) == []
    assert os.path.exists(export)
    shutil.rmtree(export)
    another = SimpleNamespace(is_chief=False, told=lambda value: value, failed=lambda fine: [])
    monkeypatch.setattr(completion, "cluster_of", lambda objects: another)
    assert lines_of() == []  # the chief says so
