"""Short names of models and trials for people, from a trial's fields or from its row."""

from collections.abc import Iterable, Mapping
from typing import Any

from workers.families import TIMM, Argument, find_family

MODEL_COLUMN = "model_"  # prefix of the columns that hold a family's other arguments than width and depth


def label(trial: Mapping[str, Any]) -> str:
    """A trial: `d50 w0.5 32px 3ep`, `b4 192px 350ep`, `d50 w1 32px 3ep se=off`.

    With a seed above 0, `s2`; at half the recipe's learning rate, `lrx0.5`.
    """
    names, switches = _parts(trial["family"], trial.get("width"), trial.get("depth"), model_of(trial))
    seed = [f"s{trial['seed']:g}"] if trial["seed"] else []
    scale = trial.get("recipe_lr_scale", getattr(trial.get("recipe"), "lr_scale", None))
    rate = [] if missing(scale) or scale == 1 else [f"lrx{scale:g}"]
    return " ".join([*names, f"{trial['resolution']:g}px", f"{trial['epochs']:g}ep", *seed, *rate, *switches])


def model_name(family: Any, width: Any, depth: Any, model: Mapping[str, Any]) -> str:
    """A model without its resolution: `d50 w0.5`, `b4`, `regnety_040`."""
    names, switches = _parts(family, width, depth, model)
    return " ".join([*names, *switches])


def model_in_words(entry: Mapping[str, Any]) -> str:
    """A model from an entry of a front: what a published table calls it, else its shape, else the trial's id."""
    model = entry.get("model")
    if isinstance(model, str):
        return model
    return model_name(entry["family"], entry["width"], entry["depth"], model or {}) or str(entry["trial_id"])


def kind_in_words(entry: Mapping[str, Any], all_entries: Iterable[Mapping[str, Any]]) -> str:
    """Which family and switches an entry of the rules is about; empty where all entries are about the same."""
    if all((other["family"], other["model"]) == (entry["family"], entry["model"]) for other in all_entries):
        return ""
    return model_name(entry["family"], None, None, entry["model"])


def model_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The family's other arguments, from a trial's own field or from the row's columns for them."""
    if isinstance(model := trial.get("model"), Mapping):
        return dict(model)
    columns = {name: value for name, value in trial.items() if str(name).startswith(MODEL_COLUMN)}
    return {name.removeprefix(MODEL_COLUMN): value for name, value in columns.items() if not missing(value)}


def value_in_words(value: Any) -> str:
    """An argument's value: on, off, a number or a word."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def missing(value: Any) -> bool:
    """Whether a table says nothing: None or NaN."""
    return value is None or value != value


def _parts(family: Any, width: Any, depth: Any, model: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What a model is called by, and the arguments that differ from the family's defaults."""
    known = _arguments(str(family))
    names = [] if missing(depth) else [f"d{depth:g}"]
    names += [] if missing(width) else [f"w{width:g}"]
    switches = []
    for name, value in model.items():
        argument = known.get(name)
        if argument and argument.default is None and argument.type is str:
            names.append(str(value))  # b4 says more than variant=b4
        elif not argument or value != argument.default:
            switches.append(f"{name}={value_in_words(value)}")
    return names or ["" if missing(family) else str(family).removeprefix(TIMM)], switches


def _arguments(family: str) -> Mapping[str, Argument]:
    """Of a family that comes with the service; a plug-in's are not looked up, for that would run it."""
    try:
        return {} if family.startswith(TIMM) else find_family(family).arguments
    except ValueError:
        return {}
