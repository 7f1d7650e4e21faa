"""The state of a model that Keras' own files leave out."""

import pytest

import ckptkit
from ckptkit.export.state import has_seeds_in_variables, no_weights, seeds_in_variables
from ckptkit.which_keras import IS_LEGACY, keras
from tests.format_models import digests

pytestmark = [pytest.mark.core, pytest.mark.skipif(not IS_LEGACY, reason="Keras 3 has all seeds in variables")]


@keras.saving.register_keras_serializable("tests")
class Drops(keras.layers.Layer):
    """Makes its own Dropout, of which no config tells how."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drop = keras.layers.Dropout(0.5)

    def build(self, shape):
        self.drop.build(shape)
        super().build(shape)

    def call(self, inputs, training=False):
        return self.drop(inputs, training=training)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("wanted", [True, False], ids=["in variables", "elsewhere"])
def test_layers_are_made_again_with_their_seeds_where_they_were(tmp_path, name, wanted):
    with seeds_in_variables(wanted):
        model = keras.Sequential([keras.layers.Input((4,)), Drops(), keras.layers.Dense(1)])
        ckptkit.save_model(model, tmp_path / name, verify=False)
    with seeds_in_variables(not wanted):
        loaded = ckptkit.load_model(tmp_path / name)
    assert len(no_weights(model)) == wanted
    assert digests(no_weights(loaded)) == digests(no_weights(model))


def test_a_file_of_keras_alone_is_read_as_layers_are_made_here(tmp_path):
    with seeds_in_variables(False):
        keras.Sequential([keras.layers.Input((4,)), Drops()]).save(tmp_path / "model.keras")
        assert no_weights(ckptkit.load_model(tmp_path / "model.keras")) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_the_setting_is_as_it_was_afterwards(wanted):
    before = has_seeds_in_variables()
    with seeds_in_variables(wanted):
        assert has_seeds_in_variables() == wanted
    assert has_seeds_in_variables() == before
