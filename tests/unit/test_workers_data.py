import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from digit_files import AUGMENTED, recipe_of
from sklearn.datasets import load_digits

from workers.contract import DataConfig, DataError
from workers.data import Loader, Normalize, Subset, load_splits
from workers.datasets import DATASETS

torch.set_num_threads(1)
DIGITS = DataConfig("digits", "sklearn-1797", 10, 1078, 0.25)


@pytest.fixture(scope="module")
def digits():
    return load_splits(DIGITS)


def loader_of(splits, resolution=16, seed=0, workers=None, **overrides):
    return Loader(splits, recipe_of(**overrides), resolution, seed, workers)


def same(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_sizes_are_a_fifth_for_val_and_the_asked_share_of_the_rest_for_minival(digits):
    assert len(digits.val) == 359
    assert len(digits.minival) == len(digits.train_clean) == 359
    assert len(digits.train) == 1079
    assert len(digits.train) + len(digits.minival) == DATASETS["digits"].images


def test_digits_parts_are_disjoint_and_complete(digits):
    parts = [digits.train.indices, digits.minival.indices, digits.val.indices]
    assert sorted(index for part in parts for index in part) == list(range(1797))


def test_digits_are_split_class_by_class(digits):
    whole = np.bincount(load_digits().target)
    for part, share in ((digits.val, 0.2), (digits.minival, 0.2), (digits.train, 0.6)):
        assert torch.bincount(part.labels).tolist() == pytest.approx((whole * share).tolist(), abs=1.01)


def test_the_clean_training_images_are_training_images(digits):
    assert set(digits.train_clean.indices) < set(digits.train.indices)


def test_digits_are_split_alike_on_every_machine(digits):
    def digest(part):
        return hashlib.sha256(json.dumps(part.indices).encode()).hexdigest()[:16]

    assert digest(digits.train) == "719dd0b48ab8a498"
    assert digest(digits.train_clean) == "141f32a08a5cdb9a"
    assert digest(digits.minival) == "55e1b109795b465e"
    assert digest(digits.val) == "29894d8f952009d1"


def test_digits_are_scikit_learns_images_with_their_labels(digits):
    source = load_digits()
    pixels = np.array(digits.val.images.load(7))
    assert pixels.shape == (8, 8, 3)
    assert np.array_equal(pixels[..., 0], np.rint(source.images[7] * 255 / 16))
    assert digits.val.labels.tolist() == source.target[list(digits.val.indices)].tolist()


@pytest.mark.parametrize("classes", [2, 9, 11, 1000])
def test_digits_with_another_number_of_classes_are_refused(classes):
    with pytest.raises(DataError, match=f"^digits: 10 classes, expected {classes}$"):
        load_splits(dataclasses.replace(DIGITS, classes=classes))


@pytest.mark.parametrize("resolution", [8, 16, 20, 33])
@pytest.mark.parametrize("overrides", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_batches_are_bytes_of_the_asked_resolution(digits, resolution, overrides):
    loader = loader_of(digits, resolution, **overrides)
    images, labels = next(loader.train(1))
    assert (images.shape, images.dtype) == ((32, 3, resolution, resolution), torch.uint8)
    assert (labels.shape, labels.dtype) == ((32,), torch.int64)
    assert images.float().std() > 30
    images, labels = next(loader.evaluate(digits.val))
    assert (images.shape, images.dtype) == ((256, 3, resolution, resolution), torch.uint8)


def test_an_epoch_has_each_image_at_most_once_in_full_batches(digits):
    loader = loader_of(digits, 8)
    batches = list(loader.train(1))
    assert len(batches) == loader.steps_per_epoch == 1079 // 32
    assert {len(labels) for _, labels in batches} == {32}
    classes = torch.bincount(torch.cat([labels for _, labels in batches]), minlength=10)
    assert bool((classes <= torch.bincount(digits.train.labels)).all())


def test_evaluation_has_every_image_once_in_order(digits):
    batches = list(loader_of(digits, 8).evaluate(digits.val))
    assert torch.equal(torch.cat([labels for _, labels in batches]), digits.val.labels)
    images = torch.cat([images for images, _ in batches])
    assert images.shape[0] == 359
    assert torch.equal(images[3, 0], torch.tensor(np.array(digits.val.images.load(digits.val.indices[3])))[..., 0])


@pytest.mark.parametrize("overrides", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_batches_depend_on_seed_and_epoch_alone(digits, overrides):
    def three(seed, epoch):
        batches = loader_of(digits, seed=seed, **overrides).train(epoch)
        return [next(batches) for _ in range(3)]

    torch.manual_seed(1)
    first = three(0, 2)
    torch.manual_seed(2)
    torch.rand(5)
    assert same(first, three(0, 2))
    assert not same(first, three(0, 3))
    assert not same(first, three(1, 2))


def test_every_epoch_has_another_order(digits):
    loader = loader_of(digits, 8)
    orders = [tuple(torch.cat([labels for _, labels in loader.train(epoch)]).tolist()) for epoch in range(1, 9)]
    assert len(set(orders)) == 8


def test_augmented_images_differ_between_epochs_and_seeds_and_plain_ones_do_not(digits):
    part = dataclasses.replace(digits, train=Subset(digits.train.images, digits.train.indices[:32]))

    def images_of(seed, epoch, **overrides):
        return {image.numpy().tobytes() for image in next(loader_of(part, seed=seed, **overrides).train(epoch))[0]}

    assert images_of(0, 1) == images_of(0, 2) == images_of(1, 1)
    first = images_of(0, 1, **AUGMENTED)
    assert len(first & images_of(0, 2, **AUGMENTED)) < 4
    assert len(first & images_of(1, 1, **AUGMENTED)) < 4


def test_parts_that_live_for_one_evaluation_are_not_mixed_up(digits):
    loader = loader_of(digits, 8)
    for index in range(20):
        part = Subset(digits.val.images, (index,))
        ((image, _),) = loader.evaluate(part)
        assert torch.equal(image[0, 0], torch.tensor(np.array(part.images.load(index)))[..., 0])
        del part


def test_a_training_set_below_one_batch_is_refused(digits):
    with pytest.raises(DataError, match="1079 training images are fewer than a batch of 2048"):
        loader_of(digits, batch_size=2048)


def test_normalized_digits_have_zero_mean_and_unit_variance(digits):
    images = torch.cat([images for images, _ in loader_of(digits, 8).evaluate(digits.train)])
    normal = Normalize(digits, torch.device("cpu"))(images)
    assert normal.dtype == torch.float32
    assert normal.is_contiguous(memory_format=torch.channels_last)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
