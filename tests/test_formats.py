"""Every format of artifact holds every kind of model: read in fresh processes, with ckptkit, with Keras or TensorFlow.

Models are made, trained and saved in this process, without verification; then the live ones are trained on here, and
each reader loads everything at once. Each test compares one cell of what came of it.
"""

import itertools
import json
import os
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import ckptkit
from ckptkit.export import hdf5
from ckptkit.export.compiled import build, is_compiled, optimizer_of, variables_of
from ckptkit.export.silence import without
from ckptkit.export.state import seeds_in_variables
from ckptkit.which_keras import IS_LEGACY, keras, tree
from tests.format_models import (
    BATCHES,
    CASES,
    OwnStep,
    adapted,
    after_training,
    all_of,
    answers_of,
    digests,
    numbers,
    outputs_of,
    state_of,
    subclassed,
    trained,
)
from tests.formats_child import ORDERS, TEXTS, WEIGHTS, WHOLE

pytestmark = [pytest.mark.core, pytest.mark.slow]
only_keras_3 = pytest.mark.skipif(IS_LEGACY, reason="Keras 2 does it otherwise, or not at all")
only_keras_2 = pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 does it otherwise, or not at all")

FILES = {**WHOLE, **WEIGHTS, **TEXTS}
CELLS = [(name, kind) for name, case in CASES.items() for kind in FILES if kind not in case.without]
ORDER_NAMES = ["-".join(order) for order in ORDERS]
KERAS2 = os.path.join(os.path.dirname(__file__), "data", "keras2.h5")


def cells(*kinds, names=CASES):
    """Return a decorator that runs a test for each model in each of some formats."""
    table = [(name, kind) for name, kind in CELLS if kind in kinds and name in names]
    return pytest.mark.parametrize(("name", "kind"), table, ids=[f"{name}-{kind}" for name, kind in table])


def save(model, path, kind):
    """Save a model, unverified: what comes of that is what is tested."""
    if kind in WHOLE:
        ckptkit.save_model(model, path, verify=False)
    elif kind in WEIGHTS:
        ckptkit.save_weights(model, path, verify=False)
    else:
        ckptkit.save_architecture(model, path, verify=False)


def write_questions(model, case, folder):
    """Write inputs for a reader that has no Keras."""
    if isinstance(model, OwnStep):
        names = "inputs"
    else:
        made_with = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        names = tree.map_structure(lambda tensor: tensor.name, made_with)
    for count in BATCHES:
        arrays = tree.flatten(case.data(count)[0])
        arrays = [array.astype("S") if array.dtype == object else array for array in arrays]
        np.savez(folder / f"questions-{count}.npz", **dict(zip(tree.flatten(names), arrays)))
    (folder / "questions.json").write_text(json.dumps({"inputs": names, "batches": BATCHES}))


def write(name, case, folder):
    """Make and train a model, save it in every format, and return it with what is known of it."""
    keras.utils.set_random_seed(1)
    model = case.make()
    if case.is_trained:
        trained(model, case, 1)
    for kind, file in FILES.items():
        if kind not in case.without:
            save(model, str(folder / name / file), kind)
    if "saved_model" not in case.without:
        write_questions(model, case, folder / name)
    build(optimizer_of(model), model.trainable_variables)  # that of a loaded one is, and has slots
    answers = {count: answers_of(model, case, count) for count in BATCHES}
    return model, {"state": state_of(model), "outputs": [*map(digests, answers.values())], "answers": answers}


def write_in_every_order(folder):
    """Save one model in every order of formats; return what it was, and what became of it each time."""
    case = CASES["sequential"]
    keras.utils.set_random_seed(1)
    model = case.make()
    trained(model, case, 1)
    kept = [(variable, variable.numpy()) for variable in [*all_of(model), *variables_of(model.optimizer)]]

    def put_back_after_training():
        course = after_training(model, case)
        for variable, value in kept:
            variable.assign(value)
        return course

    live = {"state": state_of(model), "outputs": outputs_of(model, case), "trained": put_back_after_training()}
    after = {}
    for order in ORDERS:
        for kind in order:
            save(model, str(folder / "-".join(order) / WHOLE[kind]), kind)
        state = state_of(model)
        after["-".join(order)] = {
            "state": state,
            "outputs": outputs_of(model, case),
            "trained": put_back_after_training(),
        }
    return live, after


def command(folder, name, *inputs):
    """Return what Python is to run: TensorFlow's own command on a SavedModel."""
    place = ["--dir", str(folder / name / WHOLE["saved_model"]), "--outdir", str(folder / name / "out")]
    tool = os.path.join(os.path.dirname(sys.executable), "saved_model_cli")
    return [tool, "run", *place, "--tag_set", "serve", "--signature_def", "serving_default", *inputs]


@pytest.fixture(scope="module")
def world(tmp_path_factory, run_child, run_fork):
    folder = tmp_path_factory.mktemp("formats")
    models, live = {}, {}
    with seeds_in_variables(True):
        for name, case in CASES.items():
            models[name], live[name] = write(name, case, folder)
        order_live, order_after = write_in_every_order(folder)
    processes = {"ckptkit": run_fork, "keras": run_fork, "serving": run_child}  # a fork has Keras loaded
    for name, case in CASES.items():
        if case.is_trained:
            live[name]["trained"] = after_training(models[name], case)
    said = {reader: run("-m", "tests.formats_child", reader, str(folder)) for reader, run in processes.items()}
    read = {reader: json.loads(lines.splitlines()[-1]) for reader, lines in said.items()}
    return SimpleNamespace(folder=folder, live=live, order_live=order_live, order_after=order_after, **read)


def found(reader, name, kind):
    """Return what a reader found in a cell."""
    cell = reader[f"{name}/{kind}"]
    assert "error" not in cell, cell["error"]
    return cell


# Whole models ---------------------------------------------------------------------------------------------------------


@cells(*WHOLE)
def test_a_loaded_model_answers_batches_of_two_sizes_as_the_live_one(world, name, kind):
    assert found(world.ckptkit, name, kind)["outputs"] == world.live[name]["outputs"]


@cells(*WHOLE)
def test_every_variable_comes_back_bit_by_bit_and_in_order(world, name, kind):
    state = found(world.ckptkit, name, kind)["state"]
    assert state["variables"] == world.live[name]["state"]["variables"]
    assert state["weights"] == world.live[name]["state"]["weights"]


@cells(*WHOLE)
def test_the_optimizer_comes_back_with_its_class_its_slots_and_its_iterations(world, name, kind):
    state, live = found(world.ckptkit, name, kind)["state"], world.live[name]["state"]
    for each in ("optimizer", "iterations", "optimizer variables"):
        assert state[each] == live[each]


@cells(*WHOLE)
def test_it_is_compiled_with_what_the_live_one_was(world, name, kind):
    assert found(world.ckptkit, name, kind)["state"]["compile config"] == world.live[name]["state"]["compile config"]


@cells(*WHOLE)
def test_it_is_made_of_the_same_layers(world, name, kind):
    state, live = found(world.ckptkit, name, kind)["state"], world.live[name]["state"]
    assert (state["class"], state["layers"]) == (live["class"], live["layers"])


@cells(*WHOLE, names=[name for name, case in CASES.items() if case.is_trained])
def test_training_that_goes_on_takes_the_course_of_the_live_one(world, name, kind):
    course, live = found(world.ckptkit, name, kind)["trained"], world.live[name]["trained"]
    assert course["history"] == live["history"]
    assert course["metrics"] == live["metrics"]
    assert course["state"] == live["state"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_trained])
def test_the_further_training_changes_weights_and_counts_steps(world, name):
    before, after = world.live[name]["state"], world.live[name]["trained"]["state"]
    assert before["weights"] != after["weights"]
    assert after["iterations"] > before["iterations"] > 0


@pytest.mark.parametrize(
    ("make", "said"),
    [(subclassed, "OwnStep is a subclass with code of its own"), (adapted, "such as a vocabulary")],
    ids=["subclass", "learnt vocabulary"],
)
def test_hdf5_refuses_a_model_that_it_cannot_hold(make, said, tmp_path):
    model = make()
    assert said in hdf5.refusal(model)
    with pytest.raises(ValueError, match=f'{said}.*"keras" or "saved_model"'):
        ckptkit.save_model(model, tmp_path / "model.h5", verify=False)
    with pytest.raises(ValueError, match=said):
        hdf5.write(model, str(tmp_path / "model.h5"))
    assert os.listdir(tmp_path) == []


# Architecture, weights ------------------------------------------------------------------------------------------------


@cells(*TEXTS)
def test_architecture_and_weights_make_the_model_without_a_compile_config(world, name, kind):
    cell, live = found(world.ckptkit, name, kind), world.live[name]
    assert cell["outputs"] == live["outputs"]
    assert cell["state"]["weights"] == live["state"]["weights"]
    assert cell["state"]["layers"] == live["state"]["layers"]
    assert (cell["state"]["compile config"], cell["state"]["optimizer"]) == (None, None)


@cells(*WEIGHTS)
def test_weights_go_into_a_model_that_is_made_by_code(world, name, kind):
    cell, live = found(world.ckptkit, name, kind), world.live[name]
    assert cell["outputs"] == live["outputs"]
    assert cell["state"]["weights"] == live["state"]["weights"]


def test_contract_a_text_format_leaves_out_a_vocabulary_that_was_learnt(tmp_path):
    model = adapted()
    ckptkit.save_architecture(model, tmp_path / "model.json", verify=False)
    ckptkit.save_weights(model, tmp_path / "model.weights.h5", verify=False)
    loaded = ckptkit.load_architecture(tmp_path / "model.json")
    ckptkit.load_weights(loaded, tmp_path / "model.weights.h5")
    with pytest.raises(Exception, match="Table not initialized"):  # it says so, and gives no wrong answer
        answers_of(loaded, CASES["texts, learnt"], 2)


# Keras alone ----------------------------------------------------------------------------------------------------------

# What Keras 3.15 makes of operations such as x + 3.0 in its own HDF5: it takes them for layers.
NOT_BY_KERAS = {("MobileNetV3Small", "h5")}


@cells("keras", "h5")
def test_a_process_without_ckptkit_reads_the_model(world, name, kind):
    cell, live = world.keras[f"{name}/{kind}"], world.live[name]
    if (name, kind) in NOT_BY_KERAS:
        assert "Only input tensors may be passed as positional arguments" in cell["error"]
        return
    assert "error" not in cell, cell["error"]
    assert cell["outputs"] == live["outputs"]
    assert cell["state"]["weights"] == live["state"]["weights"]
    assert cell["state"]["optimizer"] == live["state"]["optimizer"]


# What Keras 2 leaves out of a .keras file: here the loss scale.
KEPT_BY_KERAS = [name for name in CASES if not (IS_LEGACY and name == "mixed precision")]


@cells("keras", names=KEPT_BY_KERAS)
def test_a_process_without_ckptkit_has_the_optimizer_of_a_keras_file(world, name, kind):
    cell, live = found(world.keras, name, kind), world.live[name]
    for each in ("compile config", "iterations", "optimizer variables"):
        assert cell["state"][each] == live["state"][each]


@cells("h5", names=[name for name in CASES if name not in ("MobileNetV3Small", "mixed precision")])
def test_a_process_without_ckptkit_has_loss_and_iterations_of_an_h5_file(world, name, kind):
    cell, live = found(world.keras, name, kind), world.live[name]
    assert cell["state"]["iterations"] == live["state"]["iterations"]
    config, known = cell["state"]["compile config"], live["state"]["compile config"]
    losses = [keras.losses.get(each) for each in tree.flatten(known["loss"]) if each in ("mse", "mae", "huber")]
    named = [each for each in tree.flatten(config["loss"]) if isinstance(each, str)]
    assert {loss.__name__ for loss in losses} <= set(named)
    assert config["loss_weights"] == known["loss_weights"]


@only_keras_3
def test_contract_keras_alone_leaves_out_the_slots_of_an_h5_file_and_cannot_train_it_on(world):
    state = found(world.keras, "sequential", "h5")["state"]
    assert len(state["optimizer variables"]) == 2  # iterations and learning rate
    assert "Unknown variable" in world.keras["training of h5"]["error"]


def test_contract_keras_alone_leaves_out_the_seeds(world):
    for kind in ("keras", "h5"):
        state, live = found(world.keras, "sequential", kind)["state"], world.live["sequential"]["state"]
        assert len(state["variables"]) == len(live["variables"])
        assert sum(one != other for one, other in zip(state["variables"], live["variables"])) == 1


def test_the_process_that_reads_with_keras_has_no_ckptkit(world):
    assert keras.__name__ in world.keras["modules"]
    assert "ckptkit" not in world.keras["modules"]


# Serving --------------------------------------------------------------------------------------------------------------


def tolerance(name):
    return {"rtol": 2e-2, "atol": 2e-3} if name == "mixed precision" else {"rtol": 1e-4, "atol": 1e-6}


SERVED = [name for name, case in CASES.items() if "saved_model" not in case.without]


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("count", BATCHES, ids=lambda count: f"batch of {count}")
def test_a_process_without_keras_gets_the_live_models_answers(world, name, count):
    assert "error" not in world.serving[name], world.serving[name]["error"]
    known = world.live[name]["answers"][count]
    outputs = {"several inputs and outputs": ["kind", "size"], "nested and shared": ["total", "answer"]}.get(name, [""])
    with np.load(world.folder / name / "answers.npz") as answers:
        served = {key: value for key, value in answers.items() if key.startswith(f"{count}/serve/")}
    assert sorted(served) == sorted(f"{count}/serve/{output}" for output in outputs)
    for output, values in zip(outputs, known):
        np.testing.assert_allclose(served[f"{count}/serve/{output}"], values, **tolerance(name))


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("sequential", ["numbers"], ["output_0"]),
        ("several inputs and outputs", ["left", "right"], ["kind", "size"]),
        ("nested and shared", ["left", "right"], ["total", "answer"]),
        ("subclassed", ["inputs"], ["output_0"]),
        ("texts, learnt", ["texts"], ["output_0"]),
    ],
    ids=["one", "dict", "list", "subclass", "texts"],
)
def test_a_signature_has_the_models_names_and_its_answers(world, name, inputs, outputs):
    assert "error" not in world.serving[name], world.serving[name]["error"]
    assert world.serving[name]["inputs"] == inputs
    with np.load(world.folder / name / "answers.npz") as answers:
        named = {key.split("/")[2]: value for key, value in answers.items() if key.startswith("5/signature/")}
    assert sorted(named) == sorted(outputs)
    for output, known in zip(outputs, world.live[name]["answers"][5]):
        np.testing.assert_allclose(named[output], known, rtol=1e-4, atol=1e-6)


def test_the_process_that_serves_has_neither_ckptkit_nor_keras(world):
    tops = {name.split(".")[0] for name in world.serving["modules"]}
    assert "tensorflow" in tops
    assert not {"ckptkit", "keras", "tf_keras"} & tops


@only_keras_3
@pytest.mark.parametrize("name", ["several inputs and outputs"])
def test_the_saved_model_command_runs_the_signature(world, run_fork, name):
    questions = world.folder / name / "questions-5.npz"
    run_fork(*command(world.folder, name, "--inputs", f"left={questions}[left];right={questions}[right]"))
    for output, known in zip(["kind", "size"], world.live[name]["answers"][5]):
        np.testing.assert_allclose(np.load(world.folder / name / "out" / f"{output}.npy"), known, rtol=1e-4, atol=1e-6)


@only_keras_3
def test_the_saved_model_command_takes_expressions(world, run_fork):
    known = answers_of(ckptkit.load_model(world.folder / "sequential" / "model.keras"), CASES["sequential"], 2)
    expression = f"numbers={numbers(2, 4).tolist()}"
    run_fork(*command(world.folder, "sequential", "--input_exprs", expression))
    given = np.load(world.folder / "sequential" / "out" / "output_0.npy")
    np.testing.assert_allclose(given, known[0], rtol=1e-4, atol=1e-6)


# Every order ----------------------------------------------------------------------------------------------------------


@only_keras_3
def test_every_order_of_the_whole_formats_is_tried():
    assert sorted(ORDERS) == sorted(itertools.permutations(WHOLE))


@pytest.mark.parametrize("order", ORDER_NAMES)
def test_saving_in_any_order_leaves_the_live_model_as_it_was(world, order):
    assert world.order_after[order]["state"] == world.order_live["state"]
    assert world.order_after[order]["outputs"] == world.order_live["outputs"]
    assert world.order_after[order]["trained"] == world.order_live["trained"]


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("kind", WHOLE)
def test_saving_in_any_order_makes_whole_artifacts(world, order, kind):
    cell = found(world.ckptkit, order, kind)
    assert cell == {name: world.order_live[name] for name in ("state", "outputs")}


# Keras 2 --------------------------------------------------------------------------------------------------------------

# How tests/data/keras2.h5 was made, with tf_keras 2.21:
#
#   tf_keras.utils.set_random_seed(1)
#   x = np.linspace(0, 1, 24, dtype="float32").reshape(8, 3)
#   inputs = layers.Input((3,), name="numbers")
#   hidden = layers.BatchNormalization()(layers.Dense(4, activation="relu")(inputs))
#   outputs = [layers.Dense(1, name="size")(hidden), layers.Dense(2, activation="softmax", name="kind")(hidden)]
#   model = tf_keras.Model(inputs, outputs)
#   losses = {"size": "mse", "kind": tf_keras.losses.SparseCategoricalCrossentropy()}
#   model.compile("adam", losses, metrics={"size": ["mae"], "kind": ["accuracy"]})
#   model.fit(x, [x.sum(1, keepdims=True), np.arange(8) % 2], batch_size=4, shuffle=False)
#   model.save("keras2.h5")
OLD_X = np.linspace(0, 1, 24, dtype="float32").reshape(8, 3)
OLD_Y = [OLD_X.sum(1, keepdims=True), np.arange(8) % 2]
OLD_SIZES = [0.01762564480304718, 0.1188591718673706, 0.22252139449119568, 0.32618361711502075, 0.4298458695411682]
OLD_KINDS = [0.5015253424644470, 0.5243825912475586, 0.5464898347854614, 0.5684152245521545, 0.5900757908821106]


def test_a_file_of_keras_2_answers_as_it_did_there():
    sizes, kinds = (output.numpy() for output in ckptkit.load_model(KERAS2)([OLD_X[:5]]))
    np.testing.assert_allclose(sizes[:, 0], OLD_SIZES, rtol=1e-5)
    np.testing.assert_allclose(kinds[:, 1], OLD_KINDS, rtol=1e-5)


@only_keras_3
def test_a_file_of_keras_2_is_compiled_and_can_be_trained_on():
    model = ckptkit.load_model(KERAS2)
    config = model.get_compile_config()
    assert config["loss"]["kind"]["class_name"] == "SparseCategoricalCrossentropy"
    assert config["loss"]["size"]["config"] == "mean_squared_error"
    assert type(model.optimizer) is keras.optimizers.Adam
    history = model.fit(OLD_X, OLD_Y, batch_size=4, verbose=0).history
    assert {"size_loss", "kind_loss", "size_mean_absolute_error", "kind_sparse_categorical_accuracy"} <= set(history)


@only_keras_3
def test_the_optimizer_of_a_file_of_keras_2_starts_afresh_and_that_is_said(caplog):
    optimizer = ckptkit.load_model(KERAS2).optimizer
    assert int(optimizer.iterations) == 0
    assert not any(np.any(variable) for variable in optimizer.variables[2:])
    assert "starts afresh: the file holds 17 values of it, as Keras 2 has them, and Adam of Keras" in caplog.text


def test_an_h5_file_of_keras_alone_loads_with_its_optimizer_and_trains_on_as_the_live_model(tmp_path):
    case = CASES["several inputs and outputs"]
    model = case.make()
    trained(model, case, 1)
    with without("You are saving your model as an HDF5 file"):
        model.save(tmp_path / "model.h5")
    loaded = ckptkit.load_model(tmp_path / "model.h5")
    loaded.run_eagerly = True  # which is not in the file
    assert state_of(loaded)["optimizer variables"] == state_of(model)["optimizer variables"]
    assert trained(loaded, case, 1)["loss"] == trained(model, case, 1)["loss"]
    assert state_of(loaded)["weights"] == state_of(model)["weights"]
    assert not is_compiled(ckptkit.load_model(tmp_path / "model.h5", compile=False))


@only_keras_3
def test_a_metric_of_keras_2_that_was_given_by_name_keeps_it(tmp_path):
    path = str(tmp_path / "model.h5")
    ckptkit.load_model(KERAS2).save(path)
    wrapped = {"name": "accuracy", "dtype": "float32", "fn": "sparse_categorical_accuracy"}
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["training_config"])
        config["metrics"] = {"kind": [{"class_name": "MeanMetricWrapper", "config": wrapped}]}
        file.attrs["training_config"] = json.dumps(config)
    history = ckptkit.load_model(path).fit(OLD_X, OLD_Y, batch_size=4, verbose=0).history
    assert "kind_accuracy" in history
