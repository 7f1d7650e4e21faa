"""The manifest and what is made of it: what goes in comes out, and whatever else is in the file is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pickle
import re
import time
from contextlib import suppress
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptkit.records import (
    CheckpointRecord,
    Manifest,
    ManifestError,
    NewerManifestError,
    TensorInfo,
    split_number,
)

pytestmark = pytest.mark.core

counts = st.integers(0, 2**63)
floats = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=50).filter(
    lambda name: "/" not in name and "\0" not in name and name not in (".", "..")
)
metrics = st.dictionaries(st.text(), st.floats())
tensors = st.builds(TensorInfo, st.text(), st.text(), st.lists(counts).map(tuple), counts)
strict_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | floats | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def manifests(draw):
    name = draw(names)
    shards = draw(st.lists(counts, max_size=3))
    files = {f"{name}.data-{i:05d}-of-{len(shards):05d}": size for i, size in enumerate(shards)}
    return Manifest(
        name=name,
        step=draw(counts),
        sequence=draw(counts),
        created_at=draw(floats),
        files={**files, f"{name}.index": draw(counts)},
        index_crc32c=draw(st.integers(0, 2**32 - 1)),
        run_id=draw(st.text()),
        epoch=draw(st.none() | counts),
        batch=draw(st.none() | counts),
        metrics=draw(metrics),
        best=draw(metrics),
        config=draw(st.dictionaries(st.text(), strict_json, max_size=3)),
        found_damaged=draw(st.dictionaries(st.text(), counts, max_size=3)),
        versions=draw(st.dictionaries(st.text(), st.text())),
        seconds=draw(st.dictionaries(st.text(), floats)),
        tensors=tuple(draw(st.lists(tensors, max_size=3))),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**400, 10**401) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def valid(**changes):
    """A manifest's JSON object with some fields replaced, and without checksums; ``...`` takes one out."""
    manifest = Manifest(
        name="ckpt-7",
        step=7,
        sequence=3,
        created_at=1.5,
        files={"ckpt-7.data-00000-of-00001": 40, "ckpt-7.index": 2},
        index_crc32c=9,
        run_id="r",
        epoch=1,
        batch=2,
        metrics={"loss": 0.5},
        best={"loss": 0.25},
        config={"max_to_keep": 3},
        found_damaged={"ckpt-5": 2},
        versions={"tensorflow": "2.21.0"},
        seconds={"written": 0.1},
        tensors=(TensorInfo("kernel", "float32", (2, 5), 40),),
    )
    raw = {**json.loads(manifest.to_json()), "crc32c": ..., "tensors_crc32c": ..., **changes}
    return {key: value for key, value in raw.items() if value is not ...}


MANIFEST = dataclasses.replace(Manifest.from_json(json.dumps(valid())), metrics={"loss": math.nan, "acc": 1e-7})


def told_apart(manifest):
    """A manifest as something that equals itself even where it holds NaN, and tells 0.0 from -0.0."""
    facts = dataclasses.asdict(manifest)
    for key in ("metrics", "best", "seconds"):
        facts[key] = {name: repr(value) for name, value in facts[key].items()}
    return facts


def record(step, **metrics):
    return CheckpointRecord(prefix=f"run/ckpt-{step}", step=step, metrics=metrics)


# The manifest ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(manifests())
def test_a_manifest_comes_back_from_json_as_it_was(manifest):
    text = manifest.to_json()
    assert told_apart(Manifest.from_json(text)) == told_apart(manifest)
    assert told_apart(Manifest.from_json(text.encode())) == told_apart(manifest)


@settings(deadline=None)
@given(manifests())
def test_a_manifest_is_strict_json_that_any_reader_takes(manifest):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    raw = json.loads(manifest.to_json(), parse_constant=refuse)
    assert raw["format"] == 1
    assert list(raw)[-1] == "tensors"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324], ids=repr)
def test_a_metric_that_json_has_no_number_for_comes_back_as_it_was(value):
    manifest = dataclasses.replace(Manifest.from_json(json.dumps(valid())), metrics={"m": value}, best={"m": value})
    again = Manifest.from_json(manifest.to_json())
    assert repr(again.metrics["m"]) == repr(again.best["m"]) == repr(value)


def test_a_manifest_holds_its_tensors_a_line_each():
    rows = tuple(TensorInfo(f"k{i}", "float32", (i,), 4 * i) for i in range(3))
    text = dataclasses.replace(Manifest.from_json(json.dumps(valid())), tensors=rows).to_json()
    assert text.splitlines()[-5:-2] == [
        '    ["k0", "float32", [0], 0],',
        '    ["k1", "float32", [1], 4],',
        '    ["k2", "float32", [2], 8]',
    ]


@st.composite
def nearly_manifests(draw):
    """Bytes of a good manifest, cut short, altered in one place or with anything in one field."""
    text = json.dumps(valid()).encode()
    at = draw(st.integers(0, len(text) - 1))
    altered = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    field = draw(st.sampled_from([*valid(), "another"]))
    other = json.dumps(valid(**{field: draw(json_values)})).encode()
    return draw(st.sampled_from([text[:at], altered, other]))


@settings(deadline=None, max_examples=400)
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()) | nearly_manifests())
@example(b"[" * 100_000)
@example(b'{"format":' * 100_000)
@example(b"\xff\xfe{")
@example(b"9" * 5_000)
def test_whatever_bytes_a_manifest_holds_it_is_read_or_refused_with_manifest_error(content):
    with suppress(ManifestError):
        manifest = Manifest.from_json(content)
        assert f"{manifest.name}.index" in manifest.files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value"),
        ('{"format": 1', "not JSON: "),
        (b"\xff", "not JSON: .*can't decode"),
        ("[" * 100_000, "not JSON: .*recursion"),
        ("9" * 5_000, "not JSON: "),
        ("[1]", "expected a JSON object, got list"),
        ("null", "expected a JSON object, got NoneType"),
        ("{}", "^field 'format' is a NoneType$"),
        ('{"format": "1"}', "^field 'format' is a str$"),
        ('{"format": 0}', "^format 0, this ckptkit reads format 1$"),
        (
            '{"format": 2}',
            "^written by a newer ckptkit in format 2, and this one reads format 1: upgrade ckptkit to use it$",
        ),
    ],
    ids=[
        "empty",
        "cut short",
        "not utf-8",
        "too deep",
        "too long a number",
        "list",
        "null",
        "no format",
        "a format in quotes",
        "no format of ours",
        "newer",
    ],
)
def test_a_file_that_is_no_manifest_is_refused_and_told_why(text, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(text)


def test_a_manifest_is_read_or_refused_however_deep_it_is():
    # What JSON's reader just takes may be too deep for whoever prints it.
    for depth in range(800, 1010):
        deep = "[" * depth + "]" * depth
        for changed in (valid(versions={"a": "DEEP"}), valid(files={"ckpt-7.index": "DEEP"})):
            with suppress(ManifestError):
                Manifest.from_json(json.dumps(changed).replace('"DEEP"', deep))


@pytest.mark.parametrize(("found", "newer"), [("2", True), ("0", False), ('"2"', False), ("null", False)])
def test_a_manifest_of_a_newer_format_is_told_from_one_of_none(found, newer):
    with pytest.raises(ManifestError, match="format") as caught:
        Manifest.from_json(f'{{"format": {found}}}')
    assert isinstance(caught.value, NewerManifestError) is newer


OPTIONAL = ("epoch", "batch", "config", "found_damaged", "workers")


@pytest.mark.parametrize("field", [f for f in valid() if f not in ("format", *OPTIONAL)])
def test_a_missing_field_is_named(field):
    with pytest.raises(ManifestError, match=f"^no field '{field}'$"):
        Manifest.from_json(json.dumps(valid(**{field: ...})))


@pytest.mark.parametrize(("field", "value"), [("config", {}), ("found_damaged", {}), ("workers", 1)])
def test_a_manifest_of_before_a_field_was_stored_has_none_of_it(field, value):
    assert getattr(Manifest.from_json(json.dumps(valid(**{field: ...}))), field) == value


@pytest.mark.parametrize("field", ["epoch", "batch"])
def test_a_manifest_without_epoch_or_batch_has_none(field):
    assert getattr(Manifest.from_json(json.dumps(valid(**{field: ...}))), field) is None
    assert getattr(Manifest.from_json(json.dumps(valid(**{field: None}))), field) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 7}, "^field 'name' is a int$"),
        ({"step": "7"}, "^field 'step' is a str$"),
        ({"step": 7.0}, "^field 'step' is a float$"),
        ({"step": True}, "^field 'step' is a bool$"),
        ({"step": -1}, "^field 'step' is negative: -1$"),
        ({"sequence": -1}, "^field 'sequence' is negative: -1$"),
        ({"index_crc32c": -1}, "^field 'index_crc32c' is negative: -1$"),
        ({"epoch": -1}, "^field 'epoch' is negative: -1$"),
        ({"step": 2**64}, "^field 'step' is beyond 64 bits$"),
        ({"sequence": 10**4000}, "^field 'sequence' is beyond 64 bits$"),
        ({"batch": "2"}, "^field 'batch' is a str$"),
        ({"created_at": False}, "^field 'created_at' is a bool$"),
        ({"created_at": 10**400}, "too large"),
        ({"metrics": [1]}, "^field 'metrics' is a list$"),
        ({"metrics": {"loss": "low"}}, "could not convert string to float: 'low'"),
        ({"metrics": {"loss": None}}, "NoneType"),
        ({"best": {"loss": [1]}}, "unhashable"),
        ({"found_damaged": ["ckpt-5"]}, "^field 'found_damaged' is a list$"),
        ({"found_damaged": {"ckpt-5": "2"}}, "^field 'ckpt-5' is a str$"),
        ({"found_damaged": {"ckpt-5": -2}}, "^field 'ckpt-5' is negative: -2$"),
        ({"seconds": {"written": 10**400}}, "too large"),
        ({"versions": "2.21"}, "^field 'versions' is a str$"),
        ({"run_id": None}, "^field 'run_id' is a NoneType$"),
        ({"tensors": {}}, "^field 'tensors' is a dict$"),
        ({"tensors": [["kernel", "float32"]]}, "not enough values to unpack"),
        ({"tensors": [["kernel", "float32", ["x"], 4]]}, "invalid literal for int"),
        ({"tensors": [["kernel", "float32", [math.inf], 4]]}, "cannot convert float infinity"),
        ({"tensors": [7]}, "^a row of tensors is a int$"),
        ({"files": {}}, "^no ckpt-7.index among its files$"),
        ({"files": {"ckpt-7.index": -2}}, "^size of 'ckpt-7.index' is -2$"),
        ({"files": {"ckpt-7.index": 2.0}}, "^size of 'ckpt-7.index' is 2.0$"),
        ({"files": {"ckpt-7.index": True}}, "^size of 'ckpt-7.index' is True$"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_field_that_says_something_impossible_is_named(changes, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(valid(**changes)))


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../ckpt-7", "a/b", "ckpt-7/", "ckpt\0-7"], ids=repr)
def test_a_name_that_leaves_the_directory_is_refused(name):
    raw = valid(name=name, files={f"{name}.index": 2})
    with pytest.raises(ManifestError, match=re.escape(f"{name!r} is not a plain file name")):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    "file",
    [
        "../ckpt-7.index",
        "/etc/passwd",
        "ckpt-7/../../x.index",
        "ckpt-8.index",
        "checkpoint",
        "ckpt-7.manifest.json",
        "ckpt-70.index",
        "ckpt-7.data-00000-of-00001/../../x",
        "ckpt-7.data-00000-of-00001\n",
        "ckpt-7.data-0-of-1",
        "ckpt-70.data-00000-of-00001",
        "ckpt-7/../../x.data-00000-of-00001",
        "ckpt-7",
        "",
    ],
    ids=repr,
)
def test_a_file_that_is_not_the_checkpoints_own_is_refused(file):
    raw = valid(files={"ckpt-7.index": 2, file: 1})
    with pytest.raises(ManifestError, match=re.escape(f"file {file!r} does not belong to checkpoint 'ckpt-7'")):
        Manifest.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, "^'x{40}'… is too long for a file name$"),
        ("é" * 130, "^'é{40}'… is too long for a file name$"),
        ("x" * 240, "^'x{40}'… is too long for a file name$"),  # with the ending of a shard
        ("ckpt\ud800-7", "surrogates not allowed"),
    ],
    ids=["long", "long in bytes", "long with its ending", "half a character"],
)
def test_a_name_that_no_file_can_have_is_refused(name, message):
    raw = valid(name=name, files={f"{name}.index": 2, f"{name}.data-00000-of-00001": 1})
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(raw))


@settings(deadline=None)
@given(st.text() | st.sampled_from(["..", "/", "a/..", "\0"]), st.text())
def test_no_name_that_is_read_reaches_out_of_its_directory(name, file):
    raw = valid(name=name, files={f"{name}.index": 2, f"{name}{file}": 1})
    try:
        manifest = Manifest.from_json(json.dumps(raw))
    except ManifestError:
        return
    for each in (manifest.name, *manifest.files):
        assert os.path.dirname(os.path.normpath(os.path.join("/run", each))) == "/run"


class Sparse(io.BytesIO):
    """A file that is as large as it says, and must not be read."""

    def seek(self, offset, whence=os.SEEK_SET):
        return 2**40 if whence == os.SEEK_END else super().seek(offset, whence)

    def read(self, size=-1):
        raise AssertionError("read")


@pytest.mark.parametrize("read", [Manifest.read, Manifest.read_head], ids=["whole", "head"])
def test_a_file_too_large_for_a_manifest_is_refused_before_anything_of_it_is_read(read):
    with pytest.raises(ManifestError, match=f"^{2**40} bytes are too many, a manifest has {64 << 20} at most$"):
        read(Sparse())


# The head of a manifest --------------------------------------------------------------------------------------------


def outcome(read, content):
    """What reading says of a manifest without its tensors, or how it refuses it."""
    try:
        return told_apart(dataclasses.replace(read(content), tensors=()))
    except ManifestError as error:
        return str(error)


def read_head(content):
    return Manifest.read_head(io.BytesIO(content))


def alter(content, draw, start, stop):
    """Replace, remove or insert a few bytes that begin somewhere in a part of the content."""
    at = draw(st.integers(start, stop))
    return content[:at] + draw(st.binary(max_size=3)) + content[min(at + draw(st.integers(0, 3)), stop) :]


def table_of(content):
    """Where the table of tensors begins, behind its bracket, and where its last row ends."""
    return content.index(b'"tensors": [') + len(b'"tensors": ['), content.rindex(b"]\n  ]")


long_tables = st.builds(
    lambda manifest, rows, times: dataclasses.replace(manifest, tensors=tuple(rows) * times),
    manifests(),
    st.lists(tensors, min_size=1, max_size=3),
    st.integers(1, 40),
)


@settings(deadline=None)
@given(manifests() | long_tables)
def test_the_head_of_a_manifest_is_the_manifest_without_its_tensors(manifest):
    head = read_head(manifest.to_json().encode())
    assert head.tensors == ()
    assert told_apart(head) == told_apart(dataclasses.replace(manifest, tensors=()))


@settings(deadline=None, max_examples=300)
@given(st.data(), long_tables)
def test_a_manifest_that_is_cut_short_or_spoilt_before_its_table_is_refused_for_its_head_as_for_the_whole(
    data, manifest
):
    whole = manifest.to_json().encode()
    start, _ = table_of(whole)
    spoilt = data.draw(
        st.integers(0, len(whole)).map(lambda at: whole[:at]) | st.just(alter(whole, data.draw, 0, start - 1))
    )
    assert outcome(read_head, spoilt) == outcome(Manifest.from_json, spoilt)


@settings(deadline=None, max_examples=300)
@given(st.data(), long_tables)
def test_what_is_spoilt_inside_the_table_alone_is_refused_as_for_the_whole_or_not_looked_at(data, manifest):
    whole = manifest.to_json().encode()
    spoilt = alter(whole, data.draw, *table_of(whole))
    assert outcome(read_head, spoilt) in (outcome(Manifest.from_json, spoilt), outcome(read_head, whole))


@settings(deadline=None, max_examples=200)
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()) | nearly_manifests())
def test_what_is_not_laid_out_as_a_manifest_is_read_or_refused_for_its_head_as_for_the_whole(content):
    assert outcome(read_head, content) == outcome(Manifest.from_json, content)


@pytest.mark.parametrize(
    "layout",
    [
        lambda raw: json.dumps(raw),
        lambda raw: json.dumps(raw, indent=4),
        lambda raw: '{"others": {"a": 0,\n  "tensors": [[1]]},' + json.dumps(raw)[1:-3] + "]\n  ]\n}\n",
        lambda raw: (
            json.dumps({**raw, "epoch": None, "tensors": []}, indent=2)[:-3] + '[]\n  ],\n  "epoch": 1\n}\n'
        ).replace("[]\n", '\n    ["kernel", "float32", [2, 5], 40]\n'),
    ],
    ids=["in one line", "indented otherwise", "with another table before it", "with more behind the table"],
)
def test_a_manifest_in_another_layout_has_the_same_head(layout):
    content = layout(valid()).encode()
    assert read_head(content) == dataclasses.replace(Manifest.from_json(content), tensors=())


class Counted(io.BytesIO):
    """A file that counts the bytes that are read from it."""

    def __init__(self, content):
        super().__init__(content)
        self.bytes_read = 0

    def read(self, size=-1):
        content = super().read(size)
        self.bytes_read += len(content)
        return content


@pytest.mark.parametrize("rows", [50, 20_000])
@pytest.mark.parametrize("shards", [1, 400], ids=["one shard", "a head of many pages"])
def test_of_a_long_table_only_the_end_is_read(rows, shards):
    files = {f"ckpt-7.data-{i:05d}-of-{shards:05d}": 40 for i in range(shards)} | {"ckpt-7.index": 2}
    manifest = Manifest.from_json(json.dumps(valid(files=files)))
    manifest = dataclasses.replace(manifest, tensors=(TensorInfo("kernel" * 20, "float32", (2, 5), 40),) * rows)
    content = manifest.to_json().encode()
    head, _ = table_of(content)
    file = Counted(content)
    assert Manifest.read_head(file) == dataclasses.replace(manifest, tensors=())
    assert file.bytes_read <= max(4096, 2 * head) + 8


@pytest.mark.parametrize("read", [Manifest.from_json, read_head], ids=["whole", "head"])
def test_a_bit_that_flips_anywhere_in_a_manifest_is_seen(read):
    content = MANIFEST.to_json().encode()
    for at in range(len(content)):
        for bit in range(8):
            flipped = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
            try:
                found = read(flipped)
            except ManifestError:
                continue
            # A space is as good as another one, the name of the checksum says nothing, nor does the head of the table.
            assert told_apart(found) == told_apart(read(content))


def test_a_manifest_that_was_altered_says_so():
    content = MANIFEST.to_json().replace('"step": 7', '"step": 8')
    with pytest.raises(ManifestError, match=r"field 'crc32c' says \d+, and what it is of has \d+: it was altered"):
        Manifest.from_json(content)
    content = MANIFEST.to_json().replace("[2, 5]", "[5, 2]")
    with pytest.raises(ManifestError, match=r"field 'tensors_crc32c' says \d+, and what it is of has \d+"):
        Manifest.from_json(content)


def test_a_manifest_without_checksums_is_one_of_an_older_ckptkit():
    raw = json.loads(MANIFEST.to_json())
    del raw["crc32c"], raw["tensors_crc32c"]
    assert told_apart(Manifest.from_json(json.dumps(raw))) == told_apart(MANIFEST)


# Records -----------------------------------------------------------------------------------------------------------


def test_a_record_says_what_its_manifest_says():
    manifest = Manifest.from_json(json.dumps(valid()))
    assert CheckpointRecord.of(manifest, "runs/digits") == CheckpointRecord(
        prefix="runs/digits/ckpt-7",
        step=7,
        epoch=1,
        batch=2,
        metrics={"loss": 0.5},
        best={"loss": 0.25},
        config={"max_to_keep": 3},
        found_damaged={"ckpt-5": 2},
        created_at=1.5,
        size_bytes=42,
        sequence=3,
        foreign=False,
        run_id="r",
    )


def test_a_record_at_another_prefix_differs_in_nothing_else():
    before = CheckpointRecord.of(Manifest.from_json(json.dumps(valid())), "runs/digits")
    after = before.at("elsewhere/ckpt-9")
    assert (after.prefix, after.name) == ("elsewhere/ckpt-9", "ckpt-9")
    assert after.at(before.prefix) == before


def test_a_record_and_a_manifest_cannot_be_changed():
    manifest = Manifest.from_json(json.dumps(valid()))
    for value in (manifest, manifest.tensors[0], CheckpointRecord.of(manifest, "runs")):
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
            setattr(value, dataclasses.fields(value)[0].name, "other")


# Names -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(min_size=1), st.integers(0))
def test_a_number_at_the_end_of_a_name_is_split_off(stem, number):
    assert split_number(f"{stem}-{number}") == (stem, number)


@pytest.mark.parametrize(
    "name",
    ["", "ckpt", "ckpt-", "-7", "ckpt-7.index", "ckpt-7\n", "ckpt--", "ckpt7", "ckpt-٣", "ckpt-" + "7" * 5000],
    ids=lambda name: repr(name[:20]),
)
def test_a_name_without_a_number_is_not_split(name):
    assert split_number(name) is None


# How a record is shown ---------------------------------------------------------------------------------------------


def test_a_record_is_a_line_with_what_is_known_of_it():
    now = time.time()
    told = CheckpointRecord(
        "runs/a/ckpt-1200",
        1200,
        3,
        1,
        {"val_loss": 0.31, "loss": math.nan},
        created_at=now - 130,
        size_bytes=403_000_000,
    )
    assert repr(told) == (
        "<CheckpointRecord runs/a/ckpt-1200: step 1200, epoch 3 + 1 batch, 2 min ago, 403 MB, val_loss 0.31, loss nan>"
    )
    assert repr(CheckpointRecord("a", 0)) == "<CheckpointRecord a: step 0>"
    assert repr(CheckpointRecord("a", 7, foreign=True)).endswith("step 7, written by plain TensorFlow, unverified>")


def test_a_record_is_a_table_with_a_row_a_fact():
    html = CheckpointRecord("<i>", 7, 1, metrics={"<b>": 1.0}, size_bytes=10)._repr_html_()
    assert html == (
        "<table><caption>&lt;i&gt;</caption><tbody><tr><th>step</th><td>7</td></tr><tr><th>epoch</th><td>1</td></tr>"
        "<tr><th>size</th><td>10 B</td></tr><tr><th>metrics</th><td>&lt;b&gt; 1</td></tr></tbody></table>"
    )


@given(manifests(), st.text(st.characters()))
def test_any_record_can_be_shown_compared_and_sent_to_another_process(manifest, directory):
    record = CheckpointRecord.of(manifest, directory)
    assert repr(record).isprintable()
    assert ElementTree.fromstring(record._repr_html_()).findtext("tbody/tr/td") == str(record.step)
    again = pickle.loads(pickle.dumps(record))
    assert again.at("elsewhere") != record
    assert again.prefix == record.prefix
    assert dataclasses.replace(again, metrics={}, best={}) == dataclasses.replace(record, metrics={}, best={})  # NaN
