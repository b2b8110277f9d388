"""The cache of decoded images: the same pixels, built once, whole or not there whatever dies."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from digit_files import AUGMENTED, recipe_of, write_folder
from PIL import Image

from workers import cache
from workers.cache import CachedImages, DamagedCacheError, checksum, damaged_parts, open_cache
from workers.contract import DataConfig, DataError, TrialStatus
from workers.data import Loader, load_splits
from workers.sources import FolderImages

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create 2 worker processes:UserWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("digits"), train=24, val=8)


@pytest.fixture
def small_parts(monkeypatch):
    """So that 72 images make 14 parts."""
    monkeypatch.setattr(cache, "PART_IMAGES", 5)


def config_of(root, folder, **options):
    return DataConfig("folder", "folder", 3, None, 0.25, str(root), cache=str(folder), **options)


def opened(root, folder, workers=0, split="train", **options):
    return open_cache(FolderImages(root / split), split, config_of(root, folder, **options), workers)


def contents(folder):
    """Every file of a cache by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def only(folder):
    (path,) = folder.iterdir()
    return path


def all_pixels(images):
    return [np.array(images.load(index)) for index in range(len(images.names))]


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cached_image_is_the_decoded_one(folder, tmp_path, small_parts, workers):
    source, cached = FolderImages(folder / "train"), opened(folder, tmp_path, workers)
    assert (cached.names, cached.labels, cached.classes) == (source.names, source.labels, source.classes)
    assert len(list(only(tmp_path).glob("*.bin"))) == 14
    for ours, theirs in zip(all_pixels(cached), all_pixels(source), strict=True):
        assert np.array_equal(ours, theirs)
    assert cached.load(3).mode == "RGB"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("overrides", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_batches_are_the_same_to_the_bit_with_and_without_a_cache(folder, tmp_path, workers, overrides):
    without = load_splits(DataConfig("folder", "folder", 3, None, 0.25, str(folder)))
    splits = load_splits(config_of(folder, tmp_path))
    loaders = [Loader(s, recipe_of(batch_size=8, bn_batch=8, **overrides), 16, 0, workers) for s in (without, splits)]
    for batches in (lambda loader: loader.train(1), lambda loader: loader.evaluate(loader.splits.val)):
        for ours, theirs in zip(*(batches(loader) for loader in loaders), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for loader in loaders:
        loader.close()


def test_the_shorter_side_is_reduced_to_what_was_asked_for_and_never_enlarged(tmp_path):
    root = write_folder(tmp_path / "wide", train=2, val=1, size=(60, 40))
    whole, half, same = (opened(root, tmp_path / "cache", cache_side=side) for side in (None, 20, 100))
    assert whole.load(0).size == same.load(0).size == (60, 40)
    assert half.load(0).size == (30, 20)
    wanted = whole.load(0).resize((30, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(np.array(half.load(0)), np.array(wanted))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_images_of_many_sizes_are_kept_apart(tmp_path):
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    wanted = []
    for number in range(12):
        pixels = np.full((1 + number % 4, 2 + number % 3, 3), number * 20, "uint8")
        Image.fromarray(pixels).save(tmp_path / "data" / "train" / "a" / f"{number:02}.png")
        wanted.append(pixels)
    cached = opened(tmp_path / "data", tmp_path / "cache")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(all_pixels(cached), wanted, strict=True))


# --- what it is known by ----------------------------------------------------------------------------------------------


def test_an_open_cache_is_read_and_not_made_again(folder, tmp_path, monkeypatch):
    opened(folder, tmp_path)
    monkeypatch.setattr(FolderImages, "load", lambda *_: pytest.fail("decoded again"))
    assert len(all_pixels(opened(folder, tmp_path))) == 72


@pytest.mark.parametrize("change", ["content", "name", "time", "removed", "added"])
def test_changed_files_get_a_cache_of_their_own(folder, tmp_path, change):
    root = shutil.copytree(folder, tmp_path / "data")
    opened(root, tmp_path / "cache")
    file = root / "train" / "one" / "01.png"
    if change == "content":
        Image.new("RGB", (24, 20), "red").save(file)
    elif change == "name":
        file.rename(file.with_name("x.png"))
    elif change == "time":
        os.utime(file, ns=(0, 0))
    elif change == "removed":
        file.unlink()
    else:
        shutil.copyfile(file, file.with_name("x.png"))
    images = opened(root, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert all(
        np.array_equal(a, b) for a, b in zip(all_pixels(images), all_pixels(FolderImages(root / "train")), strict=True)
    )


def test_the_two_splits_and_other_versions_get_caches_of_their_own(folder, tmp_path):
    opened(folder, tmp_path)
    opened(folder, tmp_path, split="val")
    later = DataConfig("folder", "2", 3, None, 0.25, str(folder), cache=str(tmp_path))
    open_cache(FolderImages(folder / "train"), "train", later, 0)
    assert len(list(tmp_path.iterdir())) == 3


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut short", "missing", "facts missing", "manifest torn"])
def test_a_damaged_part_is_made_again_and_the_others_are_kept(folder, tmp_path, small_parts, damage):
    opened(folder, tmp_path)
    kept, whole = only(tmp_path), contents(only(tmp_path))
    times = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.bin")}
    if damage == "cut short":
        os.truncate(kept / "00003.bin", 100)
    elif damage == "manifest torn":
        (kept / "manifest.json").write_text('{"format"')
    else:
        (kept / ("00003.bin" if damage == "missing" else "00003.json")).unlink()
    opened(folder, tmp_path)
    assert contents(kept) == whole
    again = {path.name for path in kept.glob("*.bin") if path.stat().st_mtime_ns != times[path.name]}
    assert again == (set() if damage == "manifest torn" else {"00003.bin"})


def test_changed_pixels_are_found_by_their_hash(folder, tmp_path, small_parts, capsys):
    opened(folder, tmp_path)
    assert cache.main([str(tmp_path)]) == 0
    pixels = only(tmp_path) / "00005.bin"
    with pixels.open("r+b") as file:
        file.seek(50)
        file.write(b"\x55\xaa")
    assert damaged_parts(only(tmp_path)) == ["00005.bin"]
    assert cache.main([str(tmp_path)]) == 1
    assert "damaged: 00005.bin; delete these files" in capsys.readouterr().out
    pixels.unlink()
    opened(folder, tmp_path)
    assert cache.main([str(tmp_path)]) == 0
    assert cache.main([str(tmp_path / "nowhere")]) == 2


def test_an_image_whose_bits_turned_is_not_trained_on_and_its_part_is_made_again(folder, tmp_path, small_parts):
    whole = [image.tobytes() for image in map(opened(folder, tmp_path).load, range(72))]
    pixels = only(tmp_path) / "00005.bin"
    data = bytearray(pixels.read_bytes())
    data[50] ^= 4
    pixels.write_bytes(data)
    images = opened(folder, tmp_path)
    with pytest.raises(DamagedCacheError, match=r"00005\.bin: .* is not as it was written"):
        [images.load(index) for index in range(72)]
    assert DamagedCacheError.status is TrialStatus.CRASHED  # which is run again
    assert [image.tobytes() for image in map(opened(folder, tmp_path).load, range(72))] == whole


@pytest.mark.parametrize("name", ["00003.json", "manifest.json"])
def test_a_list_whose_bits_turned_is_made_again(folder, tmp_path, small_parts, name):
    opened(folder, tmp_path)
    path = only(tmp_path) / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        assert opened(folder, tmp_path).labels == sorted(opened(folder, tmp_path).labels)
        assert damaged_parts(only(tmp_path)) == []


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 3 * 5 * 7])
def test_every_bit_that_turns_changes_the_sum(size):
    pixels = bytearray(range(size))
    for bit in range(8 * size):
        turned = bytearray(pixels)
        turned[bit // 8] ^= 1 << bit % 8
        assert checksum(turned) != checksum(pixels)


def refused(folder, where, *words, **options):
    with pytest.raises(DataError) as told:
        opened(folder, where, **options)
    message = str(told.value)
    assert message.startswith(str(where))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_folder_that_cannot_be_made_or_written_is_named(folder, tmp_path):
    (tmp_path / "file").touch()
    refused(folder, tmp_path / "file", "the cache cannot be used (Not a directory)")
    refused(folder, "/proc/cache", "the cache cannot be used (No such file or directory)")  # not even by root


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from workers import cache
from workers.contract import DataConfig, DataError
from workers.sources import FolderImages
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
cache.PART_IMAGES = 24
root, where = sys.argv[1:]
config = DataConfig("folder", "folder", 3, None, 0.25, root, cache=where)
try:
    cache.open_cache(FolderImages(Path(root) / "train"), "train", config, 0)
except DataError as error:
    print(error, end="")
"""


def test_a_write_that_fails_is_told_in_one_line_and_leaves_nothing_torn(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, folder, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{only(tmp_path)}: the cache cannot be written (File too large)"
    assert [path.name for path in only(tmp_path).iterdir()] == ["lock"]
    assert len(all_pixels(opened(folder, tmp_path))) == 72


# --- several processes, and their deaths ------------------------------------------------------------------------------

BUILD = """
import sys, time
from pathlib import Path
from workers import cache
from workers.contract import DataConfig
from workers.sources import FolderImages

class Slow(FolderImages):
    def load(self, index):
        time.sleep(float(sys.argv[4]))
        return super().load(index)

cache.PART_IMAGES = 5
root, where, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = DataConfig("folder", "folder", 3, None, 0.25, root, cache=where)
print("begun", flush=True)
cache.open_cache(Slow(Path(root) / "train"), "train", config, workers)
print("done", flush=True)
"""


def builder(root, where, workers=0, pause=0.003):
    """A process that builds a cache slowly, from the moment that it says so."""
    arguments = [sys.executable, "-c", BUILD, root, where, str(workers), str(pause)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def test_of_two_processes_one_builds_and_the_other_waits(folder, tmp_path):
    processes = [builder(folder, tmp_path, pause=0.01) for _ in range(2)]
    written = {}
    while any(process.poll() is None for process in processes):
        for path in tmp_path.glob("*/*.bin"):
            written.setdefault(path.name, set()).add(path.stat().st_mtime_ns)
    for process in processes:
        assert process.stdout.read() == "done\n"
        process.stdout.close()
    assert len(written) == 14
    assert all(len(times) == 1 for times in written.values())  # no part was written twice


def killed_while_building(root, where, after, workers=0, parts=0):
    """Kill a builder some seconds after it had finished some parts; whether it was still building."""
    process = builder(root, where, workers)
    while len(list(where.glob("*/*.json"))) < parts:
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return not list(where.glob("*/manifest.json"))


def test_a_cache_whose_building_is_killed_again_and_again_ends_up_whole(folder, tmp_path, small_parts):
    opened(folder, tmp_path / "wanted")
    wanted = contents(only(tmp_path / "wanted"))
    draw = random.Random(0)
    killed = 0
    for parts in range(8):
        killed += killed_while_building(folder, tmp_path / "killed", draw.uniform(0, 0.02), parts=parts)
    assert killed >= 4
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/*.json")}
    assert len(times) >= 7
    opened(folder, tmp_path / "killed")
    assert contents(only(tmp_path / "killed")) == wanted
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in times.items())  # it went on from these


def test_processes_whose_parent_was_killed_do_no_harm(folder, tmp_path, small_parts):
    opened(folder, tmp_path / "wanted")
    assert killed_while_building(folder, tmp_path / "killed", 0, workers=2, parts=3)
    opened(folder, tmp_path / "killed")  # waits for them
    assert contents(only(tmp_path / "killed")) == contents(only(tmp_path / "wanted"))


def test_an_image_that_is_unreadable_ends_the_building_unless_it_may_be_skipped(folder, tmp_path, small_parts):
    root = shutil.copytree(folder, tmp_path / "data")
    (root / "train" / "two" / "01.png").write_bytes(b"")
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"two/01\.png: not a readable image"):
            opened(root, tmp_path / f"cache-{workers}", workers)
        assert multiprocessing.active_children() == []
        images = opened(root, tmp_path / f"cache-{workers}", workers, unreadable="skip")
        assert [images.names[index] for index in images.unreadable] == ["two/01.png"]
        with pytest.raises(DataError, match=r"two/01\.png: not a readable image"):
            opened(root, tmp_path / f"cache-{workers}", workers)


def test_a_beat_is_heard_while_it_is_built_and_while_it_is_waited_for(folder, tmp_path, small_parts):
    beats = []
    open_cache(FolderImages(folder / "train"), "train", config_of(folder, tmp_path), 0, partial(beats.append, 1))
    assert len(beats) == 14
    process = builder(folder, tmp_path / "slow", pause=0.01)
    while not (tmp_path / "slow").exists():
        time.sleep(0.01)
    waiting = config_of(folder, tmp_path / "slow")
    beats.clear()
    open_cache(FolderImages(folder / "train"), "train", waiting, 0, partial(beats.append, 1))
    assert 1 <= len(beats) < 14
    assert process.communicate()[0] == "done\n"


def test_the_manifest_says_what_is_in_each_part(folder, tmp_path, small_parts):
    images = opened(folder, tmp_path)
    manifest = json.loads((only(tmp_path) / "manifest.json").read_text())
    assert [part["bytes"] for part in manifest["parts"]] == [
        path.stat().st_size for path in sorted(only(tmp_path).glob("*.bin"))
    ]
    assert isinstance(images, CachedImages)
    assert sum(part["bytes"] for part in manifest["parts"]) == 72 * 24 * 20 * 3
