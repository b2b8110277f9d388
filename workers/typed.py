"""Plain JSON values to a dataclass, with every field's type checked: a slip is told by the field's name.

Understands what `workers.contract` is made of: bool, int, float, str, unions of them, tuples of one type, dictionaries
with text for keys, and dataclasses within dataclasses.
"""

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")

WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", types.NoneType: "null"}


def from_plain(cls: type[T], raw: Any, place: str = "") -> T:
    """An instance of a dataclass.

    Whole numbers pass for real ones; nothing else is converted.

    Args:
        cls: a dataclass.
        raw: what JSON gave for it.
        place: names of the fields that lead to it, with dots.

    Raises:
        ValueError: a field is unknown, missing, of another type or refused by the dataclass; one line.
    """
    at = f"{place}: " if place else ""
    if not isinstance(raw, dict):
        raise ValueError(f"{at}must be an object with the fields of {cls.__name__}, not {short(raw)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in raw:
        if name not in fields:
            raise ValueError(f"{at}unknown field {short(name)}; known: {', '.join(fields)}")
    for name, field in fields.items():
        if name not in raw and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{at}the field {name!r} is missing")
    wanted = typing.get_type_hints(cls)
    values = {name: _value(wanted[name], value, f"{place}.{name}" if place else name) for name, value in raw.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{place}.{error}" if place else str(error)) from error


def _value(wanted: Any, raw: Any, place: str) -> Any:
    """A value of a type that an annotation names."""
    if dataclasses.is_dataclass(wanted):
        return from_plain(typing.cast("type[Any]", wanted), raw, place)
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple and isinstance(raw, list):
        return tuple(_value(inner[0], item, f"{place}.{index}") for index, item in enumerate(raw))
    if origin is dict and isinstance(raw, dict):
        return {name: _value(inner[1], item, f"{place}.{name}") for name, item in raw.items()}
    kinds = inner if origin in (types.UnionType, typing.Union) else (wanted,)
    if type(raw) in kinds and (type(raw) is not float or math.isfinite(raw)):
        return raw
    if type(raw) is int and float in kinds:
        return float(raw)
    raise ValueError(f"{place}: must be {_words(origin, kinds)}, not {short(raw)}")


def _words(origin: Any, kinds: tuple[Any, ...]) -> str:
    if origin in (tuple, dict):
        return "a list" if origin is tuple else "an object"
    return " or ".join(WORDS[kind] for kind in kinds)


def short(value: Any) -> str:
    """A value as Python writes it, cut where it would fill the line of a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
