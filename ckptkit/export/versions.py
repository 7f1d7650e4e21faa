"""Numbered versions of a model, as TensorFlow Serving polls them: each comes and goes whole.

>>> from ckptkit import versions
>>> for _ in range(4):
...     number = versions.publish("models/digits", write, labels=["stable"])
>>> versions.path_of("models/digits", "stable")
'models/digits/4'
>>> versions.rollback("models/digits")  # what 3 was; "stable" goes with it
5

``write`` makes a folder with what belongs to a version. :func:`ckptkit.publish_version` does it for a Keras model.

models/digits/
  1/ 2/ 3/ 4/ 5/                     the versions; each got its name in one step, when its files were on the disk
  5/assets.extra/rollback.json       only in a version that rollback made: what it is a copy of
  labels.json                        {"stable": 5}; .labels.json while it is written
  .lock                              held (flock) for moments: while a number is given, a label set, a version retired
  .tmp-<random>/version, lock        a version being written, and the flock that says its publisher lives
  .trash-<random>                    what is being deleted, or was when its process died

Source: https://www.tensorflow.org/tfx/serving/serving_config
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from ckptkit.durability import link_or_copy, make_directory, sync_directory, sync_tree, write_file
from ckptkit.errors import ExportError
from ckptkit.spelling import nearest

__all__ = ["labels", "path_of", "publish", "rollback", "set_label", "versions"]

_TMP, _TRASH = ".tmp-", ".trash-"
_LABELS, _ROLLBACK = "labels.json", "assets.extra/rollback.json"
_LARGEST = 2**63 - 1  # servers read a version as an int64


def publish(
    base_dir: str | os.PathLike[str],
    write: Callable[[str], None],
    *,
    version: int | None = None,
    max_versions: int | None = None,
    labels: Sequence[str] = (),
) -> int:
    """Add a version that appears whole or not at all, however many processes publish at once.

    Args:
        base_dir: Folder of the versions; made if it is missing.
        write: Is given the path of a folder that is not there yet, and makes it with all that belongs to the version.
        version: Its number, at least 1; None for one more than the highest number there is.
        max_versions: How many of the newest versions stay, at least 1; older ones are deleted, except this one and
            those that carry a label. None keeps all.
        labels: Names that point to this version from now on.

    Returns:
        The number of the version.

    Raises:
        ValueError: An argument is out of its range.
        ExportError: There is such a version already, ``write`` left nothing, or ``labels.json`` cannot be read.

    Example:
        >>> def write(folder):
        ...     model.export(folder, verbose=False)
        >>> ckptkit.versions.publish("serving/digits", write, max_versions=5)
        1
    """
    _check_number("version", version)
    _check_number("max_versions", max_versions)
    _check_labels(labels)
    base = os.fspath(base_dir)
    make_directory(base)
    with ExitStack() as at_end:
        at_end.callback(_empty_trash, base)
        with _locked(base):
            # What would be refused at the end is refused before the work.
            _refuse_taken(base, version)
            _read_labels(base)
            folder = at_end.enter_context(_workshop(base))
        write(folder)
        _sync_all(folder)
        with _locked(base):
            known = _read_labels(base)
            number = _place(base, folder, version)
            if labels:
                _write_numbers(os.path.join(base, _LABELS), known | dict.fromkeys(labels, number))
            _retire(base, number, max_versions)
    return number


def versions(base_dir: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the numbers of the versions there are, ascending; an empty folder is none.

    Args:
        base_dir: Folder of the versions.

    Example:
        >>> ckptkit.versions.versions("serving/digits")
        ()
        >>> number = ckptkit.versions.publish("serving/digits", write)
        >>> ckptkit.versions.versions("serving/digits")
        (1,)
    """
    base = os.fspath(base_dir)
    canonical = [name for name in _numerals(base) if name[0] != "0"]  # a server takes 007 for 7; it is none of ours
    return tuple(sorted(int(name) for name in canonical if _has_content(os.path.join(base, name))))


def labels(base_dir: str | os.PathLike[str]) -> dict[str, int]:
    """Return the labels and the version that each points to.

    Args:
        base_dir: Folder of the versions.

    Raises:
        ExportError: ``labels.json`` cannot be read.

    Example:
        >>> number = ckptkit.versions.publish("serving/digits", write, labels=["stable", "canary"])
        >>> ckptkit.versions.labels("serving/digits")
        {'stable': 1, 'canary': 1}
    """
    return _read_labels(os.fspath(base_dir))


def set_label(base_dir: str | os.PathLike[str], label: str, version: int | None) -> None:
    """Point a label to a version, or take it away; whoever reads sees the old labels or the new ones.

    Args:
        base_dir: Folder of the versions.
        label: The name.
        version: Where it points to; None takes it away.

    Raises:
        ValueError: The label is empty or no string.
        ExportError: There is no such version, or ``labels.json`` cannot be read.

    Example:
        >>> number = ckptkit.versions.publish("serving/digits", write)
        >>> ckptkit.versions.set_label("serving/digits", "stable", number)
        >>> ckptkit.versions.labels("serving/digits")
        {'stable': 1}
    """
    _check_labels([label])
    base = os.fspath(base_dir)
    with _locked(base):
        known = _read_labels(base)
        if version is None:
            known.pop(label, None)
        else:
            known[label] = _existing(base, version)
        _write_numbers(os.path.join(base, _LABELS), known)


def rollback(base_dir: str | os.PathLike[str], *, to: int | None = None) -> int:
    """Publish an earlier version once more, as the newest; labels of the newest go along.

    Watchers that follow the highest number then serve it. Its files are hard links where the file system has them.
    A version made this way counts as the one it is a copy of: rolling back twice goes back by two.

    Args:
        base_dir: Folder of the versions.
        to: The version to bring back; None for the one before the newest.

    Returns:
        The number of the new version.

    Raises:
        ExportError: There is no earlier version, no version ``to``, or a file about them cannot be read.

    Example:
        >>> for _ in range(2):
        ...     number = ckptkit.versions.publish("serving/digits", write)
        >>> ckptkit.versions.rollback("serving/digits")  # what 1 was
        3
    """
    base = os.fspath(base_dir)
    with ExitStack() as at_end:
        # Locked from the choice to the end: nobody deletes what is being copied, or publishes something newer.
        at_end.enter_context(_locked(base))
        at_end.callback(_empty_trash, base)
        newest, source = _choose(base, to)
        known = _read_labels(base)
        folder = at_end.enter_context(_workshop(base))
        _copy(base, source, folder, rolled_back_from=newest)
        _sync_all(folder)
        number = _place(base, folder, None)
        if newest in known.values():
            moved = {name: number if at == newest else at for name, at in known.items()}
            _write_numbers(os.path.join(base, _LABELS), moved)
    return number


def path_of(base_dir: str | os.PathLike[str], version_or_label: int | str) -> str:
    """Return the folder of a version, given by its number or by a label.

    Args:
        base_dir: Folder of the versions.
        version_or_label: ``3``, or ``"stable"``.

    Raises:
        ExportError: There is none, or ``labels.json`` cannot be read.

    Example:
        >>> number = ckptkit.versions.publish("serving/digits", write, labels=["stable"])
        >>> ckptkit.versions.path_of("serving/digits", "stable")
        'serving/digits/1'
    """
    base = os.fspath(base_dir)
    if not isinstance(version_or_label, str):
        return os.path.join(base, str(_existing(base, version_or_label)))
    known = _read_labels(base)
    if version_or_label not in known:
        near = nearest(version_or_label, known)
        hint = f"Did you mean {near!r}?" if near else "Pass one of them, or a version's number."
        raise ExportError(
            f"no label {version_or_label!r} in {base} (labels: {_listed(sorted(known))}; {_inventory(base)}). {hint}"
        )
    number = known[version_or_label]
    if number not in versions(base):
        raise ExportError(
            f"label {version_or_label!r} in {base} points to version {number}, which is gone ({_inventory(base)}). "
            "Point it to one of them with set_label."
        )
    return os.path.join(base, str(number))


# Looking -----------------------------------------------------------------------------------------------------------


def _numerals(base: str) -> list[str]:
    """Return the names that a server takes for a version, whatever is behind them."""
    try:
        names = os.listdir(base)
    except FileNotFoundError:
        return []
    return [name for name in names if name.isascii() and name.isdigit() and int(name) <= _LARGEST]


def _has_content(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return any(entries)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _existing(base: str, version: int) -> int:
    if isinstance(version, bool) or version not in versions(base):
        raise ExportError(f"no version {version!r} in {base} ({_inventory(base)}). Pass one that is there.")
    return int(version)


def _inventory(base: str) -> str:
    return f"versions: {_listed(versions(base))}"


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items)) or "none"


def _read_labels(base: str) -> dict[str, int]:
    return _read_numbers(os.path.join(base, _LABELS))


def _read_numbers(path: str) -> dict[str, int]:
    """Read a JSON object of version numbers, an empty one where there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict) or not all(type(number) is int for number in found.values()):
            raise ValueError("not a JSON object of version numbers")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ExportError(
            f'cannot read {path}: {error}. Mend it, so that it looks like {{"name": 3}}, or delete it.'
        ) from error
    return found


# Refusing ----------------------------------------------------------------------------------------------------------


def _check_number(name: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= _LARGEST):
        raise ValueError(f"{name} must be a whole number of at least 1, below 2**63, or None, got {value!r}.")


def _check_labels(names: Sequence[str]) -> None:
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"labels must be strings that are not empty, got {names!r}.")


def _refuse_taken(base: str, version: int | None) -> None:
    taken = {int(name): name for name in _numerals(base)}
    if version in taken:
        path = os.path.join(base, taken[version])
        what = "holds a version" if _has_content(path) else "is an empty folder" if os.path.isdir(path) else "is a file"
        raise ExportError(
            f"cannot publish version {version} in {base}: {path} {what} ({_inventory(base)}). "
            f"Leave version out to take {max(taken) + 1}, the next free number, or move {path} away first."
        )


def _choose(base: str, to: int | None) -> tuple[int, int]:
    """Return the newest version and the one to bring back."""
    present = versions(base)
    newest = present[-1] if present else 0
    stands_for = _origin(base, newest)
    earlier = [number for number in present if number < stands_for]
    if to is None and not earlier:
        copy = "" if stands_for == newest else f", which {newest} is a copy of"
        where = f"before version {stands_for}{copy}" if present else "in it"
        raise ExportError(
            f"cannot roll back {base}: there is nothing {where} ({_inventory(base)}). "
            "Publish the version you want, or pass one that is there as to=."
        )
    source = earlier[-1] if to is None else _existing(base, to)
    if source == newest:
        raise ExportError(
            f"cannot roll back {base} to version {to}: it is the newest ({_inventory(base)}). Pass an earlier one."
        )
    return newest, source


def _origin(base: str, number: int) -> int:
    return _read_numbers(os.path.join(base, str(number), _ROLLBACK)).get("copy_of", number)


# Changing: each of these needs the lock, unless it says otherwise ----------------------------------------------------


@contextmanager
def _locked(folder: str, name: str = ".lock") -> Iterator[None]:
    """Hold the flock of a folder; wait for it if need be."""
    try:
        descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError as error:
        raise ExportError(f"{folder} is not there ({_inventory(folder)}). Publish a version to it first.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing does not free it while a forked child has a copy
        os.close(descriptor)


@contextmanager
def _workshop(base: str) -> Iterator[str]:
    """Clean up after publishers that died, and give a path in a hidden folder to build a version at.

    The lock is needed on the way in alone: no sweep comes between the folder and the flock that protects it.
    """
    for name in os.listdir(base):
        if name.startswith(_TMP) and not _is_alive(os.path.join(base, name)):
            _throw_away(base, name)
    hidden = os.path.join(base, _TMP + uuid.uuid4().hex)
    os.mkdir(hidden)
    try:
        with _locked(hidden, "lock"):
            yield os.path.join(hidden, "version")
    finally:
        shutil.rmtree(hidden, ignore_errors=True)  # what stays is swept by the next publisher


def _is_alive(hidden: str) -> bool:
    try:
        with open(os.path.join(hidden, "lock"), "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    return False


def _sync_all(folder: str) -> None:
    """Bring a finished version to the disk, its names included; needs no lock."""
    if not _has_content(folder):
        raise ExportError(
            f"nothing was published: write left nothing at {folder}. It must make that folder, with its files."
        )
    sync_tree(folder)


def _place(base: str, folder: str, version: int | None) -> int:
    """Rename a finished version to its number: it is published."""
    while True:
        _refuse_taken(base, version)
        # A rename would silently replace an empty folder, so that counts as taken; the lock is our claim to the number.
        number = version or max(map(int, _numerals(base)), default=0) + 1
        try:
            os.rename(folder, os.path.join(base, str(number)))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            continue  # somebody who takes no lock was faster
        sync_directory(base)
        return number


def _write_numbers(path: str, numbers: Mapping[str, int]) -> None:
    folder, name = os.path.split(path)
    write_file(path, json.dumps(numbers, indent=2).encode(), temporary=os.path.join(folder, f".{name}"))


def _retire(base: str, published: int, max_versions: int | None) -> None:
    if max_versions is not None:
        kept = {published, *_read_labels(base).values()}
        for number in versions(base)[:-max_versions]:
            if number not in kept:
                _throw_away(base, str(number))


def _throw_away(base: str, name: str) -> None:
    # Out of sight first: a server must never see a version with half its files.
    with suppress(FileNotFoundError):  # a publisher that is done tidies up without the lock
        os.rename(os.path.join(base, name), os.path.join(base, _TRASH + uuid.uuid4().hex))


def _empty_trash(base: str) -> None:
    """Delete what was thrown away, by this process or one that died; needs no lock."""
    trash = [os.path.join(base, name) for name in os.listdir(base) if name.startswith(_TRASH)]
    if trash:
        sync_directory(base)  # before any file goes: power loss must not bring back the name of half a version
    for path in trash:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)  # what stays is for the next publisher
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _copy(base: str, source: int, folder: str, *, rolled_back_from: int) -> None:
    shutil.copytree(os.path.join(base, str(source)), folder, symlinks=True, copy_function=link_or_copy)
    path = os.path.join(folder, _ROLLBACK)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # A new file under the name: writing into the one there would change the source, whose file it is as well.
    _write_numbers(path, {"copy_of": _origin(base, source), "rolled_back_from": rolled_back_from})
