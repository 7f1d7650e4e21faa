"""What variables are called where they were made."""

from __future__ import annotations

import numpy as np
import pytest

from ckptkit.bundle import Bundle
from ckptkit.bundle_writer import BundleWriter
from ckptkit.variable_names import display_names, short_key, variable_names
from tests.checkpoint_dirs import flip
from tests.named_tensors import END, PLAIN, WHOLE, graph_of


def written(tmp_path, keys, **graphs):
    prefix = str(tmp_path / "x")
    with BundleWriter(prefix) as writer:
        for key in keys:
            writer.add(key, np.zeros(3))
        for key, content in graphs.items():
            writer.add(key, np.array(content, object))
    return prefix


def test_the_graph_of_objects_says_what_variables_are_called(tmp_path):
    names = {f"optimizer/_variables/0{END}": "adam/kernel_momentum", f"model/k{END}": "dense/kernel"}
    with Bundle(written(tmp_path, names, **{PLAIN: graph_of(names)})) as bundle:
        assert variable_names(bundle) == names


def test_the_graph_with_what_tensorflow_misses_comes_first(tmp_path):
    key = f"model/k{END}"
    graphs = {PLAIN: graph_of({key: "plain"}), WHOLE: graph_of({key: "whole"})}
    with Bundle(written(tmp_path, [key], **graphs)) as bundle:
        assert variable_names(bundle) == {key: "whole"}


@pytest.mark.parametrize(
    "graphs",
    [{}, {PLAIN: b"\xff\xff\xff"}, {PLAIN: graph_of({f"model/k{END}": ""})}],
    ids=["none", "no graph", "no names"],
)
def test_a_checkpoint_that_does_not_say_it_has_no_names(tmp_path, graphs):
    with Bundle(written(tmp_path, ["model/k"], **graphs)) as bundle:
        assert variable_names(bundle) == {}


def test_a_graph_that_is_no_text_or_several_has_no_names(tmp_path):
    prefix = str(tmp_path / "x")
    with BundleWriter(prefix) as writer:
        writer.add(PLAIN, np.array([b"a", b"b"], object))
        writer.add(WHOLE, np.zeros(()))
    with Bundle(prefix) as bundle:
        assert variable_names(bundle) == {}


def test_where_the_graph_is_damaged_keys_are_shown(tmp_path):
    prefix = written(tmp_path, [f"model/k{END}"], **{PLAIN: graph_of({f"model/k{END}": "dense/kernel"})})
    flip(str(tmp_path), "x.data-00000-of-00001", 40)
    with Bundle(prefix) as bundle:
        assert display_names(bundle) == {f"model/k{END}": "model/k", PLAIN: PLAIN}


def test_two_variables_of_one_name_are_told_apart_by_their_keys(tmp_path):
    names = {f"model/a{END}": "dense/kernel", f"model/b{END}": "dense/kernel", f"model/c{END}": "dense/bias"}
    with Bundle(written(tmp_path, names, **{PLAIN: graph_of(names)})) as bundle:
        shown = display_names(bundle)
    assert [shown[key] for key in names] == ["model/a", "model/b", "dense/bias"]


def test_a_name_that_is_anothers_key_is_no_name_to_show(tmp_path):
    names = {f"model/a{END}": "model/b"}
    with Bundle(written(tmp_path, [f"model/a{END}", f"model/b{END}"], **{PLAIN: graph_of(names)})) as bundle:
        shown = display_names(bundle)
    assert [shown[f"model/{at}{END}"] for at in "ab"] == ["model/a", "model/b"]


def test_a_key_loses_what_tensorflow_adds_to_it():
    assert short_key(f"model/kernel{END}") == "model/kernel"
    assert short_key("_CKPTKIT/run_state") == "_CKPTKIT/run_state"
