"""A configuration in YAML: what is written is read back equal, and every mistake is told with its line."""

from __future__ import annotations

import inspect
import os
import re
import signal
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit
from ckptkit import durability
from ckptkit.config import RunConfig, load_config
from ckptkit.errors import ConfigError
from ckptkit.export.names import FILES
from ckptkit.options import (
    INPUT_STATES,
    CheckpointManagerOptions,
    ExportOnCompletionOptions,
    TrainingCheckpointOptions,
)
from ckptkit.policies import AtSteps, EveryEpochs, EverySteps, OnImprovement, SavePolicy
from tests.test_policy_text import preservation_policies, save_policies

counts = st.integers(1, 10**30)
texts = st.text(st.characters(blacklist_characters="\0")) | st.sampled_from(
    [
        "~/$HOME",
        "1e3",
        "on",
        "null",
        "~",
        "2024-01-31",
        "0x1F",
        "1:30",
        "<<",
        "=",
        "# a",
        "a: b",
        "*a",
        "\ufeff",
        "\x85",
    ]
)
trouble = {
    "on_save_error": st.sampled_from(["raise", "warn"]),
    "max_save_errors": st.none() | counts,
    "worker_timeout_secs": st.none() | st.floats(0.001, 1e9),
    "tensorboard_dir": st.none() | texts,
    "verbose": st.sampled_from([0, 1]),
}
managers = st.builds(
    CheckpointManagerOptions,
    directory=texts,
    max_to_keep=st.none() | counts,
    keep_checkpoint_every_n_hours=st.none() | st.floats(0, allow_infinity=False),
    checkpoint_name=texts.filter(lambda name: name != "" and "/" not in name),
    checkpoint_interval=st.none() | st.integers(0, 10**9),
    last_checkpoint_step=st.none() | st.integers(0, 10**9),
    save_policy=st.none() | save_policies,
    preservation_policy=st.none() | preservation_policies,
    async_save=st.booleans(),
    durable=st.booleans(),
    read_only=st.booleans(),
    **trouble,
)
trainings = st.builds(
    lambda monitor, mode, **named: TrainingCheckpointOptions(monitor=monitor, mode=monitor and mode, **named),
    monitor=st.none() | st.text(min_size=1),
    mode=st.sampled_from([None, "min", "max"]),
    directory=texts,
    save_freq=st.just("epoch") | counts | save_policies,
    final_save=st.booleans(),
    max_to_keep=st.none() | counts,
    preservation_policy=st.none() | preservation_policies,
    resume=st.booleans(),
    async_save=st.booleans(),
    durable=st.booleans(),
    input_state=st.sampled_from(INPUT_STATES),
    max_input_state_bytes=st.integers(0, 10**12),
    save_on_preemption=st.booleans(),
    preemption_signals=st.lists(st.sampled_from(["SIGTERM", "SIGUSR1", signal.SIGINT]), max_size=3),
    grace_secs=st.none() | st.floats(0.001, 1e9),
    preemption_code=st.integers(0, 255),
    **trouble,
)
exports = st.builds(
    lambda versions, formats, **named: ExportOnCompletionOptions(
        versions=versions, formats=[*formats, "saved_model"] if versions else formats, **named
    ),
    versions=st.none() | counts,
    formats=st.lists(st.sampled_from(sorted(FILES)), min_size=1, max_size=3),
    path=texts,
    which=st.sampled_from(["final", "best"]),
    overwrite=st.booleans(),
    verify=st.booleans(),
    verbose=st.sampled_from([0, 1]),
)
configs = (
    st.tuples(st.none() | managers, st.none() | trainings, st.lists(exports, max_size=2))
    .filter(any)
    .map(lambda t: RunConfig(*t))
)


class Own(SavePolicy):
    """A policy of a user's own."""


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a configuration from a text."""

    def read(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return read


# What is written is read back --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(configs)
def test_a_configuration_that_was_written_is_read_back_equal(config):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "run.yaml")
        text = config.dump(path)
        assert load_config(path) == config
        assert load_config(path).dump() == text
        assert os.listdir(folder) == ["run.yaml"]


def test_the_configurations_of_the_law_have_every_option():
    for kind, drawn in ((CheckpointManagerOptions, managers), (TrainingCheckpointOptions, trainings)):
        assert all(f"{name}=" in repr(drawn) for name in kind.rules())


def test_every_option_is_written_out_on_a_line_and_a_section_that_is_not_there_is_not():
    policy = AtSteps(range(1, 200))
    config = RunConfig(training_checkpoint=TrainingCheckpointOptions(directory="läufe/a", save_freq=policy))
    lines = config.dump().splitlines()
    assert lines[:3] == ["training_checkpoint:", "  directory: läufe/a", f"  save_freq: {policy}"]
    lines.remove("  - SIGTERM")  # the one in a list
    assert [line.split(":")[0].strip() for line in lines[1:]] == list(TrainingCheckpointOptions.rules())


def test_an_old_file_stays_whole_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text("old")

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durability.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        RunConfig(training_checkpoint=TrainingCheckpointOptions(directory="a")).dump(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.yaml"]


def test_a_policy_of_ones_own_cannot_be_written():
    config = RunConfig(training_checkpoint=TrainingCheckpointOptions(directory="a", save_freq=Own()))
    with pytest.raises(
        ConfigError, match="training_checkpoint: save_freq is of a class of your own, or too long, and has no text"
    ):
        config.dump()


# What is read ------------------------------------------------------------------------------------------------------


def test_a_section_has_the_arguments_of_its_class_and_its_defaults(read):
    config = read(
        "checkpoint_manager: {directory: runs/a, max_to_keep: 3, save_policy: EverySteps(500) | EveryEpochs(1)}\n"
        "training_checkpoint:\n"
        "  directory: runs/b\n"
        '  save_freq: EverySteps(500) | OnImprovement("val_loss", "min")\n'
        "export_on_completion: {path: export/a, formats: [h5], which: best}\n"
    )
    assert config == RunConfig(
        CheckpointManagerOptions(directory="runs/a", max_to_keep=3, save_policy=EverySteps(500) | EveryEpochs()),
        TrainingCheckpointOptions(directory="runs/b", save_freq=EverySteps(500) | OnImprovement("val_loss", "min")),
        [ExportOnCompletionOptions(path="export/a", formats=["h5"], which="best")],
    )


def test_several_exports_are_a_list(read):
    config = read("export_on_completion:\n- {path: a}\n- {path: b, versions: 3}\n")
    assert [export.path for export in config.export_on_completion] == ["a", "b"]


def test_nothing_in_a_path_is_expanded(read, monkeypatch):
    monkeypatch.setenv("RUNS", "elsewhere")
    config = read("training_checkpoint:\n  directory: ~/$RUNS/${RUNS}\n")
    assert config.training_checkpoint.directory == "~/$RUNS/${RUNS}"


def test_anchors_and_merges_work_between_sections(read):
    config = read(
        "training_checkpoint: &common\n  directory: runs/a\n  durable: false\n"
        "checkpoint_manager:\n  <<: *common\n  max_to_keep: 2\n  durable: true\n"
    )
    assert config.checkpoint_manager == CheckpointManagerOptions(directory="runs/a", max_to_keep=2)
    assert config.training_checkpoint == TrainingCheckpointOptions(directory="runs/a", durable=False)


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_to_kep: 3", "training_checkpoint has no option 'max_to_kep'.\nDid you mean 'max_to_keep'?"),
        ("callbacks: []", "training_checkpoint has no option 'callbacks'.\nThere are directory, save_freq, "),
        ('max_to_keep: "three"', "Expected a positive integer or `null` for `max_to_keep`, got 'three'."),
        ('max_to_keep: "3"', "`max_to_keep`, got '3'.\nWrite 3."),
        ("max_to_keep: 3.0", "`max_to_keep`, got 3.0.\nWrite 3."),
        ("max_to_keep: 1e3", "`max_to_keep`, got '1e3'.\nYAML reads '1e3' as text: write 1000."),
        ("max_to_keep: None", "`max_to_keep`, got 'None'.\nYAML's word for None is null."),
        ("max_to_keep: 'null'", "`max_to_keep`, got 'null'.\nWrite it without quotes."),
        ("max_to_keep: 0", "`max_to_keep`, got 0."),
        ("max_to_keep: [3]", "`max_to_keep`, got [3]."),
        ("max_save_errors: 1:30", "YAML reads 1:30 as 90: write 90"),
        ("durable: 'yes'", "durable must be True or False, got 'yes'.\nWrite it without quotes."),
        ("durable: 1", "durable must be True or False, got 1."),
        ("verbose: auto", "verbose must be 0 or 1, got 'auto'."),
        ("monitor: on", "monitor must be a metric's name, or null, got True.\nYAML reads 'on' as true: put it into q"),
        ("mode: off", "takes mode = 'min' or 'max', got False.\nYAML reads 'off' as false."),
        ("mode: min", "training_checkpoint: mode='min' says how to rank a metric; say which one with monitor=."),
        ("save_freq: 5 stepz", "'5 stepz' says no frequency: write \"epoch\", "),
        ("save_freq: EveryStep(5)", "column 1: no policy of ckptkit.policies is called 'EveryStep'.\nDid you mean 'Ev"),
        ("save_freq: 2.5", 'save_freq must be "epoch", a number of steps or a policy, or a text such as'),
        ("preservation_policy: EverySteps(5)", "no policy of ckptkit.preservation is called 'EverySteps'."),
        ("preservation_policy: 5", "preservation_policy must come from ckptkit.preservation, got 5."),
        ("monitor: {a: 1}", "a plain value is wanted here, got a mapping."),
    ],
    ids=lambda value: value[:24],
)
def test_an_option_that_cannot_be_meant_is_refused_with_its_line(read, line, message):
    where = 2 if message.startswith("training_checkpoint: mode") else 4
    with pytest.raises(ConfigError, match=rf"run\.yaml, line {where}: (?s:.*){re.escape(message)}"):
        read(f"# a run\ntraining_checkpoint:\n  directory: runs/a\n  {line}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "line 1: a configuration needs at least one of checkpoint_manager, training_checkpoint, export_on"),
        ("export_on_completion: []", "line 1: a configuration needs at least one of checkpoint_manager, "),
        ("\ntraining_checkpont: {directory: a}", "line 2: the file has no section 'training_checkpont'.\nDid you mean"),
        (
            "\nmodel: {}",
            "line 2: the file has no section 'model'.\nThere are checkpoint_manager, training_checkpoint, ",
        ),
        ("training_checkpoint:", "line 1: training_checkpoint must be a mapping of names to values, got nothing."),
        ("training_checkpoint: [a]", "line 1: training_checkpoint must be a mapping of names to values, got a list."),
        ("\ntraining_checkpoint: {}", "line 2: training_checkpoint needs 'directory'."),
        ("checkpoint_manager: {directory: a}", "line 1: checkpoint_manager needs 'max_to_keep'."),
        ("training_checkpoint: {directory: ~}", "directory must be a path, got None.\nYAML reads '~' as null: put it"),
        (
            "training_checkpoint: {directory: 2024}",
            "directory must be a path, got 2024.\nYAML reads '2024' as a number:",
        ),
        (
            "export_on_completion:\n- path: a\n- path: b\n  formats: [h6]",
            "line 4: export_on_completion: formats must be",
        ),
        ("export_on_completion:\n- path: a\n- formats: [h5]", "line 3: export_on_completion needs 'path'."),
        (
            "export_on_completion: {path: a, versions: 3, formats: [h5]}",
            "line 1: export_on_completion: versions are Sav",
        ),
        (
            "checkpoint_manager: {directory: a, max_to_keep: 1, keep_checkpoint_every_n_hours: 1e-1}",
            "got '1e-1'.\nYAML reads '1e-1' as text: write 0.1.",
        ),
        (
            "checkpoint_manager: {directory: a, max_to_keep: 1, keep_checkpoint_every_n_hours: 1e3}",
            "got '1e3'.\nYAML reads '1e3' as text: write 1000 or 1000.0.",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_a_section_that_cannot_be_meant_is_refused_with_its_line(read, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(text)


@pytest.mark.parametrize(
    ("option", "end"),
    [("max_to_keep: 1e300", "got '1e300'."), ("input_state: true", "got True.")],
    ids=["1e300", "true"],
)
def test_where_no_other_spelling_would_help_none_is_named(read, option, end):
    with pytest.raises(ConfigError, match=re.escape(end) + "$"):
        read(f"training_checkpoint: {{directory: a, {option}}}")


def test_a_chain_of_merges_without_an_end_in_sight_is_refused(read):
    chain = "".join(f"- &a{i} {{<<: *a{i - 1}}}\n" for i in range(1, 2000))
    text = f"export_on_completion:\n- &a0 {{path: a}}\n{chain}"
    assert len(read(text).export_on_completion) == 2000  # each of them is known when the next one asks
    chain = "".join(f"  - &b{i}\n    <<: *b{i - 1}\n" for i in range(1, 2000))
    with pytest.raises(ConfigError, match="merges its mappings through too many others"):
        read(f"training_checkpoint:\n  directory:\n  - &b0 {{path: a}}\n{chain}checkpoint_manager: *b1999\n")


def test_a_configuration_of_nothing_is_refused_in_python_as_well():
    with pytest.raises(ConfigError, match="a configuration needs at least one of checkpoint_manager, training"):
        RunConfig()


# What is made ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "made", "objects"),
    [
        (CheckpointManagerOptions, "CheckpointManager", ["checkpoint", "step_counter", "init_fn"]),
        (TrainingCheckpointOptions, "TrainingCheckpoint", ["callbacks"]),
        (ExportOnCompletionOptions, "ExportOnCompletion", ["input_signature"]),
    ],
    ids=["manager", "callback", "export"],
)
def test_a_section_has_all_arguments_of_its_class_but_for_objects_in_order_with_its_defaults(kind, made, objects):
    arguments = inspect.signature(getattr(ckptkit, made)).parameters
    defaults = {name: each.default for name, each in arguments.items() if name not in objects}
    assert list(defaults) == list(kind.rules())
    least = {name: "a" if name != "max_to_keep" else 1 for name in kind.required()}
    assert [name for name in defaults if defaults[name] is inspect.Parameter.empty] == kind.required()
    assert kind(**{**defaults, **least}) == kind(**least)


def test_a_manager_is_made_as_the_file_says_around_the_objects_that_it_cannot_say(read, tmp_path):
    import tensorflow as tf

    step, began = tf.Variable(0), []
    config = read(f"checkpoint_manager: {{directory: {tmp_path}/run, max_to_keep: 2, checkpoint_interval: 5}}")
    checkpoint = tf.train.Checkpoint(step=step)
    manager = config.manager(checkpoint, step_counter=step, init_fn=lambda: began.append(1))
    assert manager.restore_or_initialize() is None
    assert began == [1]
    assert manager.checkpoint is checkpoint
    assert manager.checkpoint_interval == 5
    assert manager.directory == f"{tmp_path}/run"


def test_callbacks_are_made_in_the_order_in_which_fit_needs_them(read, tmp_path):
    config = read(
        f"export_on_completion: [{{path: {tmp_path}/a}}, {{path: {tmp_path}/b}}]\n"
        f"training_checkpoint: {{directory: {tmp_path}/run, monitor: val_loss}}\n"
    )
    training, *others = config.callbacks()
    assert isinstance(training, ckptkit.TrainingCheckpoint)
    assert training.directory == f"{tmp_path}/run"
    assert training.has_monitor
    assert [type(each) for each in others] == [ckptkit.ExportOnCompletion] * 2
    assert [each.path for each in others] == [f"{tmp_path}/a", f"{tmp_path}/b"]


def test_objects_that_a_file_cannot_say_reach_the_callbacks(read, monkeypatch):
    monkeypatch.setattr("ckptkit.callbacks.TrainingCheckpoint", lambda **given: given["callbacks"])
    monkeypatch.setattr("ckptkit.completion.ExportOnCompletion", lambda **given: given["input_signature"])
    config = read("training_checkpoint: {directory: a}\nexport_on_completion: [{path: a}, {path: b}]\n")
    assert config.callbacks(callbacks=["mine"], input_signature="rows") == [["mine"], "rows", "rows"]


def test_what_a_file_does_not_have_is_not_made(read):
    with pytest.raises(
        ConfigError, match="this configuration makes no manager: it has no section 'checkpoint_manager'"
    ):
        read("training_checkpoint: {directory: a}").manager(None)
    with pytest.raises(
        ConfigError, match="makes no callbacks: it has neither a section 'training_checkpoint' nor 'expo"
    ):
        read("checkpoint_manager: {directory: a, max_to_keep: 1}").callbacks()


# What each checkpoint says -----------------------------------------------------------------------------------------


def manager_of(directory, max_to_keep=5, **options):
    import tensorflow as tf

    return ckptkit.CheckpointManager(tf.train.Checkpoint(value=tf.Variable(0.0)), directory, max_to_keep, **options)


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_checkpoint_says_what_its_manager_was_made_with_and_a_restore_of_the_latest_what_is_other_today(
    tmp_path, caplog
):
    directory = tmp_path / "run"
    with manager_of(directory, save_policy=EverySteps(3), on_save_error="warn") as manager:
        manager.save(1)
    (record,) = manager.records()
    options = CheckpointManagerOptions(
        directory=str(directory), max_to_keep=5, save_policy=EverySteps(3), on_save_error="warn"
    )
    assert record.config == {"checkpoint_manager": options.effective()}
    assert manager_of(directory, 3, on_save_error="warn").restore_or_initialize() == record.prefix
    assert warnings_in(caplog) == [
        f"{directory} is gone on with another configuration than step 1 was saved with: "
        "max_to_keep 5 -> 3, save_policy 'EverySteps(n=3)' -> None."
    ]


def test_nothing_is_said_where_nothing_goes_on_or_nothing_has_changed(tmp_path, caplog):
    with manager_of(tmp_path / "run", save_policy=Own()) as manager:
        manager.save(1)
    os.rename(tmp_path / "run", tmp_path / "moved")
    manager_of(tmp_path / "moved", save_policy=Own() | Own()).restore()
    manager_of(tmp_path / "moved", 3).restore(1)
    manager_of(tmp_path / "moved", None, read_only=True).restore()
    assert warnings_in(caplog) == []


def test_a_fit_says_what_its_callback_was_made_with_and_a_resume_what_is_other_today(tmp_path, caplog):
    from tests.test_callbacks import fit, sequential

    callback = ckptkit.TrainingCheckpoint(tmp_path, save_freq="2 epochs", monitor="loss")
    fit(sequential(), callback, epochs=1)
    options = TrainingCheckpointOptions(directory=str(tmp_path), save_freq="2 epochs", monitor="loss")
    # What the metric says of itself is said in the checkpoint, too.
    assert callback.manager.records()[-1].config == {"training_checkpoint": {**options.effective(), "mode": "min"}}
    fit(sequential(), ckptkit.TrainingCheckpoint(tmp_path, save_freq=20, monitor="loss", mode="min"), epochs=2)
    assert [told for told in warnings_in(caplog) if "configuration" in told] == [
        f"{tmp_path} is gone on with another configuration than step 10 was saved with: "
        "save_freq 'EveryEpochs(n=2)' -> 'EverySteps(n=20)'."
    ]
