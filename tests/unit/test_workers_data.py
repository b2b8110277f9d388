import dataclasses
import hashlib
import json
import multiprocessing
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from workers.contract import DataConfig, DataError
from workers.data import Loader, Normalize, Subset, eval_transform, load_splits, train_transform
from workers.datasets import DATASETS
from workers.recipe import Cell, resolve

torch.set_num_threads(1)
DIGITS = DataConfig("digits", "sklearn-1797", 10, 1078, 0.25)
AUGMENTED = {"crop_min_area": 0.3, "horizontal_flip": 0.5, "randaugment_layers": 2, "randaugment_magnitude": 10}
# From Python 3.12 on, forking a process with threads is warned of; so are more loader processes than there are cores.
LOADER_PROCESSES = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create 2 worker processes:UserWarning"
)


def recipe_of(**overrides):
    return resolve("small", Cell(0.125, 26, 16, 1), overrides)


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


def test_evaluation_resizes_the_shorter_side_and_cuts_the_centre():
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste("blue", (20, 0, 60, 40))
    whole = eval_transform(recipe_of(), 20)(wide)
    assert whole.shape == (3, 20, 20)
    assert whole[2, 10, 2] > 200  # the left and right quarters, red, are cut off
    assert whole[0].max() < 120
    closer = eval_transform(recipe_of(eval_crop=0.5), 20)(Image.effect_noise((40, 40), 50).convert("RGB"))
    assert closer.shape == (3, 20, 20)


def test_a_random_crop_and_a_flip_are_seen_in_the_image():
    halves = Image.new("RGB", (40, 40), "red")
    halves.paste("blue", (20, 0, 40, 40))
    flipped = train_transform(recipe_of(horizontal_flip=1.0), 40)(halves)
    assert (flipped[0, 20, 35].item(), flipped[2, 20, 5].item()) == (255, 255)
    torch.manual_seed(0)
    crop = train_transform(recipe_of(crop_min_area=0.1), 40)
    assert len({crop(halves).numpy().tobytes() for _ in range(10)}) > 5


# --- a folder of images ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Zeros, ones and twos as PNG and JPEG files: 24 for training and 8 for validation of each."""
    root = tmp_path_factory.mktemp("digits")
    source = load_digits()
    for label, name in enumerate(("zero", "one", "two")):
        chosen = np.flatnonzero(source.target == label)[:32]
        for number, index in enumerate(chosen):
            split = root / ("train" if number < 24 else "val") / name
            split.mkdir(parents=True, exist_ok=True)
            pixels = (source.images[index] * 15.9).astype("uint8")
            image = Image.fromarray(pixels).resize((24, 20))
            image.save(split / f"{number:02}.{'png' if number % 2 else 'JPEG'}")
    return root


@pytest.fixture
def broken(folder, tmp_path):
    """A copy to damage."""
    return shutil.copytree(folder, tmp_path / "data")


def folder_splits(root, classes=3, minival=0.25):
    return load_splits(DataConfig("folder", "folder", classes, None, minival, None if root is None else str(root)))


def test_a_folders_labels_follow_the_alphabetical_order_of_its_class_folders(folder):
    splits = folder_splits(folder)
    assert splits.val.images.classes == ["one", "two", "zero"]
    for part in (splits.train, splits.minival, splits.val):
        for index, label in zip(part.indices, part.labels.tolist(), strict=True):
            assert part.images.files[index].parent.name == ("one", "two", "zero")[label]


def test_a_folders_minival_is_held_out_of_its_training_images_class_by_class(folder):
    splits = folder_splits(folder)
    assert torch.bincount(splits.minival.labels).tolist() == [6, 6, 6]
    assert torch.bincount(splits.train.labels).tolist() == [18, 18, 18]
    assert sorted(splits.train.indices + splits.minival.indices) == list(range(72))
    assert set(splits.train_clean.indices) <= set(splits.train.indices)
    assert torch.bincount(splits.val.labels).tolist() == [8, 8, 8]


def test_a_folder_is_split_alike_wherever_it_lies(folder, broken):
    assert folder_splits(folder).minival.indices == folder_splits(broken).minival.indices


def test_a_folders_images_come_as_they_are_in_their_files(folder):
    splits = folder_splits(folder)
    ((images, labels),) = loader_of(splits, 20, workers=0, batch_size=16, bn_batch=16).evaluate(splits.val)
    assert (images.shape, images.dtype) == ((24, 3, 20, 20), torch.uint8)
    assert torch.equal(labels, splits.val.labels)
    with Image.open(folder / "val" / "one" / "25.png") as file:
        pixels = np.array(file)[:, 2:22]  # 24 x 20, of which the centre
    assert torch.equal(images[1, 0], torch.tensor(pixels))


def refused(root, *words, **options):
    with pytest.raises(DataError) as told:
        folder_splits(root, **options)
    message = str(told.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


def test_without_a_folder_the_field_is_named():
    refused(None, "set data.root in the search space")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named(broken, split):
    (broken / split).rename(broken / "elsewhere")
    refused(broken, broken / split, "no such folder")


def test_an_absent_folder_is_named(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere" / "train")


def test_an_empty_class_is_named(broken):
    for file in (broken / "val" / "two").iterdir():
        file.unlink()
    refused(broken, broken / "val" / "two", "no images")


def test_splits_of_different_classes_are_refused(broken):
    (broken / "val" / "two").rename(broken / "val" / "three")
    refused(broken, broken, "train and val have different class folders")


def test_another_number_of_classes_than_promised_is_refused(folder):
    refused(folder, folder, "3 class folders, expected 1000", classes=1000)


TEXT = b"no image at all"


@pytest.mark.parametrize(
    ("damage", "workers"),
    [(b"", 0), (TEXT, 0), (None, 0), pytest.param(TEXT, 2, marks=LOADER_PROCESSES)],
    ids=["empty", "text", "truncated", "read in another process"],
)
def test_a_corrupt_image_is_named_in_one_line_whichever_process_reads_it(broken, damage, workers):
    file = broken / "val" / "two" / "25.png"
    file.write_bytes(file.read_bytes()[:-60] if damage is None else damage)
    splits = folder_splits(broken)
    loader = loader_of(splits, workers=workers, batch_size=16, bn_batch=16)
    with pytest.raises(DataError) as told:
        list(loader.evaluate(splits.val))
    assert str(told.value).startswith(f"{file}: not a readable image (")
    assert "\n" not in str(told.value)
    assert multiprocessing.active_children() == []  # one that lived on would hold the trial's folder


@pytest.fixture(scope="module")
def augmented(folder):
    return folder_splits(folder)


def batches_of(splits, workers, epoch, seed=0):
    return list(loader_of(splits, workers=workers, seed=seed, batch_size=8, bn_batch=8, **AUGMENTED).train(epoch))


@LOADER_PROCESSES
def test_augmented_batches_are_the_same_whichever_process_makes_them_and_differ_between_epochs(augmented):
    here, there = batches_of(augmented, 0, epoch=1), batches_of(augmented, 2, epoch=1)
    assert same(here, there)
    assert not same(here, batches_of(augmented, 0, epoch=2))
    assert not same(here, batches_of(augmented, 0, epoch=1, seed=1))


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=LOADER_PROCESSES)])
def test_loading_a_folder_leaves_the_processs_randomness_untouched(augmented, workers):
    before = random_states()
    batches_of(augmented, workers, epoch=1)
    assert random_states() == before


def test_augmenting_in_memory_images_leaves_the_processs_randomness_untouched(digits):
    before = random_states()
    next(loader_of(digits, **AUGMENTED).train(1))
    assert random_states() == before


def test_augmenting_does_not_seed_the_gpus(digits, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    next(loader_of(digits, **AUGMENTED).train(1))
    assert seeded == []
    torch.manual_seed(0)
    assert seeded == [0]  # so it would have been seen
