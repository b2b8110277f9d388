"""Writes a trained model as a folder that timm alone can load.

`timm.create_model("local-dir:FOLDER", pretrained=True)` gives the model with its weights, and
`timm.data.resolve_model_data_config` of it how images are prepared.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.layers import make_divisible

from workers.contract import TrialConfig
from workers.datasets import find_dataset
from workers.families import TIMM, find_family, resolve_arguments
from workers.files import plain, write_bytes
from workers.model import efficientnet_entry, timm_options
from workers.resnet_rs import BLOCKS, STAGE_CHANNELS, STEM_CHANNELS, stage_channels, stem_channels
from workers.sources import DigitsImages
from workers.splits import IMAGENET_MEAN, IMAGENET_STD

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # names that timm looks for
_DIGEST = "sha256"  # in the file's metadata: safetensors itself would not notice a bit that turned
TIMM_SE_DIVISOR = 8  # timm's resnetrs models round the channels inside squeeze-and-excitation to multiples of it


class DamagedWeightsError(ValueError):
    """The weights are missing or not as they were written."""


def save_weights(path: Path, state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors with a hash of them, whole or not at all.

    Args:
        path: of the file.
        state_dict: tensors on any device, by the names of `model.state_dict()`.
        metadata: text to keep beside them.
    """
    # A copy of each in one block, since safetensors takes neither shared memory nor channels-last.
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state_dict.items()
    }
    # safetensors writes several entries in any order: with one alone the same weights are the same bytes.
    described = {"format": "pt", **metadata} if metadata else {}
    write_bytes(path, safetensors.torch.save(tensors, {**described, _DIGEST: _digest(tensors)}))


def export_model(config: TrialConfig, weights: Path, row: Mapping[str, Any], out: Path) -> None:
    """Write `model.safetensors` and `config.json` into a folder.

    Args:
        config: of the trial; its families `resnet_rs`, `efficientnet` and `timm:` can be exported.
        weights: what `save_weights` wrote of the trained model, for evaluation.
        row: of the results table; kept as the weights' metadata and in the configuration.
        out: the folder; made where it is missing, its two files replaced.

    Raises:
        ValueError: timm cannot express the model, or the weights are missing, damaged or another model's; one line.
    """
    architecture, arguments = timm_entry(config)
    tensors = _read(weights)
    with torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False, num_classes=config.data.classes, **arguments)
    _check_same(model.state_dict(), tensors, weights, architecture)
    kept = json.dumps(plain(dict(row)), default=_plain_value, allow_nan=False)
    described = {
        "architecture": architecture,
        "num_classes": config.data.classes,
        "num_features": model.num_features,
        "model_args": arguments,
        "pretrained_cfg": _preprocessing(config, model),
        "row": json.loads(kept),
    }
    try:
        save_weights(out / WEIGHTS, tensors, {"trial_id": config.trial_id, "row": kept})
        write_bytes(out / CONFIG, (json.dumps(described, indent=1) + "\n").encode())
    except OSError as error:
        raise ValueError(f"{out}: cannot be written: {error.strerror}") from error


def timm_entry(config: TrialConfig) -> tuple[str, dict[str, Any]]:
    """The architecture of timm and the arguments with which it is the trial's model.

    Raises:
        ValueError: there are none; says which value cannot be expressed.
    """
    family = find_family(config.family, config.plugins)
    arguments = resolve_arguments(family, config.arguments)
    if config.family == "resnet_rs":
        return _resnet_rs_entry(**arguments)
    if config.family == "efficientnet":
        return efficientnet_entry(arguments["variant"])
    if config.family.startswith(TIMM):
        architecture = config.family.removeprefix(TIMM)
        return architecture, timm_options(architecture, config.resolution, config.recipe.test_resolution)
    raise ValueError(f"family {config.family!r} comes from a plug-in, which timm does not know; it cannot be exported")


def _resnet_rs_entry(width: float, depth: int, se: bool, resnet_d: bool, stem_pool: str) -> tuple[str, dict[str, Any]]:
    channels, stem = stage_channels(width), stem_channels(width)
    if not resnet_d and stem != STEM_CHANNELS:
        raise ValueError(
            f"width {width:g} without resnet_d cannot be exported: timm's plain stem has {2 * STEM_CHANNELS} channels, "
            f"this one {2 * stem}"
        )
    step = TIMM_SE_DIVISOR / STAGE_CHANNELS[0]
    for inner in channels if se else ():
        rounded = make_divisible(inner, TIMM_SE_DIVISOR, round_limit=0.0)
        if rounded != inner:
            raise ValueError(
                f"width {width:g} with se cannot be exported: squeeze-and-excitation has {inner} channels here, and "
                f"timm rounds them to {rounded}; multiples of {step:g} can be"
            )
    arguments: dict[str, Any] = {
        "layers": list(BLOCKS[depth]),
        "channels": list(channels),
        "stem_width": stem,
        "stem_type": "deep" if resnet_d else "",
        "avg_down": resnet_d,
        "replace_stem_pool": stem_pool == "conv",
    }
    # JSON has no word for squeeze-and-excitation of a quarter, so the architecture has to bring it.
    return ("resnetrs50" if se else "resnet50"), arguments


def _preprocessing(config: TrialConfig, model: torch.nn.Module) -> dict[str, Any]:
    """Images as the trial evaluated on them, and where timm finds the first and the last layer."""
    recipe, side = config.recipe, config.resolution
    mean, std = _normalisation(config)
    known: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    first = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d))
    described = {
        "num_classes": config.data.classes,
        "input_size": [3, side, side],
        "fixed_input_size": known.get("fixed_input_size", False),
        "pool_size": None,
        "crop_pct": recipe.eval_crop,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": list(mean),
        "std": list(std),
        "first_conv": first if config.family == "resnet_rs" else known.get("first_conv"),
        "classifier": known.get("classifier"),
    }
    if recipe.test_resolution:
        described["test_input_size"] = [3, recipe.test_resolution, recipe.test_resolution]
    return described


def _normalisation(config: TrialConfig) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the pixels that the trial took; a plug-in's data set is opened to be asked."""
    source: object = DigitsImages if config.data.name == "digits" else None
    opened_by = find_dataset(config.data.name, config.plugins).open
    if opened_by is not None:
        try:
            source = opened_by(config.data)[0]
        except Exception as error:  # a plug-in's
            told = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"data set {config.data.name}: cannot be opened for its mean and deviation: {told}"
            ) from error
    return getattr(source, "mean", IMAGENET_MEAN), getattr(source, "std", IMAGENET_STD)


def _read(weights: Path) -> dict[str, torch.Tensor]:
    try:
        with safetensors.safe_open(weights, "pt") as file:
            recorded = (file.metadata() or {}).get(_DIGEST)
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DamagedWeightsError(f"{weights}: no weights can be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DamagedWeightsError(f"{weights}: not a whole safetensors file: {error}") from error
    if recorded not in (None, _digest(tensors)):
        raise DamagedWeightsError(f"{weights}: its contents do not fit the recorded hash")
    return tensors


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_same(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], weights: Path, architecture: str
) -> None:
    """Refuse weights that timm's model would not take; it would load a part of them and say nothing."""
    for name in sorted(expected.keys() ^ found.keys()):
        told = "is not in" if name in found else "is missing here and is in"
        raise ValueError(f"{weights}: tensor {name} {told} timm's {architecture}: another model's weights")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise ValueError(
                f"{weights}: {name} has shape {tuple(found[name].shape)}, in timm's {architecture} "
                f"{tuple(tensor.shape)}: another model's weights"
            )


def _plain_value(value: Any) -> Any:
    """A number of NumPy as Python's, everything else that JSON has no word for as text."""
    return plain(value.item()) if hasattr(value, "item") else str(value)
