"""What is wrong with a search space's file, in words of our own: one line each, with what would be right."""

from collections.abc import Mapping
from typing import Any

from sweep.yaml_file import YamlFile
from workers.typed import short

_WHOLE, _FINITE, _TEXT = "must be a whole number", "must be a finite number", "must be text"
_LIST = "must be a list in brackets"
# By pydantic's names of what can be wrong with one of our fields; `{name}` is filled in from what it tells of it.
_WORDS: Mapping[str, str] = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _FINITE,
    "float_parsing": _FINITE,
    "finite_number": _FINITE,
    "string_type": _TEXT,
    "string_unicode": _TEXT,
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters",
    "string_pattern_mismatch": "must be at most 100 letters, digits and _ . -, beginning with a letter or digit",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "too_long": "must be a list of {max_length} values",
}
_NO_MAPPING = ("model_type", "model_attributes_type", "dict_type")


def explain(file: YamlFile, problem: Any, root: Any) -> str:
    """One line for one of pydantic's problems.

    Args:
        file: for the place.
        problem: one of `ValidationError.errors()`.
        root: the model of the whole file.
    """
    loc = tuple(part for part in problem["loc"] if part != "[key]")
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{file.place(loc)}: unknown key; allowed here: {', '.join(_allowed(root, loc))}"
    if kind == "missing" and isinstance(loc[-1], int):
        return f"{file.place(loc[:-1])}: must be a list of two numbers, [low, high]"
    if kind == "missing":
        return f"{file.place(loc)}: this key is missing"
    if kind == "too_short":
        return f"{file.place(loc)}: must have at least one value"
    missing = kind == "value_error" and problem["input"] is None  # a key that another one needs
    got = "" if missing else f" (got {short(problem['input'])})"
    return f"{file.place(loc)}: {_what(problem, loc, root)}{got}"


def _what(problem: Any, loc: tuple[str | int, ...], root: Any) -> str:
    """What would be right."""
    kind = problem["type"]
    told = {name: _plain(value) for name, value in problem.get("ctx", {}).items()}
    if kind == "value_error":  # our own words
        return str(told["error"])
    if kind == "literal_error":
        return f"must be {told['expected']}".replace("'", "")
    if kind in _NO_MAPPING and loc == ("recipe",):
        return "must be a recipe's name, or its name and values that replace its own: {name: small, learning_rate: 0.2}"
    if kind in _NO_MAPPING:
        keys = _allowed(root, (*loc, ""))
        return f"must be keys and values, with the {'keys ' + ', '.join(keys) if keys else 'arguments of the family'}"
    return _WORDS.get(kind, "cannot be used here").format(**told)


def _plain(value: Any) -> Any:
    """A bound without its `.0`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _allowed(root: Any, loc: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping around an unknown one may have."""
    model: Any = root
    for part in loc[:-1]:
        if isinstance(part, str) and model and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> Any:
    """The model inside an annotation such as `Axes | None` or `list[CellSpec]`."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, (_model_in(inner) for inner in getattr(annotation, "__args__", ()))), None)
