"""A YAML file as plain values that know their lines, read with nothing but YAML's own types.

file = YamlFile("run.yaml")
for name, entry in file.mapping(file.root, "the file").items():
    raise file.refusal(entry.key, f"no section is called {name!r}.")     # ConfigError: run.yaml, line 7: no section …
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

from ckptkit.errors import ConfigError

__all__ = ["Entry", "YamlFile", "unquoted"]

_MOST_BYTES = 1_000_000
_TAG = "tag:yaml.org,2002:"
_SCALARS = ("null", "bool", "int", "float", "str")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_RESOLVER = yaml.resolver.Resolver()


@dataclass(frozen=True)
class Entry:
    """One name of a mapping and what stands behind it."""

    key: yaml.Node
    value: yaml.Node


class YamlFile:
    """One YAML document.

    Args:
        path: The file, which stays as it is.

    Attributes:
        root: Its outermost value.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: It is no YAML, no single document, or too large.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._mappings: dict[int, dict[str, Entry]] = {}
        self._under_way: set[int] = set()
        with open(self._path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{self._path} has more than {_MOST_BYTES} bytes: that is no file of options.")
        self.root = self._compose(self._decoded(content))

    def refusal(self, at: yaml.Node | int, why: str) -> ConfigError:
        """Return the error that says what is wrong at a value, or at a line."""
        line = at if isinstance(at, int) else at.start_mark.line + 1
        return ConfigError(f"{self._path}, line {line}: {why}")

    def mapping(self, node: yaml.Node, what: str) -> dict[str, Entry]:
        """Return the entries of a mapping by name, with those that ``<<`` merges into it.

        Raises:
            ConfigError: It is something else, or has a name twice.
        """
        if not isinstance(node, yaml.MappingNode) or node.tag != f"{_TAG}map":
            raise self.refusal(node, f"{what} must be a mapping of names to values, got {_kind(node)}.")
        if id(node) in self._under_way:
            raise self.refusal(node, f"{what} is merged into itself.")
        if id(node) not in self._mappings:
            self._under_way.add(id(node))
            self._mappings[id(node)] = self._merged(node, what)
            self._under_way.remove(id(node))
        return self._mappings[id(node)]

    def sequence(self, node: yaml.Node) -> list[yaml.Node] | None:
        """Return the values of a list; None if it is none."""
        return node.value if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq" else None

    def value(self, node: yaml.Node) -> Any:
        """Return a plain value, or a list of plain values.

        Raises:
            ConfigError: It is something else.
        """
        values = self.sequence(node)
        return self._scalar(node) if values is None else [self._scalar(each) for each in values]

    # Inside ----------------------------------------------------------------------------------------------------------

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise self.refusal(line, f"this is not UTF-8: {error.reason}.") from error

    def _compose(self, text: str) -> yaml.Node:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            told = ", ".join(part for part in (error.context, error.problem) if part)
            raise self.refusal(
                1 if mark is None else mark.line + 1, f"this is not YAML as it is read here: {told}."
            ) from error
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise self.refusal(line, f"the character {chr(error.character)!r} may not stand in YAML.") from error
        except (ValueError, OverflowError) as error:  # of a number inside YAML's own syntax
            raise ConfigError(f"{self._path} is not YAML: {error}.") from error
        except RecursionError as error:
            raise ConfigError(f"{self._path} is nested too deeply.") from error
        if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == f"{_TAG}null"):
            raise ConfigError(f"{self._path} is empty.")
        return root

    def _merged(self, node: yaml.MappingNode, what: str) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                values = self.sequence(value)
                for each in [value] if values is None else values:
                    merged = {**self.mapping(each, "what << merges"), **merged}
                continue
            name = self._name(key)
            if name in own:
                first = own[name].key.start_mark.line + 1
                raise self.refusal(key, f"{what} has {name!r} twice, first at line {first}.")
            own[name] = Entry(key, value)
        return {**merged, **own}

    def _name(self, key: yaml.Node) -> str:
        self._scalar(key)
        return str(key.value)

    def _scalar(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self.refusal(node, f"a plain value is wanted here, got {_kind(node)}.")
        kind = node.tag.removeprefix(_TAG)
        if kind == "timestamp":
            raise self.refusal(node, f"YAML reads {node.value} as a date: put it into quotes.")
        if kind not in _SCALARS:
            raise self.refusal(node, f"values tagged {node.tag!r} are not read.")
        try:
            value = _CONSTRUCTOR.construct_object(node)
        except (ValueError, LookupError) as error:
            raise self.refusal(node, f"{node.value!r} is no {kind}.") from error
        if (kind == "int" and not _DECIMAL.fullmatch(node.value)) or (kind == "float" and ":" in node.value):
            raise self.refusal(node, f"YAML reads {node.value} as {value}: write {value}, or put it into quotes.")
        return value


def unquoted(text: str) -> Any:
    """Return what a text would stand for in YAML without quotes; itself, where that is none of YAML's own types."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    is_known = tag.removeprefix(_TAG) in _SCALARS
    return _CONSTRUCTOR.construct_object(yaml.ScalarNode(tag, text)) if is_known else text


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if node.tag == f"{_TAG}null" else repr(node.value)
    if not node.tag.startswith(_TAG):
        return f"a value tagged {node.tag!r}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
