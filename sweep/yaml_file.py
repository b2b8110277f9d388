"""Reads a YAML file and remembers the line of every value, so that errors can name the place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import SpaceError

MAX_BYTES = 1 << 20  # a search space is a page; anything larger is a mistake or an attack
MAX_DEPTH = 20  # of lists in lists
Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: plain values, and the line of each by its path of keys and indices."""

    path: Path
    values: Any
    lines: dict[Loc, int]
    text: str = ""

    def place(self, loc: Sequence[str | int]) -> str:
        """`file:line: key.key`, with the line of the deepest part of `loc` that the file has."""
        known = tuple(loc)
        while known and known not in self.lines:
            known = known[:-1]
        name = ".".join(_printable(str(part)) for part in loc)
        return f"{self.path}:{self.lines.get(known, 1)}" + (f": {name}" if name else "")


def read_yaml(path: Path) -> YamlFile:
    """Parse one document of plain values; duplicate keys, aliases, tags, NaN and infinities are refused.

    Raises:
        SpaceError: the file cannot be read or is not such a document; the message names the line.
    """
    text = _text(path)
    try:
        _refuse_beyond_plain(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SpaceError(f"{path}:{_line_of(error, text)}: not valid YAML: {_first_line(error)}") from error
    reader = _Reader(path)
    return YamlFile(path, reader.value(node, ()) if node else None, reader.lines, text)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:  # its size is not asked for: a device or a pipe would say 0
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise SpaceError(f"{path}: larger than {MAX_BYTES} bytes; not a search space")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SpaceError(f"{path}:{line}: cannot be read: not UTF-8 text") from error


def _refuse_beyond_plain(path: Path, text: str) -> None:
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        place = f"{path}:{token.start_mark.line + 1}"
        if isinstance(token, yaml.AliasToken):
            raise SpaceError(f"{place}: alias *{token.value} is not allowed; write the value out")
        if isinstance(token, yaml.TagToken):
            raise SpaceError(f"{place}: tag {''.join(filter(None, token.value))} is not allowed; write a plain value")
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise SpaceError(f"{place}: nested more than {MAX_DEPTH} deep; not a search space")


_OPENING = (
    yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken,
)  # fmt: skip
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def _line_of(error: yaml.YAMLError, text: str) -> int:
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _printable(text: str) -> str:
    """As it is, or escaped where it would break the one line that an error has, shortened where it would fill it."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: str) -> str:
    """A message without anything that would break the one line that an error has."""
    text = " ".join(text.split())
    return text if text.isprintable() else repr(text)[1:-1]


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
            place = f"{self.path}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpaceError(f"{place}: a key must be a plain word")
            key = str(key_node.value)
            if key in values:
                raise SpaceError(f"{place}: key {key!r} stands twice")
            values[key] = self.value(value_node, (*loc, key))
            self.lines[(*loc, key)] = key_node.start_mark.line + 1
        return values

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            text = _printable(str(node.value))
            raise SpaceError(f"{self.path}:{self.lines[loc]}: {text} is not a plain value") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise SpaceError(f"{self.path}:{self.lines[loc]}: {node.value} is not a finite number")
        return value
