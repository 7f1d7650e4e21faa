"""Pipeline: the seeds that a dataset's shuffles have drawn, and the facts about TensorFlow that this rests on."""

import itertools

import keras
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from ckptkit import randomness
from ckptkit.pipeline import Pipeline
from ckptkit.snapshot import inputs_of, pick_up_iterator, shuffles_in, stateful_operation

span = tf.data.Dataset.range
MIB = 2**20


@pytest.fixture(autouse=True)
def seeded():
    """Seed everything, and leave no seed to other tests."""
    eager = context.context()
    state, seed, generator = randomness.capture(), eager._seed, vars(eager).get("_rng")
    keras.utils.set_random_seed(1)
    yield
    eager._seed = seed
    vars(eager).pop("_rng", None)
    if generator is not None:
        eager._rng = generator
    randomness.reinstate(state)


@pytest.fixture
def unseeded(seeded):
    tf.random.set_seed(None)


def listed(iterable):
    return [batch.tolist() for batch in tf.data.Dataset.as_numpy_iterator(iterable)]


def drawn(iterator, count=None):
    return [batch.numpy().tolist() for batch in itertools.islice(iterator, count)]


def with_policy(dataset, name):
    options = tf.data.Options()
    options.experimental_external_state_policy = getattr(tf.data.experimental.ExternalStatePolicy, name)
    return dataset.with_options(options)


def noisy(x):
    return tf.cast(x, tf.float32) + tf.random.uniform([])


# What TensorFlow's private parts are --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: span(4).shuffle(4), "_ShuffleDataset"),
        (lambda: span(4).repeat(2), "_RepeatDataset"),
        (lambda: span(4).cache(), "CacheDataset"),
        (lambda: span(4).concatenate(span(4)), "_ConcatenateDataset"),
        (lambda: tf.data.Dataset.random(seed=3), "_RandomDataset"),
    ],
    ids=["shuffle", "repeat", "cache", "concatenate", "random"],
)
def test_tensorflow_names_the_datasets_so(make, name):
    kind = type(make()).__name__
    assert kind.lstrip("_") == name.lstrip("_")


def test_a_shuffle_tells_its_buffer_its_seeds_and_whether_it_reshuffles():
    shuffle = span(9).shuffle(tf.constant(5, tf.int64), seed=3)
    assert (int(shuffle._buffer_size), int(shuffle._seed), int(shuffle._seed2)) == (5, 1, 3)
    assert shuffle._reshuffle_each_iteration is not False
    assert span(9).shuffle(5, reshuffle_each_iteration=False)._reshuffle_each_iteration is False


@pytest.mark.usefixtures("unseeded")
def test_both_seeds_of_a_shuffle_are_zero_only_if_there_is_none():
    pairs = [(int(s._seed), int(s._seed2)) for s in (span(9).shuffle(5), span(9).shuffle(5, seed=0))]
    assert pairs[0] == (0, 0) != pairs[1]


def test_a_random_dataset_tells_its_seeds_and_whether_it_changes_them():
    dataset = tf.data.Dataset.random(seed=3, rerandomize_each_iteration=True)
    assert (int(dataset._seed), int(dataset._seed2), dataset._rerandomize) == (1, 3, True)


@pytest.mark.parametrize(("count", "stored"), [(None, -1), (-1, -1), (3, 3)])
def test_a_repeat_tells_its_count(count, stored):
    assert int(span(4).repeat(count)._count) == stored


def test_the_parts_of_a_dataset_come_in_the_order_they_are_gone_over():
    first, second = span(4).shuffle(4), span(4).shuffle(4)
    assert [part is first for part in inputs_of(first.concatenate(second))] == [True, False]


def test_each_iterator_that_is_made_draws_one_seed_even_if_no_batch_is_drawn_from_it():
    whole = span(30).shuffle(30)
    orders = [listed(whole) for _ in range(3)]
    keras.utils.set_random_seed(1)
    again = span(30).shuffle(30)
    iter(again)
    iter(again)
    assert listed(again) == orders[2] != orders[1]


def test_a_shuffle_below_another_draws_its_seed_with_the_first_batch():
    below = span(30).shuffle(30)
    orders = [listed(below) for _ in range(2)]
    keras.utils.set_random_seed(1)
    below = span(30).shuffle(30)
    above = iter(below.shuffle(2))
    iterator = iter(below)
    assert drawn(iterator) == orders[0]
    keras.utils.set_random_seed(1)
    below = span(30).shuffle(30)
    above = iter(below.shuffle(2))
    next(above)
    assert listed(below) == orders[1]


def test_a_shuffle_in_the_second_part_draws_its_seed_when_it_is_reached():
    second = span(30).shuffle(30)
    orders = [listed(second) for _ in range(2)]
    keras.utils.set_random_seed(1)
    second = span(30).shuffle(30)
    whole = span(2).concatenate(second)
    iter(whole)
    assert listed(second) == orders[0]
    listed(whole)
    assert listed(second) not in orders


@pytest.mark.parametrize(
    ("make", "batches", "alive"),
    [
        (lambda: span(400).shuffle(8), 1, 1),
        (lambda: span(400).shuffle(8).shuffle(4), 0, 1),
        (lambda: span(400).shuffle(8).shuffle(4), 1, 2),
        (lambda: span(8).shuffle(8).batch(2), 8, 0),
        (lambda: span(400), 3, 0),
    ],
    ids=["one", "two, no batch drawn", "two", "one at its end", "none"],
)
def test_a_position_has_each_shuffle_that_is_alive_once(make, batches, alive):
    iterator = iter(make())
    drawn(iterator, batches)
    assert shuffles_in(tf.io.serialize_tensor(pick_up_iterator(iterator)).numpy()) == alive


@pytest.mark.parametrize(("ask", "seeds"), [(False, 2), (True, 3)], ids=["all batches", "and the end"])
def test_a_repeat_makes_one_iterator_more_when_it_is_asked_for_a_batch_after_its_last(ask, seeds):
    shuffle = span(30).shuffle(30)
    orders = [listed(shuffle) for _ in range(4)]
    keras.utils.set_random_seed(1)
    shuffle = span(30).shuffle(30)
    given = tf.data.Options()
    given.autotune.enabled = False
    iterator = iter(shuffle.map(lambda x: x + 1).repeat(2).with_options(given))
    drawn(iterator, 60)
    assert not ask or next(iterator, None) is None
    assert listed(shuffle) == orders[seeds]


def test_tensorflow_says_which_operation_has_a_state_of_its_own():
    assert stateful_operation(span(9).shuffle(3)) is None
    assert "RandomUniform is stateful" in stateful_operation(span(9).map(noisy))


# What a pipeline is made of -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shuffles", "is_counted", "goes_over_once"),
    [
        (lambda: span(4), 0, True, True),
        (lambda: span(4).shuffle(4).batch(2).prefetch(1), 1, True, True),
        (lambda: span(4).shuffle(4).batch(2).shuffle(2), 2, True, True),
        (lambda: tf.data.Dataset.zip((span(4).shuffle(4), span(4).shuffle(4))), 2, True, True),
        (lambda: span(4).shuffle(4).concatenate(span(4).shuffle(4)), 2, True, True),
        (lambda: span(4).shuffle(4, reshuffle_each_iteration=False), 1, True, True),
        (lambda: span(4).shuffle(4).cache(), 1, True, True),
        (lambda: span(4).shuffle(4).cache().shuffle(4), 2, True, True),
        (lambda: span(4).shuffle(4).repeat(1), 1, True, True),
        (lambda: span(4).shuffle(4).repeat(3), 1, True, False),
        (lambda: span(4).shuffle(4).repeat(), 1, False, False),
        (lambda: span(4).repeat().shuffle(4), 1, True, True),
        (lambda: tf.data.Dataset.random(seed=3), 0, True, True),
        (lambda: tf.data.Dataset.random(seed=3, rerandomize_each_iteration=True).repeat(2), 0, False, False),
    ],
    ids=[
        "no shuffle",
        "one",
        "one below another",
        "zipped",
        "concatenated",
        "not reshuffled",
        "below cache",
        "below and above cache",
        "repeated once",
        "repeated",
        "repeated without end",
        "above an endless repeat",
        "random",
        "random, changed each time",
    ],
)
def test_a_pipeline_knows_its_shuffles(make, shuffles, is_counted, goes_over_once):
    pipeline = Pipeline(make())
    assert (pipeline.shuffles, pipeline.is_counted, pipeline.goes_over_once) == (shuffles, is_counted, goes_over_once)


@pytest.mark.parametrize(
    ("make", "is_seeded"),
    [
        (lambda: span(4), True),
        (lambda: span(4).shuffle(4), False),
        (lambda: span(4).shuffle(4, seed=0), True),
        (lambda: span(4).shuffle(4, seed=5).batch(2).shuffle(2).prefetch(1), False),
        (lambda: span(4).shuffle(4).cache(), False),
        (lambda: span(4).shuffle(4, reshuffle_each_iteration=False), False),
        (lambda: tf.data.Dataset.random(), False),
        (lambda: tf.data.Dataset.random(seed=3), True),
    ],
    ids=["no shuffle", "none", "zero", "one of two", "below cache", "not reshuffled", "random none", "random"],
)
@pytest.mark.usefixtures("unseeded")
def test_a_pipeline_knows_whether_every_shuffle_has_a_seed(make, is_seeded):
    assert Pipeline(make()).is_seeded is is_seeded


# Obstacles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "obstacle"),
    [
        (lambda: span(4).shuffle(4).concatenate(span(4).shuffle(4)), "a shuffle in the second part of concatenate()"),
        (lambda: span(4).shuffle(4).shuffle(2).repeat(2), None),
        (lambda: span(4).shuffle(4).repeat(2).shuffle(2), None),
        (lambda: span(4).shuffle(4).shuffle(2).repeat(1), None),
        (lambda: span(4).shuffle(4).concatenate(span(4)), None),
        (lambda: span(4).concatenate(span(4)).shuffle(4), None),
        (lambda: span(4).concatenate(span(4).shuffle(4, reshuffle_each_iteration=False)), None),
        (lambda: with_policy(span(4).shuffle(4), "IGNORE"), None),
        (lambda: with_policy(span(4).map(noisy), "FAIL"), None),  # TensorFlow says so when it is saved
        (lambda: span(4).shuffle(1000).batch(2), None),
    ],
    ids=[
        "second part",
        "repeat above both",
        "repeat between",
        "repeated once",
        "first part",
        "above",
        "not reshuffled",
        "ignore, nothing random",
        "fail",
        "small buffer",
    ],
)
def test_the_obstacle_is_named(make, obstacle):
    assert Pipeline(make()).obstacle(64 * MIB) == obstacle


@pytest.mark.parametrize("policy", ["IGNORE", "WARN"])
@pytest.mark.parametrize("outer", [False, True], ids=["last", "below batch"])
def test_a_policy_that_hides_state_is_seen_through(policy, outer):
    dataset = with_policy(span(20).shuffle(8).map(noisy), policy)
    dataset = dataset.batch(2) if outer else dataset
    assert "RandomUniform is stateful" in (Pipeline(dataset).obstacle(64 * MIB) or "")


@pytest.mark.parametrize(
    ("make", "mebibytes"),
    [
        (lambda: tf.data.Dataset.from_tensors(tf.zeros((256, 256))).shuffle(800), 201),
        (lambda: tf.data.Dataset.from_tensors({"x": (tf.zeros((256, 256)), tf.zeros((2,)))}).shuffle(800), 201),
        (lambda: tf.data.Dataset.from_tensors(tf.zeros((256, 256))).batch(2).shuffle(800), 201),
        (lambda: span(20).shuffle(100_000), 96),
        (lambda: span(20).shuffle(50_000).shuffle(50_000), 96),
        (lambda: span(20).shuffle(100_000, reshuffle_each_iteration=False), 96),
    ],
    ids=["arrays", "nested", "unknown batch", "many places", "two", "not reshuffled"],
)
def test_buffers_that_are_declared_larger_than_the_limit_are_an_obstacle(make, mebibytes):
    pipeline = Pipeline(make())
    assert pipeline.obstacle(64 * MIB) == f"the shuffle buffers hold up to {mebibytes} MiB, over the limit"
    assert pipeline.obstacle(1000 * MIB) is None


def test_a_buffer_as_large_as_the_data_does_not_make_another_smaller():
    dataset = tf.data.Dataset.from_tensors(tf.zeros((256, 256))).filter(lambda x: True)
    large, unknown = dataset.shuffle(300), tf.data.UNKNOWN_CARDINALITY
    assert Pipeline(large).obstacle(75 * MIB) is not None
    assert Pipeline(large.batch(300).shuffle(unknown)).obstacle(75 * MIB) is not None


# Seeds --------------------------------------------------------------------------------------------------------------

SHUFFLED = {
    "one": lambda: span(12).shuffle(12).batch(3),
    "one below another": lambda: span(12).shuffle(12).batch(3).shuffle(4),
    "three": lambda: span(12).shuffle(12).shuffle(12).batch(3).shuffle(4),
    "zipped": lambda: tf.data.Dataset.zip((span(12).shuffle(12), span(12).shuffle(5))).map(lambda a, b: a * 100 + b),
    "the same twice": lambda: (lambda s: tf.data.Dataset.zip((s, s.shuffle(4))).map(lambda a, b: a * 100 + b))(
        span(12).shuffle(12)
    ),
    "concatenated": lambda: span(12).shuffle(12).concatenate(span(12, 24).shuffle(12)).batch(3),
    "repeated": lambda: span(12).shuffle(12).shuffle(3).repeat(2).batch(3),
    "not reshuffled": lambda: span(12).shuffle(12, reshuffle_each_iteration=False).shuffle(3).batch(3),
    "below and above cache": lambda: span(12).shuffle(12).cache().shuffle(12).batch(3),
    "options": lambda: with_policy(span(12).shuffle(12).batch(3), "WARN").prefetch(1),
    "files": lambda: span(4).shuffle(4).interleave(lambda i: span(i * 10, i * 10 + 3)).shuffle(4).batch(3),
}


@pytest.mark.parametrize("name", SHUFFLED)
@pytest.mark.parametrize(
    "used", [[], [0], [1], [1, 0], [0, 0, 1, 0, 1, 0]], ids=["none", "unused", "used", "both", "several"]
)
@pytest.mark.slow
def test_advance_leaves_the_shuffles_as_iterators_of_the_pipeline_would(name, used):
    dataset = SHUFFLED[name]()
    before = [(iter(dataset), 0)[1] if not each else len(listed(dataset)) for each in used]
    expected = [listed(dataset) for _ in range(2)]
    keras.utils.set_random_seed(1)
    again = SHUFFLED[name]()
    Pipeline(again).advance(before)
    assert [listed(again) for _ in range(2)] == expected


SELDOM_REACHED = {
    "take above repeat": lambda: span(4).shuffle(4).repeat(2).take(2),
    "take above concatenate": lambda: span(4).concatenate(span(4, 40).shuffle(36)).take(4),
    "zip with a shorter one": lambda: tf.data.Dataset.zip((span(4).shuffle(4).repeat(9), span(6))).map(lambda a, b: a),
    "an incomplete cache": lambda: span(12).shuffle(12).cache().take(6),
    "shuffle_and_repeat": lambda: span(12).apply(tf.data.experimental.shuffle_and_repeat(12, 2)),
    "captured by a function": lambda: (lambda s: span(2).flat_map(lambda i: s))(span(12).shuffle(12)),
}


@pytest.mark.parametrize("name", SELDOM_REACHED)
def test_what_cannot_be_counted_is_known_not_to_be(name):
    assert not Pipeline(SELDOM_REACHED[name]()).is_counted


def test_the_shuffles_in_tf_1s_adapter_are_found():
    dataset = tf.compat.v1.data.Dataset.range(12).shuffle(12)
    expected = [listed(dataset) for _ in range(3)]
    keras.utils.set_random_seed(1)
    again = tf.compat.v1.data.Dataset.range(12).shuffle(12)
    Pipeline(again).advance([12])
    assert [listed(again) for _ in range(2)] == expected[1:]


@pytest.mark.parametrize("name", ["one below another", "three", "files"])
def test_catch_up_draws_the_seeds_of_the_first_batch(name):
    dataset = SHUFFLED[name]()
    listed(dataset)
    expected = listed(dataset)
    keras.utils.set_random_seed(1)
    again = SHUFFLED[name]()
    iter(again)
    Pipeline(again).catch_up()
    assert listed(again) == expected
