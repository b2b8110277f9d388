"""What is done to images on their way to the model."""

import random

import numpy as np
import pytest
import torch
from digit_files import recipe_of
from PIL import Image

from workers.augment import eval_transform, rand_augment, seed_augmentation, train_transform

torch.set_num_threads(1)


def halves(size=40):
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (size, size), "red")
    image.paste("blue", (size // 2, 0, size, size))
    return image


# --- crops ------------------------------------------------------------------------------------------------------------


def test_evaluation_resizes_the_shorter_side_and_cuts_the_centre():
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste("blue", (20, 0, 60, 40))
    whole = eval_transform(recipe_of(), 20)(wide)
    assert whole.shape == (3, 20, 20)
    assert whole[2, 10, 2] > 200  # the left and right quarters, red, are cut off
    assert whole[0].max() < 120


@pytest.mark.parametrize(("resolution", "crop", "shorter"), [(224, 0.875, 256), (160, 0.875, 182), (224, 0.95, 235)])
def test_the_evaluation_crop_is_a_share_of_the_resized_image(resolution, crop, shorter):
    noise = Image.effect_noise((300, 300), 50).convert("RGB")
    cut = eval_transform(recipe_of(eval_crop=crop), resolution)(noise)
    resized = np.array(noise.resize((shorter, shorter), Image.Resampling.BICUBIC))
    edge = round((shorter - resolution) / 2)
    wanted = resized[edge : edge + resolution, edge : edge + resolution]
    assert torch.equal(cut, torch.tensor(wanted).permute(2, 0, 1))


def test_a_random_crop_and_a_flip_are_seen_in_the_image():
    flipped = train_transform(recipe_of(horizontal_flip=1.0), 40)(halves())
    assert (flipped[0, 20, 35].item(), flipped[2, 20, 5].item()) == (255, 255)
    torch.manual_seed(0)
    crop = train_transform(recipe_of(crop_min_area=0.1), 40)
    assert len({crop(halves()).numpy().tobytes() for _ in range(10)}) > 5


def test_a_crop_covers_the_asked_share_of_the_area_at_least():
    ramp = Image.fromarray(np.tile(np.arange(200, dtype="uint8"), (200, 1))).convert("RGB")
    crop = train_transform(recipe_of(crop_min_area=0.25), 64)
    torch.manual_seed(0)
    spans = []
    for _ in range(200):
        image = crop(ramp)[0].int()
        spans.append(int(image[0, -1] - image[0, 0]))
    # Width = sqrt(area x aspect) of 200 px: from sqrt(0.25 x 3/4) to 1.
    assert min(spans) >= 200 * (0.25 * 3 / 4) ** 0.5 - 6
    assert max(spans) > 150


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (300, 3)])
def test_images_of_a_pixel_or_two_are_augmented_like_any_other(size):
    recipe = recipe_of(crop_min_area=0.08, horizontal_flip=0.5, randaugment_layers=2, randaugment_magnitude=15.0)
    transform = train_transform(recipe, 32)
    assert all(transform(Image.new("RGB", size)).shape == (3, 32, 32) for _ in range(20))


# --- RandAugment ------------------------------------------------------------------------------------------------------


def operations(**fields):
    augment = rand_augment(recipe_of(randaugment_layers=2, **fields))
    assert augment.num_layers == 2
    return {operation.name: operation for operation in augment.ops}


def argument(operation):
    """What an operation is called with at its own magnitude, without the draw of its sign."""
    random.seed(1)
    magnitude = min(operation.magnitude, operation.magnitude_max)
    return abs(operation.level_fn(magnitude, operation.hparams)[0])


def test_the_operations_are_those_of_the_authors_code_but_for_cutout():
    names = set(operations(randaugment_magnitude=10.0))
    assert names == {
        "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
        "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
    }  # fmt: skip
    assert all(operation.prob == 0.5 for operation in operations(randaugment_magnitude=10.0).values())


# Arguments in the authors' code (TPU autoaugment.py): level / 10 x 30 degrees, x 1.8 + 0.1, x 0.3, x 4 bits, x 110, ...
@pytest.mark.parametrize(
    ("magnitude", "rotate", "colour", "shear", "posterize", "add"),
    [
        (5.0, 15, 1.0, 0.15, 2, 55),
        (10.0, 30, 1.9, 0.3, 4, 110),
        (15.0, 45, 2.8, 0.45, 6, 128),
        (20.0, 60, 3.7, 0.6, 8, 128),
    ],
)
def test_magnitudes_go_beyond_10_as_in_the_authors_code(magnitude, rotate, colour, shear, posterize, add):
    given = {name: argument(op) for name, op in operations(randaugment_magnitude=magnitude).items() if op.level_fn}
    assert given["Rotate"] == pytest.approx(rotate)
    assert given["Color"] == given["Brightness"] == pytest.approx(colour)
    assert given["ShearX"] == pytest.approx(shear)
    assert given["Posterize"] == posterize
    assert given["SolarizeAdd"] == add  # at most 128 in timm; TPU has 165 and 220
    assert given["TranslateXRel"] == pytest.approx(0.045 * magnitude)


def test_increasing_operations_are_those_that_grow_with_the_magnitude():
    names = set(operations(randaugment_magnitude=7.0, randaugment_increasing=True))
    assert {"PosterizeIncreasing", "SolarizeIncreasing", "ColorIncreasing", "SharpnessIncreasing"} < names
    assert not {"Posterize", "Solarize", "Color", "Sharpness"} & names


def test_it_is_what_timm_makes_of_the_same_words():
    from timm.data.auto_augment import rand_augment_transform

    shared = {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BICUBIC}
    noise = Image.effect_noise((48, 48), 80).convert("RGB")
    for words, fields in (
        ("rand-m10-n2", {"randaugment_magnitude": 10.0}),
        ("rand-m15-n2-mmax15", {"randaugment_magnitude": 15.0}),
        (
            "rand-m7-n2-mstd0.5-inc1",
            {"randaugment_magnitude": 7.0, "randaugment_std": 0.5, "randaugment_increasing": True},
        ),
    ):
        ours = rand_augment(recipe_of(randaugment_layers=2, **fields))
        theirs = rand_augment_transform(words, dict(shared))
        for key in range(40):
            seed_augmentation(key)
            wanted = np.array(theirs(noise))
            seed_augmentation(key)
            assert np.array_equal(np.array(ours(noise)), wanted), (words, key)


def test_a_spread_of_magnitudes_is_drawn_about_the_asked_one_and_not_cut_off_there():
    rotate = operations(randaugment_magnitude=15.0, randaugment_std=1.0)["Rotate"]
    assert (rotate.magnitude_std, rotate.magnitude_max) == (1.0, 18.0)
    assert operations(randaugment_magnitude=7.0, randaugment_std=0.5)["Rotate"].magnitude_max == 10.0


def test_an_augmentation_is_a_function_of_its_key():
    recipe = recipe_of(crop_min_area=0.3, horizontal_flip=0.5, randaugment_layers=2, randaugment_magnitude=10.0)
    transform = train_transform(recipe, 32)

    def of(*key):
        seed_augmentation(*key)
        return transform(halves()).numpy().tobytes()

    assert of(0, 1, 2, 0) == of(0, 1, 2, 0)
    assert len({of(0, 1, 2, 0), of(1, 1, 2, 0), of(0, 2, 2, 0), of(0, 1, 3, 0), of(0, 1, 2, 1)}) == 5
