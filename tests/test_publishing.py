"""An artifact takes its place in one step: killed anywhere, the old one or the new one is there whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ckptkit.errors import ExportError
from ckptkit.export import publishing
from ckptkit.export.publishing import put_back, replaced
from tests.conftest import ROOT

# Writes a new artifact over an old one and dies before the n-th change of a name or of what is flushed.
DIES = """
import os, shutil, signal, sys
from ckptkit.export import publishing

path, kind, left, can_exchange = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
exchange = publishing._exchange

def dying(operation):
    def call(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*arguments, **named)
    return call

for owner, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "fsync"), (shutil, "rmtree")):
    setattr(owner, name, dying(getattr(owner, name)))
publishing._exchange = dying(exchange) if can_exchange else lambda one, other: False
publishing.put_back(path)
with publishing.replaced(path, overwrite=True) as temporary:
    if kind == "folder":
        os.mkdir(temporary)
        for name in ("a", "b"):
            open(os.path.join(temporary, name), "w").write("new")
    else:
        open(temporary, "w").write("new")
"""


def make(path, kind, content):
    if kind == "file":
        path.write_text(content)
    else:
        path.mkdir()
        for name in ("a", "b"):
            (path / name).write_text(content)


def content(path, kind):
    if kind == "file":
        return path.read_text()
    assert sorted(os.listdir(path)) == ["a", "b"]
    (one,) = {(path / name).read_text() for name in ("a", "b")}
    return one


@pytest.mark.parametrize(("kind", "can_exchange"), [("file", True), ("folder", True), ("folder", False)])
def test_a_kill_anywhere_leaves_the_old_one_or_the_new_one_whole_and_the_next_start_cleans_up(
    tmp_path, kind, can_exchange
):
    seen = []
    for left in range(1, 40):
        path = tmp_path / f"{left}" / "model.v1"
        path.parent.mkdir()
        make(path, kind, "old")
        arguments = [str(path), kind, str(left), str(can_exchange)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", DIES, *arguments], env=environment)
        put_back(str(path))
        seen.append(content(path, kind))
        if done.returncode == 0:
            assert os.listdir(path.parent) == ["model.v1"]
            break
        assert done.returncode == -signal.SIGKILL
        with replaced(str(path), overwrite=True) as temporary:
            make(Path(temporary), kind, "new")
        left_there = [name for name in os.listdir(path.parent) if ".new-" not in name]
        assert left_there == ["model.v1"], "what was killed has left something"
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert seen == sorted(seen, reverse=True), "it became new once"
    assert len(seen) > 3


def test_the_system_here_exchanges_two_names_in_one_step(tmp_path):
    make(tmp_path / "one", "folder", "1")
    make(tmp_path / "other", "file", "2")
    assert publishing._exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert content(tmp_path / "one", "file") == "2"
    assert content(tmp_path / "other", "folder") == "1"


def test_an_exchange_that_fails_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        publishing._exchange(str(tmp_path / "none"), str(tmp_path / "neither"))


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path):
    def fail():
        with replaced(str(tmp_path / "model"), overwrite=False) as temporary:
            make(Path(temporary), "folder", "new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert os.listdir(tmp_path) == []


def test_what_somebody_else_has_put_there_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "model"

    def write():
        with replaced(str(path), overwrite=False) as temporary:
            make(Path(temporary), "file", "new")
            make(path, "file", "theirs")

    with pytest.raises(ExportError, match="is there already"):
        write()
    assert content(path, "file") == "theirs"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("before", ["file", "folder", "link"])
@pytest.mark.parametrize("now", ["file", "folder"])
def test_anything_may_take_the_place_of_anything(tmp_path, before, now):
    path = tmp_path / "model"
    if before == "link":
        make(tmp_path / "target", "folder", "old")
        path.symlink_to(tmp_path / "target")
    else:
        make(path, before, "old")
    with replaced(str(path), overwrite=True) as temporary:
        make(Path(temporary), now, "new")
    assert content(path, now) == "new"
    assert before != "link" or content(tmp_path / "target", "folder") == "old"
    assert set(os.listdir(tmp_path)) <= {"model", "target"}


def test_what_is_written_is_hidden_under_its_own_name(tmp_path):
    with replaced(str(tmp_path / "a.weights.h5"), overwrite=False) as temporary:
        open(temporary, "w").close()
        assert os.path.basename(os.path.dirname(temporary)).startswith(".a.weights.h5.tmp-")
        assert os.path.basename(temporary) == "a.weights.h5"


def test_what_another_process_is_writing_is_not_swept(tmp_path):
    path = str(tmp_path / "model")
    with replaced(path, overwrite=True) as theirs:
        make(Path(theirs), "file", "theirs")
        with replaced(path, overwrite=True) as ours:
            make(Path(ours), "file", "ours")
        assert content(tmp_path / "model", "file") == "ours"
    assert content(tmp_path / "model", "file") == "theirs"


def test_nothing_is_put_back_over_what_is_there(tmp_path):
    make(tmp_path / "model", "file", "new")
    make(tmp_path / ".model.old-1", "file", "old")
    put_back(str(tmp_path / "model"))
    put_back(str(tmp_path / "none" / "model"))
    assert content(tmp_path / "model", "file") == "new"
