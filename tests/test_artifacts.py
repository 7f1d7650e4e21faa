"""save_model, load_model and their kin: what is refused, what is damaged, what is checked before it is visible."""

import json
import logging
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import ckptkit
from ckptkit import artifacts, randomness
from ckptkit.export import facts, formats, keras_archive, saved_model, verification
from ckptkit.export.compiled import is_compiled
from ckptkit.which_keras import IS_LEGACY, NAME, keras
from tests.screen import Screen

only_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 has no such thing")

X = np.random.default_rng(0).random((8, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
PATHS = {"keras": "model.keras", "h5": "model.h5", "saved_model": "model", "weights": "model.weights.h5"}
PATHS |= {"json": "model.json", "yaml": "model.yaml"}


def core_of(kinds, *of_the_core):
    """Return parameters, some of which are tried under Keras 2 as well."""
    return [pytest.param(kind, marks=[pytest.mark.core] if kind in of_the_core else []) for kind in kinds]


def small():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)  # for one batch
    model.fit(X, Y, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def local_model():
    """A model that no other process can make: it is checked in this one, which is quick."""

    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), Twice(), keras.layers.Dense(1)])
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(X, Y, verbose=0)
    return model, {"Twice": Twice}


def save(model, kind, path=None, **options):
    path = path or PATHS[kind]
    if kind == "weights":
        return ckptkit.save_weights(model, path, **options)
    if kind in ("json", "yaml"):
        return ckptkit.save_architecture(model, path, **options)
    return ckptkit.save_model(model, path, **options)


def load(kind, path=None):
    path = path or PATHS[kind]
    if kind == "weights":
        return ckptkit.load_weights(small(), path)
    return ckptkit.load_architecture(path) if kind in ("json", "yaml") else ckptkit.load_model(path)


# Checked before it is visible -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("checked_by_forks")
@pytest.mark.parametrize("kind", core_of(PATHS, "weights"))
def test_an_artifact_was_loaded_by_another_process_before_it_appears_and_says_so(here, model, kind):
    save(model, kind)
    noted = facts.read(PATHS[kind])
    assert noted["verified"] == "child"
    assert noted["kind"] == kind
    assert noted["versions"] == {NAME: keras.__version__, "tensorflow": tf.__version__}
    assert noted["files"] == facts.files_of(PATHS[kind])


@pytest.mark.parametrize("kind", core_of(PATHS, "h5"))
def test_a_model_of_classes_that_another_process_cannot_import_is_checked_in_this_one(here, local_model, kind, caplog):
    caplog.set_level(logging.INFO, "ckptkit")
    save(local_model[0], kind)
    assert facts.read(PATHS[kind])["verified"] == "here"
    assert "checked in this process: Twice cannot be imported by another." in caplog.text


@pytest.mark.core
def test_a_check_in_this_process_draws_no_random_numbers(here):
    class Drops(keras.layers.Dropout):
        pass

    model = keras.Sequential([keras.layers.Input((4,)), Drops(0.5), keras.layers.Dense(1)])
    before = randomness.capture()
    save(model, "keras")
    assert randomness.changed_since(before) == set()


@pytest.mark.parametrize("kind", ["keras", "h5", "saved_model"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "not compiled"])
def test_a_model_that_was_never_trained_passes_its_check(here, local_model, kind, compiled):
    model = keras.models.clone_model(local_model[0])
    if compiled:
        model.compile("adam", "mse")
    save(model, kind)
    assert facts.read(PATHS[kind])["verified"] == "here"


def test_without_verification_nothing_is_loaded_and_it_is_noted(here, model, monkeypatch):
    monkeypatch.setattr(artifacts, "Checks", None)
    save(model, "keras", verify=False)
    assert facts.read("model.keras")["verified"] is False


def slot_of(model):
    """Return an optimizer's slot of the first kernel."""
    return next(each for each in model.optimizer.variables if tuple(each.shape) == (4, 3))


SLOT = (lambda copy: slot_of(copy).assign_add(np.ones((4, 3))), r"(Adam|adam)\S*/\S*kernel\S* has other values")


def write_spoilt(spoil):
    """Return a writer that spoils a copy of the model and writes that."""

    def write(model, path, signature):
        copy = keras.models.clone_model(model)
        copy.compile_from_config(model.get_compile_config())
        copy.set_weights(model.get_weights())
        copy.optimizer.build(copy.trainable_variables)
        for ours, theirs in zip(copy.optimizer.variables, model.optimizer.variables):
            ours.assign(theirs)
        spoil(copy)
        keras_archive.write(copy, path)

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda copy: copy.layers[0].kernel.assign_add(0.001 * np.eye(4, 3)), r"dense\w*/kernel(:0)? has other values"),
        pytest.param(*SLOT, marks=pytest.mark.core),
        (lambda copy: copy.compile("sgd", "mse"), "optimizer is SGD in it and Adam in the model"),
        (lambda copy: copy.compile(copy.optimizer, "mae"), r"compiled with is .*mae.* in it and .*mse"),
    ],
    ids=["weight", "slot", "optimizer", "loss"],
)
def test_what_is_not_the_model_is_refused_with_the_place_and_nothing_is_left(
    here, local_model, monkeypatch, spoil, said
):
    monkeypatch.setitem(formats.WRITERS, "keras", write_spoilt(spoil))
    with pytest.raises(
        ckptkit.ExportError, match=rf"(?s)the keras that was written is not the model: .*{said}.*Nothing"
    ):
        save(local_model[0], "keras")
    assert os.listdir(here) == []


@pytest.mark.core
def test_a_signature_that_answers_otherwise_is_refused_with_how_much(here, local_model, monkeypatch):
    write = saved_model.write
    monkeypatch.setattr(saved_model, "named", lambda model, outputs: outputs * 1.5)
    monkeypatch.setitem(formats.WRITERS, "saved_model", write)
    message = r"its signature: the output at \(\d, 0\) of a batch of 1 is .* instead of .*; it may be off by"
    with pytest.raises(ckptkit.ExportError, match=message):
        save(local_model[0], "saved_model")
    assert os.listdir(here) == []


@pytest.mark.slow
@pytest.mark.usefixtures("checked_by_forks")
def test_a_mismatch_that_only_the_other_process_sees_is_an_error_as_well(here, model, monkeypatch):
    monkeypatch.setitem(formats.WRITERS, "keras", write_spoilt(lambda copy: copy.layers[0].bias.assign(np.ones(3))))
    with pytest.raises(ckptkit.ExportError, match=r"dense\w*/bias(:0)? has other values"):
        save(model, "keras")
    assert os.listdir(here) == []


def test_a_checking_process_that_dies_is_an_error_with_its_last_words(here, model, monkeypatch):
    python = here / "python"
    python.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ckptkit.ExportError, match=r"ended with exit code 3:\nout of memory"):
        save(model, "keras")
    assert os.listdir(here) == ["python"]


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0001], None),
        (
            [1.0, 2.0],
            [1.0, 2.01],
            r"the output at \(1,\) of a batch of 2 is 2.0 instead of 2.01; it may be off",
        ),
        ([-1e9, 0.1], [-1e9, 0.9], r"the output at \(1,\) of a batch of 2 is 0.1 instead of 0.9"),
        ([np.inf, -np.inf], [np.inf, -np.inf], None),
        ([np.inf], [-np.inf], r"the output at \(0,\)"),
        ([1 + 2j], [1 + 9j], r"the output at \(0,\)"),
        ([1.0, np.nan], [1.0, np.nan], None),
        ([1.0, np.nan], [1.0, 2.0], r"the output at \(1,\)"),
        ([1, 2], [1, 3], "the output differs in 1 of 2 places"),
        ([1.0], [1.0, 2.0], r"the output has the shape \(1,\) instead of \(2,\)"),
        ([0.0], [0.0], None),
    ],
)
def test_outputs_may_be_off_by_rounding_alone(found, expected, said):
    import re

    wrong = verification._difference({"": np.array(found)}, {"": np.array(expected)}, 1e-4)
    assert wrong is None if said is None else re.match(said, wrong)


@pytest.mark.core
@pytest.mark.usefixtures("checked_by_forks")
@pytest.mark.slow
def test_a_stateful_model_is_left_in_its_state(here):
    inputs = keras.layers.Input(batch_shape=(2, 3, 4))
    model = keras.Model(inputs, keras.layers.LSTM(3, stateful=True)(inputs))
    model(np.ones((2, 3, 4), "float32"))
    before = [state.numpy() for state in model.layers[1].states]
    save(model, "keras", input_signature=[tf.TensorSpec((2, 3, 4))])
    loaded = ckptkit.load_model("model.keras")
    for each in (model, loaded):
        assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, each.layers[1].states))
    assert np.any(before[0])


def test_a_model_that_cannot_be_tried_on_made_inputs_says_what_to_pass(here):
    inputs = keras.layers.Input((None, 4))
    model = keras.Model(inputs, keras.layers.Reshape((7, 4))(inputs))
    with pytest.raises(
        ckptkit.ExportError, match=r"cannot be tried on inputs made for it: (?s:.*)\nPass input_signature="
    ):
        save(model, "keras")
    save(model, "keras", input_signature=[tf.TensorSpec((None, 7, 4))], verify=False)


# An old one stays until the new one is whole --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PATHS)
def test_what_is_there_is_not_overwritten_unless_it_is_asked_for(here, model, kind):
    save(model, kind, verify=False)
    before = facts.files_of(PATHS[kind])
    with pytest.raises(ckptkit.ExportError, match=r"is there already. Choose another path, or pass overwrite=True"):
        save(model, kind, verify=False)
    assert facts.files_of(PATHS[kind]) == before
    save(model, kind, verify=False, overwrite=True)
    load(kind)
    ours = {PATHS[kind], f"{PATHS[kind]}.ckptkit.json"} if kind != "saved_model" else {PATHS[kind]}
    assert set(os.listdir(here)) == ours


@pytest.mark.parametrize("kind", PATHS)
def test_a_save_that_fails_leaves_the_old_one_whole(here, model, monkeypatch, kind):
    save(model, kind, verify=False)
    before = facts.files_of(PATHS[kind])

    def fails(*arguments):
        raise OSError(28, "No space left on device")

    module = {"weights": artifacts.weights, "json": artifacts.architecture, "yaml": artifacts.architecture}.get(kind)
    if module is None:
        monkeypatch.setitem(formats.WRITERS, kind, fails)
    else:
        monkeypatch.setattr(module, "write", fails)
    with pytest.raises(ckptkit.ExportError, match=r"could not write \w+ to .*: .*No space left on device"):
        save(model, kind, verify=False, overwrite=True)
    assert facts.files_of(PATHS[kind]) == before
    load(kind)


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "format", "said"),
    [
        ("model.weights.h5", None, "a name for weights alone: call ckptkit.save_weights"),
        ("model.json", None, ".json holds the architecture alone: call ckptkit.save_architecture"),
        ("model.zip", None, r"the ending '.zip' says no format: use NAME.keras, NAME.h5, or a folder"),
        ("model.h5", "keras", r'format="keras" needs a name that ends in .keras, got \'model.h5\''),
        ("model", "tf", r'format must be "keras", "h5" or "saved_model", got \'tf\''),
    ],
)
def test_a_path_that_says_no_format_or_another_is_refused(here, model, path, format, said):
    with pytest.raises(ValueError, match=said):
        ckptkit.save_model(model, path, format=format)
    assert os.listdir(here) == []


def test_a_saved_model_may_have_any_name_if_the_format_is_given(here, model):
    ckptkit.save_model(model, "model.v2", format="saved_model", verify=False)
    assert int(ckptkit.load_model("model.v2").optimizer.iterations) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: ckptkit.save_weights(model, "model.h5"), "whose name ends in .weights.h5, got 'model.h5'"),
        (lambda model: ckptkit.save_architecture(model, "model.txt"), "ends in .json, .yaml or .yml, got 'model.txt'"),
        (lambda model: ckptkit.load_architecture("model.txt"), "ends in .json, .yaml or .yml, got 'model.txt'"),
    ],
)
def test_other_endings_of_weights_and_texts_are_refused(here, model, call, said):
    with pytest.raises(ValueError, match=said):
        call(model)


@pytest.mark.parametrize("path", ["none.keras", "none", "none.h5"])
def test_what_is_not_there_is_not_found(here, path):
    with pytest.raises(FileNotFoundError, match=f"nothing is at {path}"):
        ckptkit.load_model(path)


@pytest.mark.parametrize("call", [ckptkit.load_architecture, lambda path: ckptkit.load_weights(small(), path)])
def test_a_text_or_weights_that_are_not_there_are_not_found(here, call):
    with pytest.raises(FileNotFoundError, match=r"no file is at none.yaml"):
        call("none.yaml")


def test_a_model_that_is_not_built_is_refused(here):
    model = keras.Sequential([keras.layers.Dense(1)], name="fresh")
    for call in (ckptkit.save_model, ckptkit.save_weights, ckptkit.publish_version):
        with pytest.raises(ValueError, match="fresh is not built: call it on a batch, or fit it"):
            call(model, "model.weights.h5" if call is ckptkit.save_weights else "model")
    assert os.listdir(here) == []


@pytest.mark.core
def test_a_subclassed_model_as_hdf5_is_refused_with_the_formats_that_hold_it(here):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    model = Own()
    model(X)
    with pytest.raises(
        ValueError, match=r'HDF5 holds Sequential and functional models; Own .* as "keras" or "saved_model"'
    ):
        ckptkit.save_model(model, "model.h5")


# Damage ---------------------------------------------------------------------------------------------------------------


def files_in(path):
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(at, name) for at, _, names in os.walk(path) for name in names if name != "ckptkit.json"]


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("how", ["cut short", "a byte off", "empty"])
def test_a_damaged_artifact_is_refused_by_name(here, model, kind, how):
    save(model, kind, verify=False)
    file = max(files_in(PATHS[kind]), key=os.path.getsize)
    with open(file, "r+b") as opened:
        content = opened.read()
        half = len(content) // 2
        opened.seek(0)
        opened.truncate()
        damaged = (
            content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :] if how == "a byte off" else content[:half]
        )
        opened.write(b"" if how == "empty" else damaged)
    with pytest.raises(
        ckptkit.ArtifactError, match=rf"{PATHS[kind]} is damaged, or was written over.*{os.path.basename(file)}"
    ):
        load(kind)


def test_a_missing_file_of_a_saved_model_is_damage(here, model):
    save(model, "saved_model", verify=False)
    os.unlink("model/fingerprint.pb")
    with pytest.raises(ckptkit.ArtifactError, match=r"fingerprint.pb is not what was saved \(it is missing\)"):
        ckptkit.load_model("model")


def test_an_artifact_without_its_facts_loads_unchecked(here, model):
    save(model, "keras", verify=False)
    os.unlink("model.keras.ckptkit.json")
    model.save("model.keras")  # by somebody else
    assert int(ckptkit.load_model("model.keras").optimizer.iterations) == 1


def test_facts_that_cannot_be_read_are_named(here, model):
    save(model, "keras", verify=False)
    (here / "model.keras.ckptkit.json").write_text("{")
    with pytest.raises(ckptkit.ArtifactError, match=r"model.keras.ckptkit.json cannot be read: .*\nDelete it to load"):
        ckptkit.load_model("model.keras")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"nonsense", "model.keras", "is neither a .keras file nor HDF5 nor a SavedModel, or it was cut short"),
        (b"{}", "model.json", "holds an architecture alone: call ckptkit.load_architecture"),
    ],
)
def test_files_of_another_kind_are_refused(here, content, name, said):
    (here / name).write_bytes(content)
    with pytest.raises(ckptkit.ArtifactError, match=said):
        ckptkit.load_model(name)


def test_folders_of_another_kind_are_refused_with_what_is_in_them(here, model):
    os.makedirs("empty")
    with pytest.raises(ckptkit.ArtifactError, match="empty is a folder, and no SavedModel"):
        ckptkit.load_model("empty")
    ckptkit.publish_version(model, "served", verify=False)
    with pytest.raises(ckptkit.ArtifactError, match="served holds several artifacts: load one of 1 in it"):
        ckptkit.load_model("served")
    assert int(ckptkit.load_model("served/1").optimizer.iterations) == 1


@pytest.mark.parametrize("text", ["", "[1]", "a: !!python/object/apply:os.system ['true']", "{"])
def test_a_text_that_is_no_architecture_is_refused(here, text):
    (here / "model.yaml").write_text(text)
    with pytest.raises(ckptkit.ArtifactError, match=r"model.yaml (is not plain YAML|describes no Keras model)"):
        ckptkit.load_architecture("model.yaml")
    with pytest.raises(ckptkit.ArtifactError, match=r"text (is not plain JSON|describes no Keras model)"):
        ckptkit.model_from_json(text)


@pytest.mark.core
def test_weights_of_another_model_are_refused_and_change_nothing(here, model):
    save(model, "weights", verify=False)
    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)], name="other")
    before = other.get_weights()
    with pytest.raises(ckptkit.CheckpointMismatchError, match=r"do not fit other: (?s:.*)Nothing was changed"):
        ckptkit.load_weights(other, "model.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(before, other.get_weights()))


# Code of the user's own, and code in the file -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", core_of(["keras", "h5", "saved_model", "json", "yaml"], "keras"))
def test_a_missing_class_is_named_with_the_line_to_add(here, local_model, kind):
    model, custom = local_model
    save(model, kind, verify=False)
    call = "load_architecture" if kind in ("json", "yaml") else "load_model"
    message = (
        rf"needs 'Twice', which is not Keras' own.*\n  ckptkit.{call}\(.*custom_objects={{'Twice': Twice}}\)\nor put @"
    )
    with pytest.raises(ckptkit.ArtifactError, match=message):
        load(kind)
    loaded = getattr(ckptkit, call)(PATHS[kind], custom_objects=custom)
    assert loaded.count_params() == model.count_params()


@pytest.mark.core
@pytest.mark.parametrize("kind", ["keras", "h5", "saved_model", "json", "yaml"])
def test_code_in_a_file_is_refused_unless_it_is_trusted(here, kind):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda x: 2 * x)])
    save(model, kind, verify=False)
    call = ckptkit.load_architecture if kind in ("json", "yaml") else ckptkit.load_model
    with pytest.raises(ckptkit.ArtifactError, match=r"holds code, such as a Lambda layer's.*refused.\nIf you trust"):
        call(PATHS[kind])
    assert np.array_equal(call(PATHS[kind], safe_mode=False)(X), 2 * X)


@pytest.mark.core
def test_a_missing_loss_is_named_as_well(here, model):
    def own_loss(y_true, y_pred):
        return tf.reduce_mean(y_true - y_pred)

    other = small()
    other.compile("adam", own_loss)
    ckptkit.save_model(other, "model.keras", verify=False)
    with pytest.raises(ckptkit.ArtifactError, match=r"custom_objects={'own_loss': own_loss}"):
        ckptkit.load_model("model.keras")
    assert ckptkit.load_model("model.keras", compile=False).count_params() == other.count_params()


# SavedModels ----------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_a_saved_model_of_others_answers_and_says_what_it_lacks(here, caplog):
    class Doubles(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4), name="x")])
        def __call__(self, x):
            return {"doubled": 2 * x}

    tf.saved_model.save(Doubles(), "theirs")
    layer = ckptkit.load_model("theirs")
    assert np.array_equal(layer(X)["doubled"], 2 * X)
    kind = "ServedLayer" if IS_LEGACY else "TFSMLayer"
    assert f"loaded as a {kind} that answers as the signature 'serving_default' does" in caplog.text
    assert "nothing to train, no optimizer and no compile config" in caplog.text


@pytest.mark.core
def test_a_saved_model_without_a_signature_is_refused(here):
    tf.saved_model.save(tf.Module(), "theirs")
    with pytest.raises(ckptkit.ArtifactError, match="theirs has no signature to call"):
        ckptkit.load_model("theirs")


@pytest.mark.core
def test_a_signature_of_the_users_own_is_taken(here):
    inputs = keras.layers.Input((4,), name="rows")
    model = keras.Model(inputs, keras.layers.Dense(1, name="sum")(keras.layers.Rescaling(0.5)(inputs)))
    ckptkit.save_model(model, "model", input_signature=[tf.TensorSpec((None, 4), tf.uint8, "pixels")], verify=False)
    signature = tf.saved_model.load("model").signatures["serving_default"]
    assert signature.structured_input_signature[1]["pixels"].dtype == tf.uint8


# Texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_the_four_calls_of_keras_2_are_back(model):
    for to, back in (
        (ckptkit.model_to_json, ckptkit.model_from_json),
        (ckptkit.model_to_yaml, ckptkit.model_from_yaml),
    ):
        again = back(to(model))
        assert [v.shape for v in again.weights] == [v.shape for v in model.weights]
        assert not is_compiled(again)
        assert to(again) == to(model)


@pytest.mark.core
def test_json_and_yaml_hold_the_same_in_the_same_order(here, model):
    import yaml

    save(model, "json", verify=False)
    save(model, "yaml", verify=False)
    from_json = json.loads((here / "model.json").read_text())
    from_yaml = yaml.safe_load((here / "model.yaml").read_text())
    assert from_json == from_yaml
    assert list(from_json) == list(from_yaml)
    assert "compile_config" not in from_json


@pytest.mark.core
def test_keras_own_json_is_read(model):
    assert not is_compiled(ckptkit.model_from_json(model.to_json()))


# Versions -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("checked_by_forks")
def test_versions_are_published_checked_labelled_and_loaded(here, model):
    assert ckptkit.publish_version(model, "served", labels=["stable"]) == 1
    assert ckptkit.publish_version(model, "served", verify=False) == 2
    assert ckptkit.publish_version(model, "served", verify=False, max_versions=1) == 3
    assert ckptkit.versions.versions("served") == (1, 3)
    assert [facts.read(f"served/{number}")["verified"] for number in (1, 3)] == ["child", False]
    loaded = ckptkit.load_model(ckptkit.versions.path_of("served", "stable"))
    assert np.allclose(loaded(X), model(X))


@pytest.mark.core
def test_a_version_that_is_not_the_model_does_not_appear(here, local_model, monkeypatch):
    monkeypatch.setattr(saved_model, "named", lambda model, outputs: outputs + 1)
    with pytest.raises(ckptkit.ExportError, match="its signature"):
        ckptkit.publish_version(local_model[0], "served")
    assert ckptkit.versions.versions("served") == ()


@pytest.mark.slow
def test_a_rolled_back_version_still_passes_its_checks(here, model):
    ckptkit.publish_version(model, "served", verify=False)
    ckptkit.publish_version(model, "served", verify=False)
    assert ckptkit.versions.rollback("served") == 3
    assert np.allclose(ckptkit.load_model("served/3")(X), model(X))


def test_the_source_of_a_model_is_noted(here, tmp_path, model):
    manager = ckptkit.CheckpointManager(tf.train.Checkpoint(model=model), tmp_path / "run", 3)
    manager.save(7, metrics={"val_loss": 0.5})
    ckptkit.save_model(model, "model.keras", source=manager.records()[-1], verify=False)
    source = facts.read("model.keras")["source"]
    assert (source["step"], source["metrics"]) == (7, {"val_loss": 0.5})
    assert source["checkpoint"].endswith("run/ckpt-7")


def test_importing_ckptkit_and_its_versions_needs_no_tensorflow():
    code = "import sys, ckptkit; ckptkit.versions.versions('none'); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# What users do --------------------------------------------------------------------------------------------------------

# A module that may save a model of its own class when it is imported: nobody may import it again to check that.
UNGUARDED = """
import numpy as np, ckptkit
from ckptkit.export.compiled import is_compiled
from ckptkit.which_keras import IS_LEGACY, NAME, keras
print("imported", end="", flush=True)

@keras.saving.register_keras_serializable("mine", name="Other")
class Scale(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs

class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}

def made():
    model = keras.Sequential([keras.layers.Input((4,)), Scale(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(Schedule()), lambda y, p: (y - p) ** 2, run_eagerly=True)
    model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
    return model
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["imported", "later"])
def test_a_users_module_is_imported_once_more_at_most_and_never_while_it_is_imported(here, run_fork, when):
    for folder in ("mine", "work"):
        (here / folder).mkdir()
    saves = "ckptkit.save_model(made(), 'saved.keras')" if when == "imported" else ""
    (here / "mine" / "theirs.py").write_text(UNGUARDED + saves)
    (here / "yaml.py").write_text("raise RuntimeError('the folder it runs in hides a module')")
    code = f"import sys; sys.path[:1] = ['../mine']; import theirs, ckptkit, os, yaml; os.chdir('{here}')"
    code += "" if when == "imported" else "; ckptkit.save_model(theirs.made(), 'saved.keras')"
    said = run_fork("-c", code, cwd=here / "work")
    path = here / ("work/saved.keras" if when == "imported" else "saved.keras")
    assert said == "imported"
    assert facts.read(str(path))["verified"] == ("here" if when == "imported" else "child")


def test_a_check_within_a_check_is_refused(here, local_model, monkeypatch):
    monkeypatch.setenv("CKPTKIT_CHECKING", "1")
    with pytest.raises(ckptkit.ExportError, match=r"imported to check an artifact saves a model itself(?s:.*)__main__"):
        save(local_model[0], "keras")


@pytest.mark.core
def test_hdf5_is_loaded_without_compiling(here, model):
    save(model, "h5", verify=False)
    loaded = ckptkit.load_model("model.h5", compile=False)
    assert not is_compiled(loaded)
    assert np.allclose(loaded(X), model(X))


@pytest.mark.core
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_loss_in_hdf5_is_refused_unless_it_is_trusted(here):
    model = small()
    model.compile("adam", lambda y_true, y_pred: tf.reduce_mean((y_true - y_pred) ** 2))
    save(model, "h5", verify=False)
    with pytest.raises(ckptkit.ArtifactError, match="holds code, such as a Lambda"):
        ckptkit.load_model("model.h5")
    assert is_compiled(ckptkit.load_model("model.h5", safe_mode=False))


class NoConfig(keras.Model):
    def __init__(self, what):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.what = what

    def call(self, inputs):
        return self.dense(inputs)


def test_weights_of_a_class_that_cannot_be_made_again_are_compared_as_they_are(here, monkeypatch):
    model = NoConfig(object())
    model(X)
    save(model, "weights")
    assert facts.read("model.weights.h5")["verified"] == "here"
    write = artifacts.weights.write

    def write_others(model, path):
        model.dense.kernel.assign_add(np.ones((4, 3)))
        write(model, path)
        model.dense.kernel.assign_add(-np.ones((4, 3)))

    monkeypatch.setattr(artifacts.weights, "write", write_others)
    with pytest.raises(ckptkit.ExportError, match="the weights that were written are not those of the model"):
        save(model, "weights", "other.weights.h5")


@pytest.mark.core
def test_weights_leave_the_optimizer_of_a_compiled_model_as_it_is(here, model):
    save(model, "weights", verify=False)
    other = small()
    other.fit(X, Y, verbose=0)
    before = [variable.numpy() for variable in other.optimizer.variables]
    ckptkit.load_weights(other, "model.weights.h5")
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, other.optimizer.variables))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights()))


@pytest.mark.core
def test_more_weights_than_the_model_has_are_refused(here, model):
    save(model, "weights", verify=False)
    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="other")
    with pytest.raises(ckptkit.CheckpointMismatchError, match="there are 4 of them, and the model has 2"):
        ckptkit.load_weights(other, "model.weights.h5")


def test_a_whole_model_and_weights_alone_are_told_apart(here, model):
    save(model, "weights", verify=False)
    save(model, "keras", verify=False)
    with pytest.raises(ckptkit.ArtifactError, match=r"holds weights alone: call ckptkit.load_weights"):
        ckptkit.load_model("model.weights.h5")
    with pytest.raises(ckptkit.ArtifactError, match=r"is a whole model: call ckptkit.load_model"):
        ckptkit.load_weights(model, "model.keras")


def test_an_artifact_that_is_renamed_with_its_facts_loads_and_is_still_checked(here, model):
    save(model, "keras", verify=False)
    for ending in ("", ".ckptkit.json"):
        os.rename(f"model.keras{ending}", f"other.keras{ending}")
    assert int(ckptkit.load_model("other.keras").optimizer.iterations) == 1
    with open("other.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(ckptkit.ArtifactError, match="damaged"):
        ckptkit.load_model("other.keras")


def test_a_slower_saver_that_is_refused_leaves_the_facts_of_the_faster(here, model, monkeypatch):
    write = formats.WRITERS["keras"]

    def while_another_saves(model, path, signature):
        write(model, path, signature)
        monkeypatch.setitem(formats.WRITERS, "keras", write)
        save(model, "keras", verify=False)

    monkeypatch.setitem(formats.WRITERS, "keras", while_another_saves)
    with pytest.raises(ckptkit.ExportError, match="is there already"):
        save(model, "keras", verify=False)
    assert facts.read("model.keras")["kind"] == "keras"
    assert int(ckptkit.load_model("model.keras").optimizer.iterations) == 1


def test_facts_that_cannot_be_written_leave_nothing(here, model, monkeypatch):
    def full(place, noted):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(facts, "write", full)
    with pytest.raises(
        ckptkit.ExportError, match=r"could not write keras to model.keras: .*No space left(?s:.*)Nothing"
    ):
        save(model, "keras", verify=False)
    assert os.listdir(here) == []


def test_a_slash_behind_the_name_is_no_part_of_it(here, model):
    ckptkit.save_model(model, "model.keras/", verify=False)
    ckptkit.save_model(model, "model/", verify=False)
    assert sorted(os.listdir(here)) == ["model", "model.keras", "model.keras.ckptkit.json"]


@only_keras_3
def test_a_model_that_draws_at_inference_passes_its_check(here):
    class Samples(keras.layers.Layer):
        """As in the encoder of a variational autoencoder."""

        def __init__(self, **options):
            super().__init__(**options)
            self.seed = keras.random.SeedGenerator(3)

        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seed)

    save(keras.Sequential([keras.layers.Input((4,)), Samples()]), "saved_model")
    assert facts.read("model")["verified"] == "here"


@pytest.mark.core
@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ([keras.layers.InputSpec(ndim=2)], "must be made of tf.TensorSpec or keras.InputSpec with a shape"),
        ("x", "must be made of tf.TensorSpec or keras.InputSpec with a shape, got 'x'"),
        ([tf.TensorSpec((None, 4))] * 2, "input_signature has 2 inputs, and .* takes 1"),
    ],
    ids=["rank", "text", "two"],
)
def test_a_signature_that_cannot_be_meant_is_refused(here, model, signature, said):
    with pytest.raises(ValueError, match=said):
        ckptkit.save_model(model, "model", input_signature=signature)
    assert os.listdir(here) == []


@pytest.mark.core
def test_a_call_with_several_arguments_says_what_is_possible(here):
    class Two(keras.Model):
        def call(self, left, right):
            return left + right

    model = Two()
    model(X, X)
    with pytest.raises(ckptkit.ExportError, match=r"A call with several arguments cannot be tried: let it take them"):
        ckptkit.save_model(model, "model.keras")


@pytest.mark.core
def test_a_subclassed_model_in_mixed_precision_takes_full_numbers(here):
    class Mixed(keras.Model):
        def __init__(self, **options):
            super().__init__(dtype="mixed_float16")
            self.dense = keras.layers.Dense(1, dtype="mixed_float16")

        def call(self, inputs):
            return self.dense(inputs)

    model = Mixed()
    model(X)
    save(model, "saved_model", verify=False)
    (spec,) = tf.saved_model.load("model").signatures["serving_default"].structured_input_signature[1].values()
    assert spec.dtype == tf.float32


# What is too deep ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parse", [ckptkit.model_from_json, ckptkit.model_from_yaml])
def test_an_architecture_that_is_too_deep_is_refused(parse):
    with pytest.raises(ckptkit.ArtifactError, match=r"the text is not plain (JSON|YAML): .*recursion"):
        parse("[" * 10_000)


def test_facts_that_are_too_deep_cannot_be_read(tmp_path):
    (tmp_path / "model.keras.ckptkit.json").write_text("[" * 100_000)
    with pytest.raises(ckptkit.ArtifactError, match=r"model\.keras\.ckptkit\.json cannot be read: .*recursion"):
        facts.read(str(tmp_path / "model.keras"))


# What a person sees ---------------------------------------------------------------------------------------------------


def lines_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "INFO"]


@pytest.mark.parametrize("kind", core_of(["keras", "weights", "json"], "weights"))
def test_what_was_saved_or_loaded_has_a_line_in_the_log_and_silence_has_none(here, model, kind, caplog):
    caplog.set_level(logging.INFO, "ckptkit")
    again = {"keras": ckptkit.load_model, "weights": lambda *a, **b: ckptkit.load_weights(model, *a, **b)}.get(kind)
    path = PATHS[kind]
    save(model, kind, verify=False, verbose=0, overwrite=True)
    if again is not None:
        again(path, verbose=0)
    assert lines_in(caplog) == []
    save(model, kind, verify=False, overwrite=True)
    if again is not None:
        again(path)
    said, *loaded = lines_in(caplog)
    assert re.fullmatch(rf"saved {path}: [0-9.]+ k?B in [0-9.]+ m?s", said)
    assert [re.sub(" in .*", "", line) for line in loaded] == [said.replace("saved", "loaded").split(" in ")[0]] * bool(
        again
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda model: ckptkit.save_model(model, "a.keras", verbose=2),
        lambda model: ckptkit.save_weights(model, "a.weights.h5", verbose=2),
        lambda model: ckptkit.save_architecture(model, "a.json", verbose=2),
        lambda model: ckptkit.publish_version(model, "serving", verbose=2),
        lambda model: ckptkit.load_model("a.keras", verbose=2),
        lambda model: ckptkit.load_weights(model, "a.weights.h5", verbose=2),
    ],
    ids=["save_model", "save_weights", "save_architecture", "publish_version", "load_model", "load_weights"],
)
def test_more_than_1_is_nowhere_to_be_heard_and_nothing_is_done(here, model, call):
    with pytest.raises(ValueError, match=r"^verbose must be 0 or 1, got 2"):
        call(model)
    assert os.listdir() == []


def test_a_version_is_told_by_its_number_and_each_step_is_shown(here, model, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "ckptkit")
    monkeypatch.setenv("TERM", "xterm")

    def write(model, folder, kinds, notes, verify, signature, step, *, is_version):
        step("writing saved_model")
        os.makedirs(folder)
        (pathlib.Path(folder) / "saved_model.pb").write_bytes(b"graph")
        return {"files": facts.files_of(folder)}

    monkeypatch.setattr(artifacts, "write_all", write)
    with Screen() as screen:
        assert ckptkit.publish_version(model, "serving", version=7) == 7
    assert ckptkit.publish_version(model, "serving", verbose=0) == 8
    assert "publishing serving" in screen.text
    assert "writing saved_model" in screen.text
    (line,) = lines_in(caplog)
    assert line.startswith("published version 7 of serving: 5 B in ")


def test_the_size_of_a_saved_model_is_that_of_all_its_files_and_of_any_other_folder_not_known(here):
    os.makedirs("folder/variables")
    (here / "folder/variables/data").write_bytes(b"1234")
    assert facts.size_at("folder") == facts.size_at("nowhere") == 0
    (here / "folder/saved_model.pb").write_bytes(b"12")
    assert facts.size_at("folder") == 6
    assert facts.size_at("folder/variables/data") == 4
