"""randomness: every global generator goes on as if nothing had been drawn since, and it is known which ones were."""

import random

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

import ckptkit
from ckptkit import finished_fits, randomness
from ckptkit.run_state import pack, unpack
from ckptkit.which_keras import IS_LEGACY, global_seed, keras, set_global_seed

if IS_LEGACY:
    from tf_keras.src import backend
else:
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

pytestmark = pytest.mark.core

KERAS = "global_seed_generator"
KERAS_SEED = "global_random_seed"


@pytest.fixture(autouse=True)
def untouched():
    """Put every global generator back as it was, seeds and absence included."""
    eager = context.context()
    python, numpy, keras_state = random.getstate(), np.random.get_state(), global_seed()
    keras_seed = None if IS_LEGACY else global_state.get_global_attribute(KERAS_SEED)
    tf_seed, tf_rng = eager._seed, vars(eager).get("_rng")
    tf_state, generator = None if tf_rng is None else tf_rng.getstate(), stateful_random_ops.global_generator
    yield
    set_global_seed(keras_state)
    random.setstate(python)
    np.random.set_state(numpy)
    if not IS_LEGACY:
        global_state.set_global_attribute(KERAS_SEED, keras_seed)
    eager._seed = tf_seed
    vars(eager).pop("_rng", None)
    if tf_rng is not None:
        tf_rng.setstate(tf_state)
        eager._rng = tf_rng
    stateful_random_ops.global_generator = generator
    finished_fits.forget()


@pytest.fixture(params=["seeded", "unseeded"])
def maybe_seeded(request):
    """Run a test with a seed set for everything, and in a process that has never set one."""
    without_generators()
    if request.param == "seeded":
        keras.utils.set_random_seed(7)
    return request.param == "seeded"


@pytest.fixture
def seeded():
    without_generators()
    keras.utils.set_random_seed(7)


def without_generators():
    """Bring the process to where it is after its imports."""
    set_global_seed(None)
    stateful_random_ops.global_generator = None
    vars(context.context()).pop("_rng", None)
    context.context()._seed = None


DRAWS = {
    "python": lambda: [random.random(), random.gauss(0, 1), random.randint(0, 9)],
    "numpy": lambda: np.random.standard_normal(3).tolist() + np.random.permutation(5).tolist(),
    "keras": lambda: (keras.initializers.RandomNormal() if IS_LEGACY else keras.random.normal)((3,)).numpy().tolist(),
    "tensorflow": lambda: [*tf.random.normal([2]).numpy().tolist(), *tf.random.shuffle(tf.range(9)).numpy().tolist()],
    "generator": lambda: tf.random.get_global_generator().normal([3]).numpy().tolist(),
}


def draw(names=tuple(DRAWS)):
    return {name: DRAWS[name]() for name in names}


# capture and reinstate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
def test_after_reinstate_a_generator_gives_the_same_numbers_again(seeded, name):
    DRAWS[name]()  # there is a generator, and it is not at its beginning
    state = randomness.capture()
    numbers = DRAWS[name]()
    assert DRAWS[name]() != numbers
    randomness.reinstate(state)
    assert DRAWS[name]() == numbers


@pytest.mark.parametrize("name", DRAWS)
def test_a_state_that_was_stored_gives_the_same_numbers_in_a_process_that_has_drawn_others(seeded, name):
    DRAWS[name]()
    values = pack(randomness.capture(), "random")
    numbers = DRAWS[name]()
    without_generators()
    keras.utils.set_random_seed(7)
    draw(("python", "numpy"))
    randomness.reinstate(unpack(values, "random"))
    assert DRAWS[name]() == numbers


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(DRAWS))), st.lists(st.sampled_from(sorted(DRAWS))))
def test_whatever_is_drawn_before_and_after_reinstate_is_the_identity(before, after):
    without_generators()
    keras.utils.set_random_seed(7)
    draw()
    draw(before)
    state = unpack(pack(randomness.capture(), "random"), "random")
    draw(after)
    randomness.reinstate(state)
    assert randomness.changed_since(state) == set()
    assert pack(randomness.capture(), "random").keys() == pack(state, "random").keys()


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_the_second_half_of_a_pair_of_normal_numbers_is_not_forgotten(seeded, name):
    one = {"python": lambda: random.gauss(0, 1), "numpy": np.random.standard_normal}[name]
    one()
    state = randomness.capture()
    numbers = [one(), one()]
    randomness.reinstate(unpack(pack(state, "random"), "random"))
    assert [one(), one()] == numbers


def test_capture_draws_from_nothing_and_makes_no_generator(maybe_seeded):
    python, numpy = random.getstate(), np.random.get_state()[1].tolist()
    state = randomness.capture()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (python, numpy)
    has_one = IS_LEGACY and maybe_seeded  # Keras 2 makes it when it is seeded
    assert (global_seed() is not None, state["keras"] is not None) == (has_one, has_one)
    assert stateful_random_ops.global_generator is None
    assert state.keys() == {"python", "numpy", "tensorflow", "keras"}
    assert state["tensorflow"].keys() == ({"operations"} if maybe_seeded else set())


def test_capture_is_a_copy_that_later_draws_do_not_change(seeded):
    draw()
    state = randomness.capture()
    before = pack(state, "random")
    kept = {name: np.copy(value) for name, value in before.items() if not isinstance(value, str)}
    draw()
    after = pack(state, "random")
    assert after["random"] == before["random"]
    assert all(np.array_equal(after[name], value) for name, value in kept.items())


def test_reinstate_makes_keras_generator_and_leaves_pythons_where_it_was(seeded):
    DRAWS["keras"]()
    state = randomness.capture()
    numbers = draw(("keras", "python"))
    set_global_seed(None)
    randomness.reinstate(state)
    assert draw(("keras", "python")) == numbers


def test_reinstate_makes_tensorflows_global_generator(seeded):
    DRAWS["generator"]()
    state = randomness.capture()
    numbers = DRAWS["generator"]()
    stateful_random_ops.global_generator = None
    randomness.reinstate(state)
    assert DRAWS["generator"]() == numbers


def test_where_there_was_no_keras_generator_the_next_one_is_made_anew(seeded):
    state = randomness.capture()
    numbers = DRAWS["keras"]()  # makes it, with a seed from Python's
    randomness.reinstate(state)
    assert DRAWS["keras"]() == numbers


def test_reinstate_of_a_seeded_state_where_no_seed_is_set_puts_back_the_rest(seeded):
    state = randomness.capture()
    numbers = draw(("python", "numpy"))
    without_generators()
    randomness.reinstate(state)
    assert randomness.changed_since(state) == {"tensorflow"}, "eager operations had a seed, and have none now"
    assert draw(("python", "numpy")) == numbers


def test_reinstate_of_an_unseeded_state_leaves_tensorflows_seeds_alone(seeded):
    without_generators()
    state = randomness.capture()
    keras.utils.set_random_seed(7)
    numbers = DRAWS["tensorflow"]()
    keras.utils.set_random_seed(7)
    randomness.reinstate(state)
    assert DRAWS["tensorflow"]() == numbers


@pytest.mark.parametrize("name", ["python", "numpy", "keras"])
def test_a_part_of_a_state_puts_back_that_part(seeded, name):
    draw()
    state = randomness.capture()
    numbers, others = DRAWS[name](), draw([other for other in DRAWS if other != name])
    randomness.reinstate({name: state[name]})
    assert DRAWS[name]() == numbers
    assert draw(others.keys()) != others


def test_an_empty_state_puts_nothing_back(maybe_seeded):
    random.random()
    state = randomness.capture()
    randomness.reinstate({})
    assert randomness.changed_since(state) == set()


# changed_since -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
def test_changed_since_names_what_was_drawn_from_and_nothing_else(seeded, name):
    draw()
    state = unpack(pack(randomness.capture(), "random"), "random")
    assert randomness.changed_since(state) == set()
    DRAWS[name]()
    assert randomness.changed_since(state) == {"tensorflow" if name == "generator" else name}


def test_changed_since_names_all_that_was_drawn_from(seeded):
    draw()
    state = randomness.capture()
    draw()
    assert randomness.changed_since(state) == {"python", "numpy", "keras", "tensorflow"}


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_a_single_number_drawn_is_a_change(seeded, name):
    state = randomness.capture()
    {"python": lambda: random.getrandbits(1), "numpy": lambda: np.random.bytes(1)}[name]()
    assert randomness.changed_since(state) == {name}


def test_a_kept_half_of_a_pair_that_was_used_is_a_change(seeded):
    random.gauss(0, 1)
    state = randomness.capture()
    random.gauss(0, 1)
    assert randomness.changed_since(state) == {"python"}


@pytest.mark.skipif(IS_LEGACY, reason="Keras 2 makes it when it is seeded")
def test_a_keras_generator_made_since_is_a_change_of_keras_and_of_python_which_gave_its_seed(seeded):
    state = randomness.capture()
    DRAWS["keras"]()
    assert randomness.changed_since(state) == {"keras", "python"}


def test_a_global_generator_made_since_is_a_change_of_tensorflow(maybe_seeded):
    state = randomness.capture()
    tf.random.get_global_generator()
    assert randomness.changed_since(state) == {"tensorflow"}


def test_a_keras_generator_that_is_gone_is_a_change(seeded):
    DRAWS["keras"]()
    state = randomness.capture()
    set_global_seed(None)
    assert randomness.changed_since(state) == {"keras"}


def test_a_seed_set_since_is_a_change_of_all_that_were_seeded(seeded):
    state = randomness.capture()
    keras.utils.set_random_seed(8)
    assert randomness.changed_since(state) == {"python", "numpy", "tensorflow", *(["keras"] if IS_LEGACY else [])}


# What Keras and TensorFlow keep in private ---------------------------------------------------------------------------


@pytest.mark.skipif(not IS_LEGACY, reason="of Keras 2")
def test_keras_2_seeds_a_generator_of_python_and_draws_from_it_alone(seeded):
    assert type(backend._SEED_GENERATOR.generator) is random.Random
    python, before = random.getstate(), global_seed()
    DRAWS["keras"]()
    assert random.getstate() == python
    assert global_seed() != before


@pytest.mark.skipif(IS_LEGACY, reason="of Keras 3")
def test_keras_keeps_its_global_generator_where_we_look_for_it():
    global_state.set_global_attribute(KERAS, None)
    generator = seed_generator.global_seed_generator()
    assert global_state.get_global_attribute(KERAS) is generator
    assert np.array_equal(global_seed(), generator.state)
    assert generator.state.shape == (2,)
    before = generator.state.numpy()
    keras.random.normal((1,))
    assert not np.array_equal(generator.state.numpy(), before)


@pytest.mark.skipif(IS_LEGACY, reason="of Keras 3")
def test_keras_draws_the_seed_of_a_generator_from_pythons():
    global_state.set_global_attribute(KERAS, None)
    random.seed(3)
    seed_generator.global_seed_generator()
    after = random.getstate()
    random.seed(3)
    seed_generator.make_default_seed()
    assert random.getstate() == after


@pytest.mark.skipif(IS_LEGACY or keras.__version__ < "3.13", reason="Keras does so since 3.13")
def test_keras_set_random_seed_drops_its_global_generator():
    seed_generator.global_seed_generator()
    keras.utils.set_random_seed(1)
    assert global_seed() is None


def test_tensorflow_draws_the_seeds_of_eager_operations_from_a_generator_of_python():
    tf.random.set_seed(5)
    generator = context.context()._rng
    assert isinstance(generator, random.Random)
    state = generator.getstate()
    tf.random.normal([1])
    after = generator.getstate()
    assert after != state
    generator.setstate(state)
    context.context()._internal_operation_seed()
    assert generator.getstate() == after, "one operation draws one seed"


def test_tensorflow_has_no_seeds_for_operations_before_one_is_set(run_fork):
    code = "import tensorflow as tf; from ckptkit import randomness; print(sorted(randomness.capture()['tensorflow']))"
    assert run_fork("-c", code).strip() == "[]"


def test_an_operation_that_ran_with_the_same_seeds_does_not_go_on_where_it_was(seeded):
    state = randomness.capture()
    once = tf.random.normal([4]).numpy().tolist()
    for _ in range(3):
        randomness.reinstate(state)
        assert tf.random.normal([4]).numpy().tolist() == once


def test_tensorflow_keeps_its_global_generator_where_we_look_for_it():
    stateful_random_ops.global_generator = None
    assert tf.random.get_global_generator() is stateful_random_ops.global_generator


# In model.fit --------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).random((24, 3)).astype("float32")
STEPS = 6
POLICY = ckptkit.policies.EverySteps(4) | ckptkit.policies.EveryEpochs()


class BreakOff(Exception):
    """What ends a fit in these tests as a kill would."""


class Draws(keras.callbacks.Callback):
    """Draws from all generators in each of its hooks, and breaks off after some steps."""

    def __init__(self, break_off_after=-1):
        super().__init__()
        self.left, self.epoch, self.numbers = break_off_after, 0, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.numbers[epoch, "begin"] = draw()

    def on_train_batch_end(self, batch, logs=None):
        self.numbers[self.epoch, batch] = draw()
        self.left -= 1
        if self.left == 0:
            raise BreakOff

    def on_epoch_end(self, epoch, logs=None):
        self.numbers[epoch, "end"] = draw()


def run(directory, callback):
    without_generators()
    finished_fits.forget()
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False, run_eagerly=IS_LEGACY)  # a trace of Keras 2 is dear
    tf.random.set_global_generator(tf.random.Generator.from_seed(3))
    checkpoints = ckptkit.TrainingCheckpoint(directory, save_freq=POLICY, async_save=False, durable=False)
    model.fit(X, X[:, :1], batch_size=4, epochs=2, verbose=0, callbacks=[checkpoints, callback])
    finished_fits.forget()
    return model, callback.numbers


@pytest.mark.parametrize(
    ("after_steps", "place"), [(5, (0, 4)), (STEPS + 1, (1, 0)), (STEPS + 3, (1, 2))], ids=["mid-epoch", "end", "later"]
)
@pytest.mark.slow
def test_a_callback_that_draws_goes_on_with_the_same_numbers_after_a_resume(tmp_path, after_steps, place):
    model, whole = run(tmp_path / "whole", Draws())
    with pytest.raises(BreakOff):
        run(tmp_path / "run", Draws(after_steps))
    resumed_model, resumed = run(tmp_path / "run", Draws())
    epoch, batch = place
    if batch:  # drawn when the epoch began anew, and forgotten
        del resumed[epoch, "begin"]
    assert next(iter(resumed)) == (epoch, batch or "begin")
    assert resumed == {key: whole[key] for key in resumed}
    for one, other in zip(resumed_model.weights, model.weights):
        assert np.array_equal(one, other)
