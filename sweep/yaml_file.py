"""Reads a YAML file and remembers the line of every value, so that errors can name the place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import SpaceError

MAX_BYTES = 1 << 20  # a search space is a page; anything larger is a mistake or an attack
Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: plain values, and the line of each by its path of keys and indices."""

    path: Path
    values: Any
    lines: dict[Loc, int]

    def place(self, loc: Sequence[str | int]) -> str:
        """`file:line: key.key`, with the line of the deepest part of `loc` that the file has."""
        known = tuple(loc)
        while known and known not in self.lines:
            known = known[:-1]
        name = ".".join(str(part) for part in loc)
        return f"{self.path}:{self.lines.get(known, 1)}" + (f": {name}" if name else "")


def read_yaml(path: Path) -> YamlFile:
    """Parse one document of plain values; duplicate keys, aliases, tags, NaN and infinities are refused.

    Raises:
        SpaceError: the file cannot be read or is not such a document; the message names the line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpaceError(f"{path}: larger than {MAX_BYTES} bytes; not a search space")
        text = path.read_text()
        _refuse_aliases(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpaceError(f"{path}: cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise SpaceError(f"{path}{_line_of(error)}: not valid YAML: {_first_line(error)}") from error
    reader = _Reader(path)
    return YamlFile(path, reader.value(node, ()) if node else None, reader.lines)


def _refuse_aliases(path: Path, text: str) -> None:
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            line = token.start_mark.line + 1
            raise SpaceError(f"{path}:{line}: alias *{token.value} is not allowed; write the value out")


def _line_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _first_line(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


class _Reader:
    """Turns nodes into values and notes their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Loc, int] = {}
        self._scalars = yaml.SafeLoader("")

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self.lines[loc] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in values:
                raise SpaceError(f"{self.path}:{key_node.start_mark.line + 1}: key {key!r} stands twice")
            values[key] = self.value(value_node, (*loc, key))
            self.lines[(*loc, key)] = key_node.start_mark.line + 1
        return values

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise SpaceError(f"{self.path}:{self.lines[loc]}: {node.value!r} is not a plain value") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise SpaceError(f"{self.path}:{self.lines[loc]}: {node.value} is not a finite number")
        return value
