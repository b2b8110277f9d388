"""Folders of images, decoding, plug-ins, and images that cannot be read."""

import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from digit_files import NAMES, write_folder
from PIL import Image

from workers.contract import DataConfig, DataError
from workers.data import load_splits
from workers.sources import UnreadableError, data_identity, decode

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create 2 worker processes:UserWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def broken(folder, tmp_path, monkeypatch):
    """A copy to damage, and a user's cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return shutil.copytree(folder, tmp_path / "data")


def folder_splits(root, classes=3, minival=0.25, **options):
    config = DataConfig("folder", "folder", classes, None, minival, None if root is None else str(root), **options)
    return load_splits(config)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folders_labels_follow_the_alphabetical_order_of_its_class_folders(folder):
    splits = folder_splits(folder)
    assert splits.val.images.classes == ["one", "two", "zero"]
    for part in (splits.train, splits.minival, splits.val):
        for index, label in zip(part.indices, part.labels.tolist(), strict=True):
            assert part.images.names[index].split("/")[0] == ("one", "two", "zero")[label]


def test_a_folders_minival_is_held_out_of_its_training_images_class_by_class(folder):
    splits = folder_splits(folder)
    assert torch.bincount(splits.minival.labels).tolist() == [6, 6, 6]
    assert torch.bincount(splits.train.labels).tolist() == [18, 18, 18]
    assert sorted(splits.train.indices + splits.minival.indices) == list(range(72))
    assert set(splits.train_clean.indices) <= set(splits.train.indices)
    assert torch.bincount(splits.val.labels).tolist() == [8, 8, 8]


WHO_IS_HELD_OUT = """
import sys
from pathlib import Path
from workers.datasets import held_out
from workers.sources import FolderImages
images = FolderImages(Path(sys.argv[1]) / "train")
print(sorted(images.names[index] for index in held_out(images.names, images.labels, 0.1)[1]), end="")
"""


def held_out_names(root, hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", WHO_IS_HELD_OUT, root], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_minival_is_the_same_on_every_machine_and_disjoint_from_training(folder, tmp_path):
    # Written in another order, under another root, read by other processes with other hash seeds.
    for name in reversed(NAMES):
        for split in ("val", "train"):
            (tmp_path / split / name).mkdir(parents=True)
            for file in sorted((folder / split / name).iterdir(), reverse=True):
                shutil.copyfile(file, tmp_path / split / name / file.name)
    first, second = held_out_names(folder, "1"), held_out_names(tmp_path, "2")
    assert first == second
    splits = folder_splits(tmp_path, minival=0.1)
    names = splits.minival.images.names
    held, trained = ({names[i] for i in part.indices} for part in (splits.minival, splits.train))
    assert str(sorted(held)) == first
    assert held
    assert not held & trained
    assert held | trained == set(names)


def test_a_file_whose_name_is_no_utf8_is_an_image_like_any_other(broken):
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copyfile(broken / "train" / "one" / "01.png", broken / "train" / "one" / name)
    splits = folder_splits(broken)
    assert len(splits.train.images.names) == 73
    index = splits.train.images.names.index(f"one/{name}")
    assert splits.train.images.load(index).size == (24, 20)


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


def test_a_class_of_one_split_alone_is_named(broken):
    (broken / "val" / "two").rename(broken / "val" / "three")
    refused(broken, broken, "train and val have different class folders: 'three' is in val alone")


def test_another_number_of_classes_than_promised_is_refused(folder):
    refused(folder, folder, "3 class folders, expected 1000", classes=1000)


def test_a_class_whose_only_image_is_held_out_is_refused(broken):
    for file in sorted((broken / "train" / "two").iterdir())[1:]:
        file.unlink()
    refused(broken, "class 'two' has no training images", "not held out")


@pytest.mark.parametrize("options", [{"unreadable": "ignore"}, {"cache_side": 32}, {"cache": "x", "cache_side": 0}])
def test_settings_that_make_no_sense_are_refused(folder, options):
    refused(folder, "data.", **options)


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_same_images_have_the_same_identity_wherever_they_lie_whenever_they_came_and_with_a_cache_too(
    folder, tmp_path
):
    wanted = folder_splits(folder).identity
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    for number, file in enumerate(sorted(copy.rglob("*.*"))):
        os.utime(file, (number, number))
    assert folder_splits(copy).identity == wanted
    assert folder_splits(copy, minival=0.1).identity == wanted
    assert folder_splits(copy, cache=str(tmp_path / "cache")).identity == wanted


def added(root):
    shutil.copyfile(root / "train" / "one" / "01.png", root / "train" / "one" / "new.png")


def removed(root):
    (root / "val" / "two" / "25.png").unlink()


def replaced_by_one_of_another_size(root):
    with (root / "val" / "zero" / "25.png").open("ab") as file:
        file.write(b"more")


def moved_to_another_class(root):
    (root / "train" / "one" / "01.png").rename(root / "train" / "two" / "zz.png")


def class_renamed(root):
    for split in ("train", "val"):
        (root / split / "two").rename(root / split / "deux")


@pytest.mark.parametrize(
    "change", [added, removed, replaced_by_one_of_another_size, moved_to_another_class, class_renamed]
)
def test_images_that_changed_have_another_identity_and_are_refused_where_the_old_ones_are_expected(broken, change):
    wanted = folder_splits(broken).identity
    change(broken)
    assert folder_splits(broken).identity != wanted
    refused(broken, broken, "the images are not those that training began with", expected=wanted)
    refused(broken, "name a new data.version", expected=wanted)


def test_other_images_are_refused_before_any_is_decoded_into_a_cache(broken, tmp_path):
    wanted = folder_splits(broken).identity
    added(broken)
    refused(broken, "the images are not those", expected=wanted, cache=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_the_digits_have_an_identity_too():
    identities = {load_splits(DataConfig("digits", "x", 10, None, minival)).identity for minival in (0.2, 0.3)}
    assert len(identities) == 1
    assert identities != {""}


def test_a_plug_ins_names_labels_and_content_are_its_identity():
    class Source:
        def __init__(self, names=("a", "b"), labels=(0, 1), content="1"):
            self.names, self.labels, self.content = names, labels, content

    wanted = data_identity(Source(), Source())
    assert data_identity(Source(("b", "a"), (1, 0)), Source()) == wanted  # in another order they are the same images
    others = [Source(("a", "c")), Source(labels=(1, 1)), Source(content="2"), Source(("a",), (0,))]
    assert len({data_identity(other, Source()) for other in others} | {wanted}) == 5
    assert data_identity(Source(), others[0]) != data_identity(others[0], Source())


# --- decoding ---------------------------------------------------------------------------------------------------------


def save(path, image, **options):
    image.save(path, **options)
    return decode(path, str(path))


GRADIENT = np.linspace(0, 255, 64 * 48).astype("uint8").reshape(48, 64)


def test_grey_images_of_8_and_16_bits_come_out_alike(tmp_path):
    grey = Image.fromarray(GRADIENT)
    deep = Image.fromarray(GRADIENT.astype("uint16") * 257)
    for name, image in (("8.png", grey), ("16.png", deep), ("16.tif", deep)):
        decoded = save(tmp_path / name, image)
        assert (decoded.mode, decoded.size) == ("RGB", (64, 48))
        assert np.array_equal(np.array(decoded), np.stack([GRADIENT] * 3, axis=-1))


def test_palettes_with_and_without_transparency_come_out_in_their_colours(tmp_path):
    colours = Image.new("RGB", (64, 48), (200, 30, 60))
    plain = save(tmp_path / "a.png", colours.quantize(4))
    clear = save(tmp_path / "b.png", colours.quantize(4), transparency=bytes([0, 128, 255, 255]))
    assert plain.getpixel((5, 5)) == clear.getpixel((5, 5)) == (200, 30, 60)


def test_an_alpha_channel_is_dropped_and_cmyk_is_converted(tmp_path):
    alpha = save(tmp_path / "a.png", Image.new("RGBA", (9, 7), (10, 20, 30, 0)))
    assert (alpha.mode, alpha.getpixel((3, 3))) == ("RGB", (10, 20, 30))
    cyan = save(tmp_path / "c.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)))
    red, green, blue = cyan.getpixel((8, 8))
    assert cyan.mode == "RGB"
    assert red < 30 < 200 < min(green, blue)


def png_of_size(width, height):
    """A PNG whose header promises more pixels than anyone should decode."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 10)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def make_unreadable(path, kind):
    whole = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a dead link":
        path.symlink_to("nowhere")
    else:
        contents = {
            "empty": b"",
            "text": b"no image at all",
            "truncated": whole[: len(whole) * 2 // 3],
            "header alone": whole[:20],
            "bomb": png_of_size(60_000, 60_000),
        }
        path.write_bytes(contents[kind])


KINDS = ["empty", "text", "truncated", "header alone", "bomb", "a folder", "a pipe", "a dead link"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["24.JPEG", "25.png"])
def test_whatever_cannot_be_decoded_is_named_in_one_line(broken, kind, name):
    file = broken / "val" / "two" / name
    make_unreadable(file, kind)
    images = folder_splits(broken).val.images
    with pytest.raises(UnreadableError) as told:
        images.load(images.names.index(f"two/{name}"))
    assert str(told.value).startswith(f"{file}: not a readable image (")
    assert "\n" not in str(told.value)


def test_a_failure_of_the_machine_is_not_the_images_fault(broken, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError) as told:
        folder_splits(broken).val.images.load(0)
    assert not isinstance(told.value, UnreadableError)


# --- unreadable images that are left out ------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True], ids=["without a cache", "through the cache"])
def test_unreadable_images_are_left_out_and_counted_and_move_no_other(broken, tmp_path, cached):
    whole = folder_splits(broken)
    bad = [("train", f"{4 * index:02}.JPEG") for index in range(6)] + [("val", "25.png")]
    for (split, name), kind in zip(bad, KINDS, strict=False):
        make_unreadable(broken / split / "two" / name, kind)
    options = {"unreadable": "skip"} | ({"cache": str(tmp_path / "cache")} if cached else {})
    splits, again = folder_splits(broken, **options), folder_splits(broken, **options)
    assert splits.skipped == again.skipped == 7
    assert splits.train.indices == again.train.indices
    for part in ("train", "minival", "val"):
        names = splits.val.images.names if part == "val" else splits.train.images.names
        left_out = {f"two/{name}" for split, name in bad if (split == "val") == (part == "val")}
        before = [names[index] for index in getattr(whole, part).indices]
        after = [names[index] for index in getattr(splits, part).indices]
        assert after == [name for name in before if name not in left_out]


def test_every_image_is_decoded_once_per_machine_to_find_the_unreadable_ones(broken, monkeypatch):
    make_unreadable(broken / "train" / "two" / "01.png", "text")
    assert folder_splits(broken, unreadable="skip").skipped == 1
    monkeypatch.setattr("workers.sources.FolderImages.load", lambda *_: pytest.fail("decoded again"))
    assert folder_splits(broken, unreadable="skip").skipped == 1


def test_after_a_repair_they_are_looked_for_again(broken):
    whole = (broken / "train" / "two" / "01.png").read_bytes()
    make_unreadable(broken / "train" / "two" / "01.png", "text")
    assert folder_splits(broken, unreadable="skip").skipped == 1
    (broken / "train" / "two" / "01.png").write_bytes(whole)
    assert folder_splits(broken, unreadable="skip").skipped == 0


def test_a_class_without_one_readable_image_is_refused_even_when_they_may_be_skipped(broken):
    for file in (broken / "val" / "two").iterdir():
        file.write_bytes(b"")
    refused(broken, "class 'two' has no validation images that can be read", unreadable="skip")


# --- plug-ins ---------------------------------------------------------------------------------------------------------

PLUGIN = """
import numpy as np
from PIL import Image
from workers.datasets import DatasetFacts

class Stripes:
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, count):
        self.labels = [index % 2 for index in range(count)]
        self.names = [f"stripe-{index}" for index in range(count)]

    def load(self, index):
        pixels = np.zeros((16, 16, 3), "uint8")
        pixels[(slice(None), slice(0, 8)) if self.labels[index] else slice(0, 8)] = 255 - index
        return Image.fromarray(pixels)

def open_stripes(config):
    return Stripes(40), Stripes(10)

DATASETS = {"stripes": DatasetFacts("1", 2, 40, 0.2, needs_root=False, open=open_stripes)}
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "stripes.py"
    path.write_text(PLUGIN)
    return str(path)


def test_a_plug_ins_data_set_is_read_with_its_own_mean_and_through_the_cache_too(plugin, tmp_path):
    config = DataConfig("stripes", "1", 2, 32, 0.2)
    splits = load_splits(config, (plugin,))
    assert [len(part) for part in (splits.train, splits.minival, splits.val)] == [32, 8, 10]
    assert (splits.mean, splits.std, splits.in_memory) == ((0.5,) * 3, (0.25,) * 3, False)
    cached = load_splits(DataConfig("stripes", "1", 2, 32, 0.2, cache=str(tmp_path / "cache")), (plugin,))
    assert cached.train.indices == splits.train.indices
    assert cached.mean == splits.mean
    assert np.array_equal(np.array(cached.val.images.load(3)), np.array(splits.val.images.load(3)))


def test_a_data_set_that_two_plug_ins_declare_is_refused(plugin, tmp_path):
    (tmp_path / "again.py").write_text(PLUGIN)
    with pytest.raises(DataError, match=r"plug-in .*again.py: another plug-in has a data set 'stripes' too; rename"):
        load_splits(DataConfig("stripes", "1", 2, 32, 0.2), (plugin, str(tmp_path / "again.py")))


def test_an_unknown_data_set_is_told_with_those_that_are_known(plugin):
    with pytest.raises(DataError, match="unknown data set 'spots'; known: digits, imagenet, folder, stripes, torch/"):
        load_splits(DataConfig("spots", "1", 2, None, 0.2), (plugin,))
