"""Scripts that train: what a run that is killed and started again has to end with, bit for bit.

Each case is a small ``model.fit`` as a user would write it. ``CASES[name]()`` is the script up to ``fit``: it sets the
seed and makes data, model and callbacks anew, as starting the script again does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from ckptkit.which_keras import IS_LEGACY, keras

ROWS, BATCH, STEPS, EPOCHS = 44, 4, 11, 4


@dataclass
class Script:
    """What ``fit`` is called with; where it does not say on what to validate, on the first rows.

    Attributes:
        model: Compiled.
        data: Its first arguments.
        options: Its further arguments.
        callbacks: The user's, beside ckptkit's.
        checkpoint: Options of ``TrainingCheckpoint``.
        fits: How many times ``fit`` is called.
        steps: Calls of the train function an epoch.
        epochs: Epochs that come to be done, in all calls together.
        reads_ahead: Whether a thread of Keras' draws random numbers ahead of the training, as many as it gets to: what
            they are afterwards is not the same in any two runs.
    """

    model: keras.Model
    data: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: list[keras.callbacks.Callback] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    fits: int = 1
    steps: int = STEPS
    epochs: int = EPOCHS
    reads_ahead: bool = False

    def __post_init__(self) -> None:
        rows: Any = dataset(9).batch(BATCH)
        if isinstance(self.data[0], np.ndarray):
            rows = tuple(tf.nest.map_structure(lambda array: array[:9], each) for each in self.data)
        validation = {} if "validation_split" in self.options else {"validation_data": rows}
        self.options = {"epochs": EPOCHS, "verbose": 0, **validation, **self.options}


@dataclass
class Loop:
    """A GradientTape loop over a dataset, and perhaps over a second one at each epoch's end.

    Attributes:
        model, optimizer: Saved with whatever is in ``more``.
        dataset: Gone over in each epoch.
        step_on: Takes a batch.
        validation: Gone over at each epoch's end, if it is there.
        validate_on: Takes a batch of it and returns a number.
        more: Further objects to save, by name.
        options: Further arguments of ``TrainingLoop``.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    dataset: Any
    step_on: Callable[..., Any]
    validation: Any = None
    validate_on: Callable[..., Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    epochs: int = EPOCHS


CASES: dict[str, Callable[[], Script | Loop]] = {}


def case(make: Callable[[], Any]) -> Callable[[], Any]:
    """Enter a script; its seed is set before it is called."""

    def started() -> Any:
        if IS_LEGACY:
            keras.backend.experimental.enable_tf_random_generator()  # else operations keep their state to themselves
        keras.utils.set_random_seed(7)
        return make()

    CASES[make.__name__] = started
    return started


def arrays(rows: int = ROWS, width: int = 6) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return inputs ``(rows, width) float32`` and targets ``(rows, 1) float32``, always the same."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, width)).astype("float32")
    return x, x.sum(axis=1, keepdims=True).astype("float32")


def dense(**options: Any) -> keras.Model:
    """Dropout, batch normalization, a metric: one of each kind of state."""
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **options})
    return model


def dataset(rows: int = ROWS) -> tf.data.Dataset:
    """Return the rows one by one."""
    return tf.data.Dataset.from_tensor_slices(arrays(rows))


# Inputs ---------------------------------------------------------------------------------------------------------------


@case
def arrays_shuffled() -> Script:
    return Script(dense(), arrays(), {"batch_size": BATCH})


@case
def arrays_shuffled_by_batch() -> Script:
    return Script(dense(), arrays(), {"batch_size": BATCH, "shuffle": "batch"})


@case
def arrays_with_validation_split_and_weights() -> Script:
    x, y = arrays(55)
    weights = np.linspace(0.5, 1.5, 55).astype("float32")
    options = {"batch_size": BATCH, "validation_split": 0.2, "sample_weight": weights}
    return Script(dense(weighted_metrics=["mae"]), (x, y), options)


@case
def class_weights() -> Script:
    x, y = arrays()
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dropout(0.2), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return Script(model, (x, (y[:, 0] > 0).astype("int32")), {"batch_size": BATCH, "class_weight": {0: 1.0, 1: 2.0}})


@case
def tf_data_shuffle_map_batch_prefetch() -> Script:
    data = dataset().shuffle(ROWS).map(lambda x, y: (x * 2.0, y), num_parallel_calls=2).batch(BATCH).prefetch(2)
    return Script(dense(), (data,), {"validation_data": dataset().batch(BATCH)})


@case
def tf_data_random_operations_in_map() -> Script:
    data = dataset().shuffle(16).map(lambda x, y: (x + tf.random.normal([6]), y)).batch(BATCH)
    return Script(dense(), (data,))


@case
def tf_data_interleaved_files_below_a_shuffle() -> Script:
    parts = tf.data.Dataset.range(4).shuffle(4)
    rows = parts.interleave(lambda part: dataset().shard(4, part), cycle_length=2, num_parallel_calls=2)
    return Script(dense(), (rows.shuffle(16).batch(BATCH).prefetch(1),))


@case
def tf_data_shuffle_inside_interleave() -> Script:
    parts = tf.data.Dataset.range(4)
    return Script(dense(), (parts.interleave(lambda part: dataset().shard(4, part).shuffle(11)).batch(BATCH),))


@case
def tf_data_repeated_with_steps_per_epoch() -> Script:
    data = dataset().shuffle(20).repeat().batch(BATCH)
    return Script(dense(), (data,), {"steps_per_epoch": 7}, steps=7)


@case
def tf_data_interleaved_and_repeated() -> Script:
    parts = tf.data.Dataset.range(4).shuffle(4)
    data = parts.interleave(lambda part: dataset().shard(4, part), cycle_length=2).shuffle(16).repeat().batch(BATCH)
    return Script(dense(), (data,), {"steps_per_epoch": 7}, steps=7)


@case
def tf_data_finite_over_several_epochs() -> Script:
    return Script(dense(), (dataset().shuffle(ROWS).repeat(3).batch(BATCH),), {"steps_per_epoch": 8}, steps=8)


@case
def tf_data_cached_below_a_shuffle() -> Script:
    return Script(dense(), (dataset().shuffle(ROWS).cache().shuffle(ROWS).batch(BATCH),))


@case
def tf_data_keras_layers_in_map() -> Script:
    noise = keras.layers.GaussianNoise(0.3)
    data = dataset().shuffle(ROWS).map(lambda x, y: (noise(x, training=True), y)).batch(BATCH)
    return Script(dense(), (data,))


@case
def training_and_validation_share_a_shuffle() -> Script:
    rows = dataset().shuffle(ROWS)
    return Script(dense(), (rows.take(32).batch(BATCH),), {"validation_data": rows.skip(32).batch(BATCH)}, steps=8)


@case
def validation_repeated_with_steps() -> Script:
    again = dataset(20).shuffle(20).repeat().batch(BATCH)  # left in its second pass
    return Script(dense(), arrays(), {"batch_size": BATCH, "validation_data": again, "validation_steps": 6})


class Rows(keras.utils.Sequence):
    """Shuffles itself at the end of each epoch, as many do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y = arrays()
        self.order = np.arange(ROWS)
        self.generator = np.random.default_rng(3)

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> Any:
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self) -> None:
        self.generator.shuffle(self.order)


@case
def py_dataset() -> Script:
    return Script(dense(), (Rows(),), {"validation_data": Rows()})


@case
def py_dataset_with_workers() -> Script:
    if IS_LEGACY:
        return Script(dense(), (Rows(),), {"workers": 2, "shuffle": False})
    return Script(dense(), (Rows(workers=2),))


def endless() -> Any:
    x, y = arrays()
    while True:
        rows = np.random.permutation(ROWS)[:BATCH]
        yield x[rows], y[rows]


@case
def python_generator() -> Script:
    return Script(dense(), (endless(),), {"steps_per_epoch": 6}, steps=6, reads_ahead=True)


INPUTS = set(CASES)  # these, loops and several fits are killed everywhere; all others are about something else


# Models ---------------------------------------------------------------------------------------------------------------


@case
def convolutions_and_augmentation() -> Script:
    images = np.random.default_rng(0).random((ROWS, 8, 8, 3)).astype("float32")
    labels = np.arange(ROWS) % 3
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8, 3)),
            keras.layers.RandomFlip(),
            keras.layers.RandomTranslation(0.2, 0.2),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Script(model, (images, labels), {"batch_size": BATCH, "validation_data": (images, labels)})


@case
def recurrent_dropout() -> Script:
    x = np.random.default_rng(0).random((ROWS, 5, 6)).astype("float32")
    inputs = keras.layers.Input((5, 6))
    hidden = keras.layers.GRU(4, dropout=0.2, recurrent_dropout=0.2)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("adam", "mse", metrics=["mae"])
    return Script(model, (x, x.sum(axis=(1, 2))), {"batch_size": BATCH, "validation_data": (x, x.sum(axis=(1, 2)))})


@case
def several_outputs() -> Script:
    x, y = arrays()
    inputs = keras.layers.Input((6,))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(8, "relu")(inputs))
    outputs = {"size": keras.layers.Dense(1, name="size")(hidden), "sign": keras.layers.Dense(1, name="sign")(hidden)}
    model = keras.Model(inputs, outputs)
    losses = {"size": "mse", "sign": "binary_crossentropy"}
    model.compile("adam", losses, loss_weights={"size": 1.0, "sign": 0.3}, metrics={"size": ["mae"], "sign": ["mse"]})
    return Script(model, (x, {"size": y, "sign": (y > 0).astype("float32")}), {"batch_size": BATCH})


class OwnStep(keras.Model):
    """Subclassed, with layers in a list, a train step, a metric and a seed of its own; not built when fit starts."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [keras.layers.Dense(6, "relu") for _ in range(2)]
        self.drop = keras.layers.Dropout(0.2)
        self.out = keras.layers.Dense(1)
        self.seed = tf.random.Generator.from_seed(5) if IS_LEGACY else keras.random.SeedGenerator(5)
        self.norm_tracker = keras.metrics.Mean(name="norm")

    def call(self, inputs: Any, training: bool = False) -> Any:
        for block in self.blocks:
            inputs = block(inputs)
        return self.out(self.drop(inputs, training=training))

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        if IS_LEGACY:
            x = x + self.seed.normal(tf.shape(x), stddev=0.01)
        else:
            x = x + keras.random.normal(tf.shape(x), stddev=0.01, seed=self.seed)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.norm_tracker.update_state(tf.linalg.global_norm(gradients))
        return {"loss": loss, "norm": self.norm_tracker.result()}

    @property
    def metrics(self) -> list[Any]:
        return [*super().metrics, self.norm_tracker]


@case
def own_train_step_and_not_built() -> Script:
    model = OwnStep()
    model.compile("adam", "mse")
    return Script(model, (dataset().shuffle(ROWS).batch(BATCH),))


@case
def sequential_without_input() -> Script:
    layers = [keras.layers.Dense(5, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse", metrics=["mae"])
    return Script(model, arrays(), {"batch_size": BATCH})


# Optimizers and ways to run -------------------------------------------------------------------------------------------


@case
def sgd_with_a_schedule() -> Script:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 5, 0.9)
    return Script(dense(optimizer=keras.optimizers.SGD(schedule, momentum=0.9)), arrays(), {"batch_size": BATCH})


@case
def averaged_weights() -> Script:
    optimizer = keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5)
    return Script(dense(optimizer=optimizer), arrays(), {"batch_size": BATCH})


@case
def averaged_weights_swapped_for_validation() -> Script:
    optimizer = keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9)
    x, y = arrays()
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    return Script(dense(optimizer=optimizer), (x, y), {"batch_size": BATCH, "validation_data": (x, y)}, swap)


@case
def accumulated_gradients() -> Script:
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)
    return Script(dense(optimizer=optimizer), arrays(), {"batch_size": BATCH})


@case
def scaled_loss_in_mixed_precision() -> Script:
    keras.mixed_precision.set_global_policy("mixed_float16")
    inner = keras.optimizers.Adam(0.01)
    optimizer = keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=2.0**20, dynamic_growth_steps=3)
    compiled = {"jit_compile": True} if IS_LEGACY else {}  # where lives are dear, one case is two
    return Script(dense(optimizer=optimizer, **compiled), arrays(), {"batch_size": BATCH})


@case
def four_steps_per_execution() -> Script:
    return Script(dense(steps_per_execution=4), arrays(), {"batch_size": BATCH}, steps=3)


@case
def compiled_by_xla() -> Script:
    return Script(dense(jit_compile=True), arrays(), {"batch_size": BATCH})


@case
def mirrored_on_two_devices() -> Script:
    cpu, two = tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    with tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]).scope():
        model = dense()
    x, y = arrays()
    return Script(model, (x, y), {"batch_size": BATCH, "validation_data": (x, y)})


@case
def run_eagerly() -> Script:
    x, y = arrays()
    return Script(dense(run_eagerly=True), (x, y), {"batch_size": BATCH, "validation_data": (x, y)})


@case
def saved_at_epochs_only() -> Script:
    x, y = arrays()
    return Script(dense(), (x, y), {"batch_size": BATCH}, checkpoint={"save_freq": "epoch"})


@case
def saved_in_the_background() -> Script:
    return Script(dense(), arrays(), {"batch_size": BATCH}, checkpoint={"async_save": True, "save_freq": 2})


@case
def a_first_epoch_is_given() -> Script:
    return Script(dense(), (dataset().shuffle(ROWS).batch(BATCH),), {"initial_epoch": 1}, epochs=3)


@case
def three_fits() -> Script:
    data = dataset().shuffle(ROWS).batch(BATCH)
    return Script(
        dense(), (data,), {"epochs": 2}, [keras.callbacks.ReduceLROnPlateau("loss", patience=1)], fits=3, epochs=6
    )


@case
def two_fits_over_a_stream() -> Script:
    options = {"steps_per_epoch": 7, "epochs": 2, "validation_data": dataset(20).shuffle(20).batch(BATCH).take(3)}
    data = dataset().shuffle(13).repeat().batch(BATCH)
    log, more, eagerly = keras.callbacks.CSVLogger("log.csv"), [], False
    if IS_LEGACY:  # where lives are dear, one case is several; and so are traces
        tf.random.set_global_generator(tf.random.Generator.from_seed(5))
        best = keras.callbacks.ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True)
        more, eagerly = [Draws(), best], True
    return Script(dense(run_eagerly=eagerly), (data,), options, [log, *more], fits=2, steps=7)


@case
def two_fits_over_what_shuffles_itself() -> Script:
    return Script(dense(), (Rows(),), {"epochs": 2, "validation_data": Rows()}, fits=2)


# Callbacks ------------------------------------------------------------------------------------------------------------


class Draws(keras.callbacks.Callback):
    """Has a state of its own, and draws from every global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._draw()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._draw()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._draw()
        logs["drawn"] = self.drawn[-1]

    def _draw(self) -> None:
        eager = float(tf.random.uniform([])) + float(tf.random.get_global_generator().uniform([]))
        of_keras = 0.0 if IS_LEGACY else float(keras.random.uniform([]))
        self.drawn.append(random.random() + np.random.random() + eager + of_keras)

    def get_state(self) -> dict[str, Any]:
        return {"drawn": np.array(self.drawn)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"].tolist()


@case
def every_global_generator_is_drawn_from() -> Script:
    tf.random.set_global_generator(tf.random.Generator.from_seed(5))
    return Script(dense(), arrays(), {"batch_size": BATCH}, [Draws()])


@case
def early_stopping_and_plateau() -> Script:
    x, y = arrays()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=0.5, restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.3)
    options = {"batch_size": BATCH, "validation_data": (x, y), "epochs": 9}
    return Script(dense(optimizer=keras.optimizers.Adam(0.05)), (x, y), options, [stop, plateau], epochs=7)


@case
def a_schedule_that_multiplies() -> Script:
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)
    return Script(dense(), arrays(), {"batch_size": BATCH}, [schedule])


@case
def a_log_and_the_best_file() -> Script:
    x, y = arrays()
    log = keras.callbacks.CSVLogger("log.csv")
    best = keras.callbacks.ModelCheckpoint("best.weights.h5", save_best_only=True, save_weights_only=True)
    return Script(dense(), (x, y), {"batch_size": BATCH, "validation_data": (x, y)}, [log, best])


# Loops ----------------------------------------------------------------------------------------------------------------


def loop(*, graph: bool, dataset: Any, validation: Any = None, **options: Any) -> Loop:
    """Return a loop with dropout, a tf.random.Generator and a running total."""
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dropout(0.3), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    generator = tf.random.Generator.from_seed(3)
    total = tf.Variable(0.0)

    def step_on(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            noise = generator.normal(tf.shape(x), stddev=0.1)
            loss = tf.reduce_mean((model(x + noise, training=True) - y) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        total.assign_add(loss)

    def validate_on(x: Any, y: Any) -> Any:
        return tf.reduce_mean((model(x, training=False) - y) ** 2)

    if graph:
        step_on, validate_on = tf.function(step_on), tf.function(validate_on)
    more = {"generator": generator, "total": total}
    return Loop(model, optimizer, dataset, step_on, validation, validate_on, more, options)


@case
def a_loop_in_graph_mode() -> Loop:
    return loop(graph=True, dataset=dataset().shuffle(ROWS).batch(BATCH).prefetch(2))


@case
def an_eager_loop_over_two_datasets() -> Loop:
    return loop(
        graph=False, dataset=dataset().shuffle(20).batch(BATCH), validation=dataset().shuffle(9).batch(7).take(3)
    )


@case
def a_loop_over_one_stream() -> Loop:
    data = dataset().shuffle(20).repeat().batch(BATCH)
    return loop(graph=True, dataset=data, validation=dataset().shuffle(9).batch(7).take(3), steps_per_epoch=STEPS)


@case
def a_loop_over_a_list() -> Loop:
    x, y = arrays()
    batches = [(x[at : at + BATCH], y[at : at + BATCH]) for at in range(0, ROWS, BATCH)]
    return loop(graph=True, dataset=batches)


@case
def a_loop_with_random_operations_in_map() -> Loop:
    return loop(graph=True, dataset=dataset().shuffle(9).map(lambda x, y: (x + tf.random.normal([6]), y)).batch(BATCH))


INPUTS |= {name for name in CASES if "_loop" in name or "_fits" in name}
