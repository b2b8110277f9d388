"""Trials on the digits, small enough for any test."""

from workers.contract import DataConfig, Execution, TrialConfig
from workers.recipe import Cell
from workers.recipes import resolve

DIGITS = DataConfig("digits", "sklearn-1797", 10, 1078, 0.25)
SWITCHES = {"se": True, "resnet_d": True, "stem_pool": "conv"}
# Everything that draws random numbers or has a state of its own.
REGULARISED = {
    "batch_size": 256,
    "bn_batch": 128,
    "ema_decay": 0.9,
    "dropout": 0.2,
    "stochastic_depth": 0.2,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "crop_min_area": 0.5,
    "horizontal_flip": 0.5,
    "randaugment_layers": 1,
    "randaugment_magnitude": 5.0,
    "randaugment_std": 0.5,
}
QUICK = {"batch_size": 256, "bn_batch": 128}  # where the accuracy does not matter


def digits_trial(epochs=2, seed=0, width=0.0625, resolution=16, data=DIGITS, device="cpu", execution=None, **recipe):
    """A ResNet-RS-26 on the digits by the recipe `small` with some of its values replaced."""
    cell = Cell(resolution=resolution, epochs=epochs, width=width, depth=26)
    return TrialConfig(
        "a-trial", "resnet_rs", resolution, epochs, seed, resolve("small", cell, recipe), data, width=width, depth=26,
        model=SWITCHES, device=device, execution=execution or Execution(loader_workers=0),
    )  # fmt: skip
