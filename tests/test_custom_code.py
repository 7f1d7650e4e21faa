"""A user's own classes: found in a model, looked for elsewhere, and named in errors."""

import pytest
import tensorflow as tf

import ckptkit
from ckptkit.export.custom_code import custom_objects_of, explained, homes_of, refuse_code, why_not_revived
from ckptkit.which_keras import IS_LEGACY, keras
from tests.conftest import ROOT
from tests.test_callbacks import Block, Blocks

pytestmark = pytest.mark.core


@keras.saving.register_keras_serializable(package="tests")
class Registered(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def own_activation(x):
    return x


def own_loss(y_true, y_pred):
    return tf.reduce_mean(y_true - y_pred)


class OwnMetric(keras.metrics.Mean):
    pass


class OwnInitializer(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **options):
        return tf.zeros(shape, dtype)


def model():
    layers = [
        keras.layers.Input((4,)),
        Registered(),
        keras.layers.Dense(2, activation=own_activation, kernel_initializer=OwnInitializer()),
        keras.layers.Dense(1),
    ]
    made = keras.Sequential(layers)
    made.compile("adam", own_loss, metrics=[OwnMetric(), "mae"])
    return made


def test_classes_and_functions_of_every_kind_are_found():
    found = custom_objects_of(model())
    expected = {each.__name__: each for each in (Registered, own_activation, own_loss, OwnMetric, OwnInitializer)}
    assert found == expected


def test_a_model_of_keras_own_has_none():
    made = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, "relu")])
    made.compile("adam", "mse", metrics=["mae", keras.metrics.AUC()])
    assert custom_objects_of(made) == {}


def test_layers_in_lists_of_a_subclassed_model_are_found():
    assert custom_objects_of(Blocks()) == {"Blocks": Blocks, "Block": Block}


def test_what_a_module_has_can_be_imported_by_another_process():
    homes = homes_of({"Block": Block, "own_loss": own_loss})
    assert homes == {
        "Block": ["tests.test_callbacks", "Block", str(ROOT)],
        "own_loss": [__name__, "own_loss", str(ROOT)],
    }


def test_what_is_made_in_a_function_or_in_main_cannot(monkeypatch):
    class Local:
        pass

    assert homes_of({"Local": Local}) is None
    monkeypatch.setattr(Block, "__module__", "__main__")
    assert homes_of({"Block": Block}) is None
    monkeypatch.setattr(Block, "__module__", "no.such.module")
    assert homes_of({"Block": Block}) is None


class Arguments(keras.layers.Layer):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.kept = (width, object())


class Described(Arguments):
    def get_config(self):
        return {**super(Arguments, self).get_config(), "width": 3}


class Closed(keras.layers.Layer):
    def __init__(self):
        super().__init__()


# Keras 2 gives it nothing to take.
CLOSED = (
    None if IS_LEGACY else r"Closed cannot be made again .* its __init__ does not take dtype, trainable: let it take"
)


class Forgets(Arguments):
    def get_config(self):
        return super(Arguments, self).get_config()


class Revives(Closed):
    @classmethod
    def from_config(cls, config):
        return cls()


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: Described(3), None),
        (lambda: Revives(), None),
        (lambda: Closed(), CLOSED),
        (
            lambda: Forgets(3),
            r"Forgets cannot be made again from its config, which lacks width: return what its __init__",
        ),
        (lambda: keras.layers.Dense(3), None),
    ],
    ids=["described", "revives", "closed", "forgets", "Keras"],
)
def test_a_class_that_cannot_be_made_again_is_named_with_what_to_do(layer, said):
    import re

    found = why_not_revived(keras.Sequential([keras.layers.Input((4,)), layer()]))
    assert found is None if said is None else re.match(said, found)


class Unknown(keras.layers.Layer):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Unknown, "Unknown"),
        (lambda: keras.layers.Dense(1, activation=own_activation), "own_activation"),
        (lambda: keras.layers.Dense(1, kernel_initializer=OwnInitializer()), "OwnInitializer"),
    ],
    ids=["layer", "function", "initializer"],
)
@pytest.mark.parametrize("is_sequential", [True, False], ids=["sequential", "functional"])
def test_what_is_missing_is_named_wherever_it_is(layer, name, is_sequential):
    inputs = keras.layers.Input((4,))
    made = keras.Sequential([inputs, layer()]) if is_sequential else keras.Model(inputs, layer()(inputs))
    text = ckptkit.model_to_json(made).replace(__name__, "no.such.module")
    with pytest.raises(ckptkit.ArtifactError, match=rf"needs '{name}', which is not Keras' own and not registered"):
        ckptkit.model_from_json(text)


@pytest.mark.parametrize(
    ("config", "is_refused"),
    [
        (
            {"layers": [{"class_name": "Lambda", "config": {"function": ["", None, None], "function_type": "lambda"}}]},
            True,
        ),
        ({"loss": {"class_name": "__lambda__", "config": {}}}, True),
        ({"layers": [{"class_name": "Lambda", "config": {"function": "relu", "function_type": "function"}}]}, False),
        (None, False),
    ],
    ids=["layer", "loss", "function", "nothing"],
)
def test_a_description_with_a_lambda_is_refused_in_the_words_of_keras(config, is_refused):
    refuse_code(config, False)
    if is_refused:
        with pytest.raises(ValueError, match="pass safe_mode=False to load it"):
            refuse_code(config, True)
    else:
        refuse_code(config, True)


def test_an_error_that_nobody_knows_keeps_its_first_line():
    with (
        pytest.raises(ckptkit.ArtifactError, match=r"^a.keras cannot be loaded: something broke$"),
        explained("a.keras"),
    ):
        raise RuntimeError("something broke\nand more")
