"""Models of every kind that the artifact formats are to hold, with data to train and to ask them.

A module of its own, that other processes import: the custom classes are found here. Nothing runs at import, and nothing
of ckptkit is imported, so that it can be asked of a process without.
"""

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

IS_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") == "1"
if IS_LEGACY:
    import tf_keras as keras
    from tensorflow import nest as tree
else:
    import keras
    from keras import tree

layers = keras.layers

EXAMPLES, BATCH, BATCHES = 12, 4, (2, 5)


# Data: always the same ------------------------------------------------------------------------------------------------


def numbers(count, *shape, seed=0):
    """Return numbers in [0, 1)."""
    return np.random.default_rng(seed).random((count, *shape), "float32")


def words(count):
    """Return texts of two words."""
    known = np.array(["red green", "green blue", "blue red", "blue mauve"])
    return known[np.arange(count) % len(known)][:, None].astype(object)


# A user's own classes and functions -----------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("formats")
class TwoOfAKind(layers.Layer):
    """Two sub-layers of one type."""

    def __init__(self, units, **named):
        super().__init__(**named)
        self.units = units
        self.one, self.other = layers.Dense(units, activation="tanh"), layers.Dense(units)

    def build(self, shape):
        self.one.build(shape)
        self.other.build((*shape[:-1], self.units))
        self.built = True

    def call(self, inputs):
        return self.other(self.one(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("formats")
class OwnStep(keras.Model):
    """A subclass with a training step of its own, which halves the loss."""

    def __init__(self, units=3, **named):
        super().__init__(**named)
        self.units = units
        self.hidden, self.drop, self.answer = layers.Dense(units), layers.Dropout(0.5), layers.Dense(1)

    def build(self, shape):
        self.hidden.build(shape)
        self.drop.build((*shape[:-1], self.units))
        self.answer.build((*shape[:-1], self.units))
        self.built = True

    def call(self, inputs, training=False):
        return self.answer(self.drop(self.hidden(inputs), training=training))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred) / 2
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights))
        return self.compute_metrics(x, y, y_pred, None)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("formats")
def registered_loss(y_true, y_pred):
    """Be a loss that is registered."""
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1) + 0.25 * tf.abs(y_pred[..., 0])


def unregistered_loss(y_true, y_pred):
    """Be a loss that is found by custom_objects alone."""
    return 2.0 * registered_loss(y_true, y_pred)


@keras.saving.register_keras_serializable("formats")
class Largest(keras.metrics.Metric):
    """The largest error there was."""

    def __init__(self, scale=1.0, name="largest", **named):
        super().__init__(name=name, **named)
        self.scale, self.most = scale, self.add_weight(name="most", shape=(), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(tf.maximum(self.most, tf.reduce_max(tf.abs(y_true - y_pred)) * self.scale))

    def result(self):
        return self.most

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


# Models ---------------------------------------------------------------------------------------------------------------

# Most are trained eagerly: tracing a graph takes more than the few steps that they do. Three are not.


def sequential():
    """Dropout, BatchNormalization, and short names for loss and metric."""
    model = keras.Sequential(
        [
            keras.Input((4,), name="numbers"),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            layers.BatchNormalization(),
            layers.Dense(1, name="answer"),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


def several():
    """Several inputs and outputs, each with a name, a loss, a weight and metrics."""
    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    both = layers.Dense(6, activation="tanh")(layers.Concatenate()([left, right]))
    outputs = {
        "size": layers.Dense(1, name="size")(both),
        "kind": layers.Dense(3, activation="softmax", name="kind")(both),
    }
    model = keras.Model({"left": left, "right": right}, outputs)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        {"size": "mse", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"size": 0.3, "kind": 2.0},
        metrics={"kind": ["accuracy"]},
        weighted_metrics={"size": ["mae"]},
        run_eagerly=True,
    )
    return model


def nested():
    """One Sequential used twice; the inputs and outputs are lists."""
    shared = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dropout(0.25)], name="shared")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    total = layers.Add(name="total")([shared(left), shared(right)])
    answer = layers.Dense(1, name="answer")(total)
    model = keras.Model([left, right], [total, answer])
    model.compile("rmsprop", ["mse", "mae"], metrics=[["mae"], ["mse"]], run_eagerly=True)
    return model


def subclassed():
    """A subclass with a training step of its own."""
    model = OwnStep()
    model.build((None, 4))
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    return model


def own_layer():
    """Own layer, with two sub-layers of one type, in a functional model."""
    inputs = keras.Input((4,), name="numbers")
    model = keras.Model(inputs, layers.Dense(1, name="answer")(TwoOfAKind(3)(TwoOfAKind(5)(inputs))))
    model.compile("adagrad", "mse", steps_per_execution=2, jit_compile=False)
    return model


def recurrent():
    """Recurrent layers with two kinds of dropout."""
    inputs = keras.Input((5, 4), name="series")
    hidden = layers.LSTM(3, return_sequences=True, recurrent_dropout=0.3)(inputs)
    hidden = layers.Bidirectional(layers.GRU(2, dropout=0.2, recurrent_dropout=0.2))(hidden)
    model = keras.Model(inputs, layers.Dense(1, name="answer")(hidden))
    model.compile("adam", "mse", run_eagerly=True)
    return model


def mixed_precision():
    """Half precision inside, with a scaled loss; the answer is in full precision."""
    half = "mixed_float16"
    inputs = keras.Input((4,), name="numbers")
    hidden = layers.BatchNormalization(dtype=half)(layers.Dense(6, activation="relu", dtype=half)(inputs))
    model = keras.Model(inputs, layers.Dense(1, dtype="float32", name="answer")(hidden))
    wrapped = keras.mixed_precision.LossScaleOptimizer
    scaled = wrapped(keras.optimizers.Adam(), initial_scale=64.0, dynamic_growth_steps=2)
    model.compile(scaled, "mse", metrics=["mae"], run_eagerly=True)
    return model


def averaged():
    """A moving average of the weights, and a learning rate that falls."""
    falling = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.9)
    model = keras.Sequential([keras.Input((4,), name="numbers"), layers.Dense(3), layers.Dense(1, name="answer")])
    optimizer = keras.optimizers.AdamW(falling, weight_decay=0.01, use_ema=True, ema_overwrite_frequency=2)
    model.compile(optimizer, "huber", run_eagerly=True)
    return model


def accumulating():
    """Gradients of two steps in one; three steps an epoch, so that it is saved with one half done."""
    model = keras.Sequential([keras.Input((4,), name="numbers"), layers.Dense(3), layers.Dense(1, name="answer")])
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=2), "mse", run_eagerly=True)
    return model


def own_loss():
    """A loss and a metric of the user's, registered."""
    model = keras.Sequential([keras.Input((4,), name="numbers"), layers.Dense(1, name="answer")])
    model.compile("sgd", registered_loss, metrics=[Largest(scale=2.0)], run_eagerly=True)
    return model


def unregistered():
    """A loss that nobody registered."""
    model = keras.Sequential([keras.Input((4,), name="numbers"), layers.Dense(1, name="answer")])
    model.compile("sgd", unregistered_loss, run_eagerly=True)
    return model


def convolutional():
    """Images, with augmentation that draws random numbers."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="images"),
            layers.RandomFlip(),
            layers.Conv2D(4, 3, activation="relu"),
            layers.SpatialDropout2D(0.3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, name="answer"),
        ]
    )
    model.compile(keras.optimizers.Nadam(clipnorm=1.0), keras.losses.LogCosh(), metrics=["mae"], run_eagerly=True)
    return model


def textual():
    """Texts, by a vocabulary that it was made with."""
    inputs = keras.Input((1,), dtype="string", name="texts")
    looked_up = layers.StringLookup(vocabulary=["red green", "green blue", "blue red"])(inputs)
    hidden = layers.Flatten()(layers.Embedding(4, 3)(looked_up))
    model = keras.Model(inputs, layers.Dense(1, name="answer")(hidden))
    model.compile("adam", "mse", run_eagerly=True)
    return model


def adapted():
    """Texts, by a vocabulary that was learnt from them."""
    inputs = keras.Input((1,), dtype="string", name="texts")
    split = layers.TextVectorization(output_sequence_length=2)
    split.adapt(words(EXAMPLES))
    model = keras.Model(inputs, layers.Dense(1, name="answer")(layers.Flatten()(layers.Embedding(6, 3)(split(inputs)))))
    model.compile("adam", "mse", run_eagerly=True)
    return model


def quantized():
    """Whole numbers of eight bits for weights."""
    model = keras.Sequential([keras.Input((4,), name="numbers"), layers.Dense(8), layers.Dense(1, name="answer")])
    model.compile("adam", "mse")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layer InputLayer does not have a `quantize` method")
        model.quantize("int8")
    return model


def one_number(count):
    """Return data with one input and one number for an answer."""
    return numbers(count, 4), numbers(count, 1, seed=1)


def of_several(count):
    """Return data, with weights, for several inputs and outputs."""
    x = {"left": numbers(count, 4), "right": numbers(count, 2, seed=2)}
    y = {"size": numbers(count, 1, seed=3), "kind": np.arange(count) % 3}
    return x, y, {"size": numbers(count, seed=4), "kind": numbers(count, seed=5)}


def of_nested(count):
    """Return data in lists."""
    return [numbers(count, 4), numbers(count, 4, seed=2)], [numbers(count, 3, seed=3), numbers(count, 1, seed=4)]


def of_images(count, size=8):
    """Return images."""
    return numbers(count, size, size, 3), numbers(count, 1, seed=1)


def of_words(count):
    """Return texts."""
    return words(count), numbers(count, 1, seed=1)


@dataclass(frozen=True)
class Case:
    """A model, and how it is tried."""

    make: Callable[[], keras.Model]
    data: Callable[[int], tuple[Any, ...]] = one_number
    is_trained: bool = True
    without: tuple[str, ...] = ()  # formats that cannot hold it
    custom_objects: Mapping[str, Any] = field(default_factory=dict)


def application(name, without=(), **named):
    """Return one of keras.applications, small and untrained."""

    def make():
        images = keras.Input((32, 32, 3), name="images")
        model = getattr(keras.applications, name)(input_tensor=images, weights=None, classes=3, **named)
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        return model

    return Case(make, functools.partial(of_images, size=32), is_trained=False, without=without)


# Not of Keras 2: it has no such thing, or flips images by seeds in a kernel, or takes its time for what others show.
OF_KERAS_3 = ["gradient accumulation", "quantized", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0"]
OF_KERAS_3 += ["convolutional", "moving average", "unregistered loss", "own loss and metric", "texts", "recurrent"]
OF_KERAS_3 += ["mixed precision"]
CASES = {
    "sequential": Case(sequential),
    "several inputs and outputs": Case(several, of_several),
    "nested and shared": Case(nested, of_nested),
    "subclassed": Case(subclassed, without=("h5",)),
    "two sub-layers of one type": Case(own_layer),
    "recurrent": Case(recurrent, lambda count: (numbers(count, 5, 4), numbers(count, 1, seed=1))),
    "mixed precision": Case(mixed_precision),
    "moving average": Case(averaged),
    "gradient accumulation": Case(accumulating),
    "own loss and metric": Case(own_loss),
    "unregistered loss": Case(unregistered, custom_objects={"unregistered_loss": unregistered_loss}),
    "convolutional": Case(convolutional, of_images),
    "texts": Case(textual, of_words),
    "texts, learnt": Case(adapted, of_words, without=("h5", "json", "yaml")),
    "quantized": Case(quantized, is_trained=False),
    # The larger ones in fewer formats, for the time that takes.
    "MobileNetV2": application("MobileNetV2", alpha=0.35, without=("json", "yaml", "weights", "old name")),
    "MobileNetV3Small": application("MobileNetV3Small", without=("saved_model", "yaml", "old name")),
    "EfficientNetB0": application("EfficientNetB0", without=("saved_model", "json", "yaml", "weights", "old name")),
}
if IS_LEGACY:
    CASES = {name: case for name, case in CASES.items() if name not in OF_KERAS_3}


# What a model is and does ---------------------------------------------------------------------------------------------


def inputs_of(case, count):
    """Return inputs as tensors, in the structure of the model's."""
    return tree.map_structure(tf.convert_to_tensor, case.data(count)[0])


def trained(model, case, epochs):
    """Train a model on, always on the same data, and return what ``fit`` reports."""
    x, y, *weights = case.data(EXAMPLES)
    weights = weights[0] if weights else None
    data = {"sample_weight": weights, "batch_size": BATCH, "shuffle": False}
    if case.data is of_words:  # Keras takes no arrays of texts
        x = tf.convert_to_tensor(x)
    return model.fit(x, y, epochs=epochs, verbose=0, **data).history


def digest(value):
    """Return shape, dtype and content of an array or a variable in short."""
    value = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"


def weights_of(model):
    """Return the weights of a model; Keras 2 has vocabularies among them."""
    return [weight for weight in model.weights if hasattr(weight, "assign")]


def all_of(model):
    """Return all variables of a model; those of its seeds Keras 2 does not count among them."""
    if not IS_LEGACY:
        return list(model.variables)
    generators = [getattr(layer, "_random_generator", None) for layer in model._flatten_layers()]
    return [*weights_of(model), *(each._generator.state for each in generators if each and each._generator)]


def of_optimizer(optimizer):
    """Return all variables of an optimizer; Keras 2 does not count its learning rate and its loss scale among them."""
    if not IS_LEGACY:
        return list(optimizer.variables)
    rate = optimizer.learning_rate
    scale = [optimizer.loss_scale, optimizer.dynamic_counter] if hasattr(optimizer, "loss_scale") else []
    return [*optimizer.variables(), *([rate] if isinstance(rate, tf.Variable) else []), *scale]


def state_of(model):
    """Return all that an artifact is to bring back, as JSON has it."""
    is_compiled = model._is_compiled if IS_LEGACY else model.compiled
    optimizer = model.optimizer if is_compiled else None
    state = {
        "variables": digests(all_of(model)),
        "weights": digests(weights_of(model)),
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "optimizer variables": optimizer and digests(of_optimizer(optimizer)),
        "iterations": optimizer and int(optimizer.iterations),
        "compile config": model.get_compile_config() if is_compiled else None,
        "class": type(model).__name__,
        "layers": [type(layer).__name__ for layer in model._flatten_layers(include_self=False)],
    }
    return json.loads(json.dumps(state))


def answers_of(model, case, count):
    """Return what a model answers to a batch; it stays as it was, for recurrent layers draw random numbers at that."""
    before = [(variable, variable.numpy()) for variable in all_of(model)]
    answer = [np.asarray(leaf) for leaf in tree.flatten(model(inputs_of(case, count), training=False))]
    for variable, value in before:
        variable.assign(value)
    return answer


def digests(values):
    """Return the digests of arrays or variables."""
    return [digest(value) for value in values]


def outputs_of(model, case):
    """Return digests of what a model answers to batches of two sizes."""
    return [digests(answers_of(model, case, count)) for count in BATCHES]


def after_training(model, case):
    """Train an epoch on and return the state, what ``fit`` said, and the metrics that there are then."""
    history = trained(model, case, 1)
    metrics = [[type(metric).__name__, metric.name] for metric in model.metrics]
    return json.loads(json.dumps({"state": state_of(model), "history": history, "metrics": metrics}))
