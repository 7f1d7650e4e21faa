"""Policies as text, and back: what a policy's repr says, and how often to save in plain words.

read_policy('EverySteps(500) | OnImprovement("val_loss", "min")', SavePolicy)
read_frequency("10 min")                     # EverySecs(secs=600.0)
write_policy(EverySteps(500) | EveryEpochs())    # 'EverySteps(n=500) | EveryEpochs(n=1)'

Nothing in a text is run: it names classes of one family and their arguments, and combines them.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from typing import TypeVar, cast

from ckptkit import policies, preservation
from ckptkit.combinators import Combinable
from ckptkit.policies import EveryEpochs, EverySecs, EverySteps, SavePolicy
from ckptkit.preservation import PreservationPolicy
from ckptkit.spelling import near

__all__ = ["read_frequency", "read_policy", "write_policy"]

P = TypeVar("P", bound=Combinable)

_MOST = 200_000  # characters
_DEEPEST = 5_000  # characters that may nest: all but digits, commas and blanks
_FLAT = str.maketrans("", "", "0123456789, ")
_SHOWN = 60
_FREQUENCY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(\S+)")
_FORMS = '"epoch", "500 steps", "2 epochs", "30 s", "10 min" or "1.5 h"'
_CLASSES: dict[type[Combinable], dict[str, type[Combinable]]] = {
    family: {
        name: kind
        for name, kind in vars(module).items()
        if name in module.__all__ and isinstance(kind, type) and issubclass(kind, family) and kind is not family
    }
    for family, module in ((SavePolicy, policies), (PreservationPolicy, preservation))
}
_SECS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
}
_COUNTED: dict[str, type[EverySteps | EveryEpochs]] = {
    **dict.fromkeys(("step", "steps"), EverySteps),
    **dict.fromkeys(("epoch", "epochs"), EveryEpochs),
}


def read_policy(text: str, family: type[P]) -> P:
    """Return the policy that a text stands for; of a policy's repr, that policy.

    Args:
        text: Public classes of the family with their arguments, ``|``, ``&`` and brackets.
        family: ``SavePolicy`` or ``PreservationPolicy``.

    Raises:
        ValueError: It is anything else; the message says what is wrong, at which column, and the nearest name.
    """
    if len(text) > _MOST or len(text.translate(_FLAT)) > _DEEPEST:
        raise ValueError(f"cannot read the policy {_shown(text)}: {len(text)} characters are too many.")
    line = text.replace("\n", " ")  # a long one may be written on several lines
    policy = line.lstrip()
    try:
        return cast("P", _read(_parse(policy), policy, family))
    except _UnreadableError as error:
        column, why = error.column + len(line) - len(policy), str(error)
    except (MemoryError, RecursionError):
        column, why = 1, "it is nested too deeply."
    raise ValueError(f"cannot read the policy {_shown(text)}, column {column}: {why}")


def write_policy(policy: Combinable) -> str | None:
    """Return the text that a policy can be read from; None if it is too long, or partly of a class of one's own."""
    try:
        text = repr(policy)
        return text if read_policy(text, policy.family) == policy else None
    except ValueError:
        return None


def read_frequency(text: str) -> SavePolicy:
    """Return the policy that says how often to save: ``"epoch"``, or a number of steps, epochs, s, min or h.

    Raises:
        ValueError: It says nothing of the kind; the message has the forms there are, and the nearest unit.
    """
    words = text.strip()
    if words == "epoch":
        return EveryEpochs(1)
    match = _FREQUENCY.fullmatch(words)
    if match is None or match[2] not in (*_COUNTED, *_SECS):
        hint = near(words, ["epoch"]) if match is None else near(match[2], [*_COUNTED, *_SECS])
        raise ValueError(f"{_shown(text)} says no frequency: write {_FORMS}.{hint}")
    number, unit = match.groups()
    if unit in _SECS:
        return EverySecs(float(number) * _SECS[unit])
    if "." in number:
        raise ValueError(f"{_shown(text)} says no frequency: the number of {unit} must be whole.")
    return _COUNTED[unit](int(number))


class _UnreadableError(Exception):
    """What is wrong with a text, and its column, from 1."""

    def __init__(self, why: str, column: int) -> None:
        super().__init__(why)
        self.column = column


def _parse(text: str) -> ast.expr:
    if not text:
        raise _UnreadableError("it is empty.", 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python only warns of, a "\d" in a name, is no policy either
            body = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise _UnreadableError(f"{error.msg}.", error.offset or 1) from error
    except ValueError as error:  # a character that no source may have
        raise _UnreadableError(f"{error}.", 1) from error
    rest = text.encode()[body.end_col_offset :].decode()
    if rest.strip(") \t\f"):
        raise _UnreadableError("a comment cannot be part of it.", len(text) - len(rest.lstrip(") \t\f")) + 1)
    return body


def _read(node: ast.expr, text: str, family: type[Combinable]) -> Combinable:
    column = len(text.encode()[: node.col_offset].decode()) + 1  # Python counts bytes
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd)):
        left, right = _read(node.left, text, family), _read(node.right, text, family)
        return left | right if isinstance(node.op, ast.BitOr) else left & right
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        classes = ", ".join(_CLASSES[family])
        raise _UnreadableError(f"a policy is one of {classes}, with its arguments in brackets.", column)
    kind = _class(node.func.id, column, family)
    takes = inspect.signature(kind)
    try:
        arguments = [ast.literal_eval(each) for each in node.args]
        named = [(str(each.arg), ast.literal_eval(each.value)) for each in node.keywords]
    except (TypeError, ValueError) as error:
        raise _UnreadableError(f"{kind.__name__} takes plain values, no names and no sums.", column) from error
    try:
        if len(dict(named)) < len(named):
            raise TypeError("an argument is there twice")
        takes.bind(*arguments, **dict(named))
        return kind(*arguments, **dict(named))
    except TypeError as error:
        told = f"{kind.__name__} takes {', '.join(takes.parameters) or 'no arguments'}: {error}."
        raise _UnreadableError(told, column) from error
    except ValueError as error:
        raise _UnreadableError(str(error), column) from error


def _class(name: str, column: int, family: type[Combinable]) -> type[Combinable]:
    if name in _CLASSES[family]:
        return _CLASSES[family][name]
    hint = near(name, _CLASSES[family]) or f"\nThere are {', '.join(_CLASSES[family])}."
    raise _UnreadableError(f"no policy of {family.__module__} is called {name!r}.{hint}", column)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
