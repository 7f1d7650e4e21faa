"""worker_keys: each worker sees its own values in the place of the chief's, and nobody else's."""

from hypothesis import given
from hypothesis import strategies as st

from ckptkit.worker_keys import seen_by, worker_key


def test_a_worker_sees_its_own_and_the_chief_what_is_common():
    own = worker_key("_CKPTKIT/loop", 1, 2)
    assert own == "_CKPTKIT_WORKER/1-of-2/_CKPTKIT/loop"
    keys = ["_CKPTKIT/loop", "w", own]
    assert seen_by(keys, 1, 2) == {"_CKPTKIT/loop": own, "w": "w"}
    assert (
        seen_by(keys, 0, 2)
        == seen_by(keys, 2, 2)
        == seen_by(keys, 1, 3)
        == {"_CKPTKIT/loop": "_CKPTKIT/loop", "w": "w"}
    )


def test_what_only_a_worker_has_it_sees_and_no_other_does():
    keys = ["w", worker_key("more", 1, 2)]
    assert seen_by(keys, 1, 2) == {"w": "w", "more": "_CKPTKIT_WORKER/1-of-2/more"}
    assert seen_by(keys, 0, 2) == {"w": "w"}


def test_how_many_there_were_need_not_be_known():
    assert seen_by(["w", worker_key("w", 1, 2)], 1) == {"w": "_CKPTKIT_WORKER/1-of-2/w"}


@given(st.lists(st.text(), unique=True), st.integers(0, 3), st.integers(4, 9))
def test_every_key_is_found_again_whatever_it_looks_like(keys, index, count):
    names = {key: worker_key(key, index, count) for key in keys}
    assert seen_by(names.values(), index, count) == names
