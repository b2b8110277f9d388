"""Batches of a data set that lies in files: the same ones whatever processes and ranks share the work."""

import gc
import multiprocessing
import random

import numpy as np
import pytest
import torch
from digit_files import AUGMENTED, recipe_of, write_folder
from PIL import Image

from workers.contract import DataConfig, DataError, InvalidConfigError
from workers.data import CHUNK, Loader, load_splits

torch.set_num_threads(1)
# From Python 3.12 on, forking a process with threads is warned of; so are more loader processes than there are cores.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create 2 worker processes:UserWarning"
)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """54 training images of three classes, 18 of minival and 24 for validation."""
    root = write_folder(tmp_path_factory.mktemp("digits"))
    return load_splits(DataConfig("folder", "folder", 3, None, 0.25, str(root)))


def loader_of(splits, workers=0, seed=0, rank=0, ranks=1, resolution=20, **overrides):
    sizes = {"batch_size": 16, "bn_batch": 4} | AUGMENTED | overrides
    return Loader(splits, recipe_of(**sizes), resolution, seed, workers, rank, ranks)


def same(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def epoch_of(splits, epoch=1, first_step=0, **options):
    loader = loader_of(splits, **options)
    try:
        return list(loader.train(epoch, first_step))
    finally:
        loader.close()


# --- the same batches, whoever makes them -----------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
def test_batches_are_the_same_whichever_process_makes_them_and_differ_between_epochs(splits, repeats):
    here = epoch_of(splits, repeated_augmentation=repeats)
    assert len(here) == 54 // 16
    assert same(here, epoch_of(splits, workers=2, repeated_augmentation=repeats))
    assert not same(here, epoch_of(splits, epoch=2, repeated_augmentation=repeats))
    assert not same(here, epoch_of(splits, seed=1, repeated_augmentation=repeats))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first_step", [1, 2, 3])
def test_an_epoch_begun_at_a_step_is_the_rest_of_the_whole_one(splits, first_step, workers):
    whole = epoch_of(splits, repeated_augmentation=2)
    assert same(whole[first_step:], epoch_of(splits, first_step=first_step, workers=workers, repeated_augmentation=2))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("repeats", [1, 2])
def test_the_ranks_shares_put_together_are_the_whole_batch(splits, ranks, repeats):
    shares = [epoch_of(splits, rank=rank, ranks=ranks, repeated_augmentation=repeats) for rank in range(ranks)]
    together = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in zip(*shares, strict=True)]
    assert same(together, epoch_of(splits, repeated_augmentation=repeats))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_ranks_shares_of_an_evaluation_are_disjoint_and_complete(splits, ranks):
    loaders = [loader_of(splits, rank=rank, ranks=ranks, bn_batch=1, batch_size=30) for rank in range(ranks)]
    for subset in (splits.val, splits.minival, splits.train):
        shares = [list(loader.evaluate(subset)) for loader in loaders]
        images = torch.cat([images for share in shares for images, _ in share])
        assert torch.equal(torch.cat([labels for share in shares for _, labels in share]), subset.labels)
        assert images.shape[0] == len(subset)
        for loader, share in zip(loaders, shares, strict=True):
            assert loader.eval_batches(subset) == tuple(len(labels) for _, labels in share)


def test_a_batch_larger_than_a_chunk_is_put_together_in_order(splits, monkeypatch):
    whole = epoch_of(splits)
    assert CHUNK >= 16  # so each batch was one chunk
    monkeypatch.setattr("workers.data.CHUNK", 5)
    assert same(whole, epoch_of(splits))
    assert same(whole, epoch_of(splits, workers=2))


def test_groups_that_the_ranks_cannot_share_evenly_are_refused(splits):
    with pytest.raises(InvalidConfigError, match="4 groups of bn_batch 4: not a multiple of the 3 devices"):
        loader_of(splits, ranks=3)


# --- repeated augmentation --------------------------------------------------------------------------------------------


def plan_of(splits, epoch=1, **overrides):
    """Positions and copies of an epoch, each (steps, batch)."""
    return loader_of(splits, **overrides)._plan(epoch)


@pytest.mark.parametrize(("groups", "repeats"), [(4, 2), (4, 3), (4, 4), (8, 3)])
def test_copies_of_an_image_are_in_one_batch_and_in_different_groups(splits, groups, repeats):
    positions, copies = plan_of(splits, bn_batch=16 // groups, repeated_augmentation=repeats)
    for batch, which in zip(positions.tolist(), copies.tolist(), strict=True):
        samples = list(zip(batch, which, strict=True))
        assert len(set(samples)) == 16
        for group in torch.tensor(batch).view(groups, -1).tolist():
            assert len(set(group)) == len(group)
        assert len(set(batch)) <= 16 // repeats + 2  # the batch's ends may cut an image's copies apart


def test_each_image_of_an_epoch_comes_as_often_as_asked(splits):
    positions, copies = plan_of(splits, batch_size=18, bn_batch=6, repeated_augmentation=3)
    images, counts = positions.flatten().unique(return_counts=True)
    assert counts.tolist() == [3] * len(images)
    assert len(images) == 54 // 3
    assert copies.flatten().bincount().tolist() == [18] * 3


def test_an_epoch_has_as_many_samples_with_repeated_augmentation_and_another_choice_of_images(splits):
    once, thrice = loader_of(splits), loader_of(splits, repeated_augmentation=3)
    assert once.steps_per_epoch == thrice.steps_per_epoch
    first, second = (set(plan_of(splits, epoch, repeated_augmentation=3)[0].flatten().tolist()) for epoch in (1, 2))
    assert first != second


def test_each_copy_is_augmented_on_its_own(splits):
    options = {"batch_size": 8, "bn_batch": 2, "repeated_augmentation": 4}
    ((images, _), *_) = epoch_of(splits, **options)
    positions, _ = plan_of(splits, **options)
    copies = [image for image, position in zip(images, positions[0], strict=True) if position == positions[0, 0]]
    assert len(copies) == 4
    assert len({copy.numpy().tobytes() for copy in copies}) == 4


# --- resolutions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [AUGMENTED, dict.fromkeys(AUGMENTED, 0) | {"crop_min_area": 1.0}])
def test_evaluation_has_a_resolution_of_its_own(splits, overrides):
    loader = loader_of(splits, resolution=16, test_resolution=24, **overrides)
    assert next(loader.train(1))[0].shape == (16, 3, 16, 16)
    assert next(loader.evaluate(splits.val))[0].shape == (24, 3, 24, 24)
    without = loader_of(splits, resolution=16, **overrides)
    assert next(without.evaluate(splits.val))[0].shape == (24, 3, 16, 16)


def test_images_in_memory_are_kept_in_both_resolutions():
    digits = load_splits(DataConfig("digits", "sklearn-1797", 10, 1078, 0.25))
    loader = Loader(digits, recipe_of(test_resolution=12), 8, 0)
    assert next(loader.train(1))[0].shape == (32, 3, 8, 8)
    assert next(loader.evaluate(digits.train))[0].shape == (256, 3, 12, 12)
    assert next(loader.train(1))[0].shape == (32, 3, 8, 8)


# --- processes --------------------------------------------------------------------------------------------------------


def test_the_processes_live_from_epoch_to_epoch_and_end_when_the_loader_is_closed(splits):
    loader = loader_of(splits, workers=2)
    list(loader.train(1))
    first = {process.pid for process in multiprocessing.active_children()}
    list(loader.evaluate(splits.val))
    list(loader.train(2))
    assert {process.pid for process in multiprocessing.active_children()} == first
    assert len(first) == 2
    loader.close()
    assert multiprocessing.active_children() == []
    assert same(loader.train(1), epoch_of(splits))  # and come back when they are needed
    loader.close()


def test_the_processes_end_with_the_loader(splits):
    loader = loader_of(splits, workers=2)
    next(loader.train(1))
    assert multiprocessing.active_children()
    del loader
    gc.collect()
    assert multiprocessing.active_children() == []


def test_an_epoch_that_was_left_in_the_middle_does_not_get_into_the_next_one(splits):
    loader = loader_of(splits, workers=2)
    for _ in range(3):
        next(loader.train(1))
        assert same(loader.train(2), epoch_of(splits, epoch=2))
        assert same(loader.evaluate(splits.val), loader_of(splits).evaluate(splits.val))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_others_have_replaced_are_not_cut_short_in_silence(splits, workers):
    loader = loader_of(splits, workers=workers)
    begun = loader.train(1)
    next(begun)
    assert same(loader.evaluate(splits.val), loader_of(splits).evaluate(splits.val))
    with pytest.raises(RuntimeError, match="other batches were asked for"):
        list(begun)
    loader.close()


def test_images_of_another_source_are_read_too(splits, tmp_path):
    other = load_splits(DataConfig("folder", "folder", 3, None, 0.25, str(write_folder(tmp_path, 4, 2))))
    loader = loader_of(splits, workers=2)
    list(loader.train(1))
    assert same(loader.evaluate(other.val), loader_of(splits).evaluate(other.val))
    assert same(loader.train(1), epoch_of(splits))
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_corrupt_image_is_named_in_one_line_whichever_process_reads_it(tmp_path, damage, workers):
    root = write_folder(tmp_path)
    file = root / "val" / "two" / "25.png"
    file.write_bytes({"empty": b"", "text": b"no image at all", "truncated": file.read_bytes()[:-60]}[damage])
    broken = load_splits(DataConfig("folder", "folder", 3, None, 0.25, str(root)))
    loader = loader_of(broken, workers=workers)
    with pytest.raises(DataError) as told:
        list(loader.evaluate(broken.val))
    assert str(told.value).startswith(f"{file}: not a readable image (")
    assert "\n" not in str(told.value)
    assert multiprocessing.active_children() == []  # one that lived on would hold the trial's folder


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_processs_randomness_untouched(splits, workers):
    before = random_states()
    epoch_of(splits, workers=workers)
    assert random_states() == before


def test_images_come_as_they_are_in_their_files(splits):
    plain = dict.fromkeys(AUGMENTED, 0) | {"crop_min_area": 1.0}
    ((images, labels),) = loader_of(splits, **plain).evaluate(splits.val)
    assert (images.shape, images.dtype) == ((24, 3, 20, 20), torch.uint8)
    assert torch.equal(labels, splits.val.labels)
    with Image.open(splits.val.images._split / "one" / "25.png") as file:
        pixels = np.array(file)[:, 2:22]  # 24 x 20, of which the centre
    assert torch.equal(images[1, 0], torch.tensor(pixels))
