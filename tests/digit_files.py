"""Small data sets of real image files, made from scikit-learn's digits, and recipes to read them with."""

import dataclasses

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from workers.recipe import Recipe

NAMES = ("zero", "one", "two")
AUGMENTED = {"crop_min_area": 0.3, "horizontal_flip": 0.5, "randaugment_layers": 2, "randaugment_magnitude": 10.0}


def recipe_of(**overrides):
    """The recipe for data sets of a thousand images: batches of 32, no augmentation."""
    small = Recipe(
        name="small", batch_size=32, bn_batch=32, learning_rate=0.1, warmup_epochs=0.1, weight_decay=4e-5,
        label_smoothing=0.1,
    )  # fmt: skip
    return dataclasses.replace(small, **overrides)


def digit_images(label, count, size=(24, 20)):
    """The first images of one digit, enlarged."""
    source = load_digits()
    for index in np.flatnonzero(source.target == label)[:count]:
        yield Image.fromarray((source.images[index] * 15.9).astype("uint8")).resize(size)


def write_folder(root, train=24, val=8, size=(24, 20), names=NAMES, splits=("train", "val")):
    """Zeros, ones and twos in a folder each, as PNG and JPEG files in turn."""
    for label, name in enumerate(names):
        for number, image in enumerate(digit_images(label, train + val, size)):
            split = root / splits[number >= train] / name
            split.mkdir(parents=True, exist_ok=True)
            image.save(split / f"{number:02}.{'png' if number % 2 else 'JPEG'}")
    return root
