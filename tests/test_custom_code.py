"""A user's own classes: found in a model, looked for elsewhere, and named in errors."""

import keras
import pytest

import ckptkit
from ckptkit.export.custom_code import custom_objects_of, explained, homes_of, why_not_revived
from tests.conftest import ROOT
from tests.test_callbacks import Block, Blocks


@keras.saving.register_keras_serializable(package="tests")
class Registered(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def own_activation(x):
    return x


def own_loss(y_true, y_pred):
    return keras.ops.mean(y_true - y_pred)


class OwnMetric(keras.metrics.Mean):
    pass


class OwnInitializer(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **options):
        return keras.ops.zeros(shape, dtype)


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


class Revives(Closed):
    @classmethod
    def from_config(cls, config):
        return cls()


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: Described(3), None),
        (lambda: Revives(), None),
        (lambda: Closed(), r"Closed cannot be made again .* its __init__ does not take dtype, trainable: let it take"),
        (lambda: keras.layers.Dense(3), None),
    ],
    ids=["described", "revives", "closed", "Keras"],
)
def test_a_class_that_cannot_be_made_again_is_named_with_what_to_do(layer, said):
    import re

    found = why_not_revived(keras.Sequential([keras.layers.Input((4,)), layer()]))
    assert found is None if said is None else re.match(said, found)


def test_an_error_that_nobody_knows_keeps_its_first_line():
    with (
        pytest.raises(ckptkit.ArtifactError, match=r"^a.keras cannot be loaded: something broke$"),
        explained("a.keras"),
    ):
        raise RuntimeError("something broke\nand more")
