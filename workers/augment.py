"""What is done to an image before it is a tensor: timm's augmentation for training, a centre crop for evaluation.

RandAugment is timm's copy of the code that the ResNet-RS authors released (TPU `autoaugment.py`): of 15 operations
`randaugment_layers` are drawn per image, and each is applied with probability 0.5 (TPU: a probability drawn from
0.2 to 0.8 for each application, which comes to the same). Magnitudes are on a scale of 10 and go beyond it as there:
15 rotates by 45 degrees. Differences that remain: no Cutout; translations of 45 % of the side at magnitude 10 (TPU:
100 px, the same at 224 px); above magnitude 11.6 SolarizeAdd adds 128 at most.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

from workers.recipe import Recipe

Transform = Callable[[Image.Image], torch.Tensor]

RANDAUGMENT_SCALE = 10.0
FILL = (128, 128, 128)  # where a rotated or shifted image leaves a gap (TPU)


def train_transform(recipe: Recipe, resolution: int) -> Transform:
    """Random resized crop, flip and RandAugment, as far as the recipe has them, to uint8 (3, R, R)."""
    steps: list[object] = [transforms.Resize((resolution, resolution), InterpolationMode.BICUBIC)]
    if recipe.crop_min_area < 1:
        steps = [_RandomResizedCrop(resolution, recipe.crop_min_area)]
    if recipe.horizontal_flip:
        steps.append(transforms.RandomHorizontalFlip(recipe.horizontal_flip))
    if recipe.randaugment_layers:
        steps.append(rand_augment(recipe))
    return cast(Transform, transforms.Compose([*steps, to_tensor]))


class _RandomResizedCrop:
    """timm's: a crop of a random area and of an aspect ratio from 3/4 to 4/3, resized by bicubic interpolation."""

    def __init__(self, resolution: int, min_area: float) -> None:
        self._resolution, self._area = resolution, (min_area, 1.0)

    def __call__(self, image: Image.Image) -> Image.Image:
        from timm.data.transforms import RandomResizedCropAndInterpolation

        top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, self._area, (3 / 4, 4 / 3))
        height, width = max(1, height), max(1, width)  # of an image of a pixel or two, timm may cut nothing
        top, left = min(top, image.height - height), min(left, image.width - width)
        cut = image.crop((left, top, left + width, top + height))
        return cut.resize((self._resolution, self._resolution), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """uint8 (3, H, W), with the colours of a pixel side by side in memory as PIL has them (channels last)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def rand_augment(recipe: Recipe) -> Callable[[Image.Image], Image.Image]:
    """RandAugment of a recipe, timm's: as `rand-m<magnitude>-n<layers>-mstd<std>-inc<increasing>`, beyond 10 too."""
    from timm.data.auto_augment import RandAugment, rand_augment_choices, rand_augment_ops

    magnitude, std = recipe.randaugment_magnitude, recipe.randaugment_std
    parameters = {
        "img_mean": FILL,
        "interpolation": Image.Resampling.BICUBIC,
        "magnitude_std": std,
        # timm clips at 10 unless told otherwise; the papers' scale goes beyond.
        "magnitude_max": max(RANDAUGMENT_SCALE, magnitude + 3 * std),
    }
    names = rand_augment_choices("", increasing=recipe.randaugment_increasing)
    operations = rand_augment_ops(magnitude, prob=0.5, hparams=parameters, transforms=names)
    return cast("Callable[[Image.Image], Image.Image]", RandAugment(operations, recipe.randaugment_layers))


def eval_transform(recipe: Recipe, resolution: int) -> Transform:
    """Resize the shorter side and cut the centre, to uint8 (3, R, R); rounds down as timm, which exports are for."""
    shorter = math.floor(resolution / recipe.eval_crop)
    steps = [transforms.Resize(shorter, InterpolationMode.BICUBIC), transforms.CenterCrop(resolution), to_tensor]
    return cast(Transform, transforms.Compose(steps))


def seed_augmentation(*key: int) -> None:
    """Make all that one image's augmentation draws a function of the key; changes the process's random states."""
    digest = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4])
    random.seed(digest)
    np.random.seed(digest)
    torch.default_generator.manual_seed(digest)  # torch.manual_seed would reseed the GPUs as well


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the process's random states back at the end."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
