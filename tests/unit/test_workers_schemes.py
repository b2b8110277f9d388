"""timm's data set schemes, each with the real library behind it and files that the test makes."""

import gzip
import io
import json
import shutil
import socket
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from digit_files import digit_images, write_folder
from sklearn.datasets import load_digits

from workers.contract import DataConfig, DataError
from workers.data import load_splits

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create 2 worker processes:UserWarning"
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever tries to reach another machine fails the test."""

    def refuse(_self, address):
        pytest.fail(f"tried to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_args, **_more: pytest.fail(f"looked up {host}"))


def config_of(name, root, classes=3, minival=0.25, **options):
    return DataConfig(name, name.split("/")[0], classes, None, minival, None if root is None else str(root), **options)


def refused(config, *words):
    with pytest.raises(DataError) as told:
        load_splits(config)
    message = str(told.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def pixels(subset, number):
    return np.array(subset.images.load(subset.indices[number]))


# --- torch/ -----------------------------------------------------------------------------------------------------------


def write_mnist(root, train=60, val=30):
    """The digits in MNIST's own file format, 28 x 28."""
    source = load_digits()
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, chosen in (("train", range(train)), ("t10k", range(train, train + val))):
        images = np.stack([np.pad(source.images[i].repeat(3, 0).repeat(3, 1) * 15, 2) for i in chosen]).astype("uint8")
        labels = source.target[list(chosen)].astype("uint8")
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())
            with gzip.open(raw / f"{name}-{kind}-ubyte.gz", "wb") as packed:
                packed.write(header + array.tobytes())
    return root


def test_a_data_set_of_torchvision_is_read_with_numbers_for_names(tmp_path):
    splits = load_splits(config_of("torch/mnist", write_mnist(tmp_path), classes=10, minival=0.2))
    target = load_digits().target
    assert splits.train.images.names[7] == "torch/mnist/train/7"
    assert len(splits.train) + len(splits.minival) == 60
    assert splits.train.labels.tolist() == target[list(splits.train.indices)].tolist()
    assert splits.val.labels.tolist() == target[60:90].tolist()
    assert pixels(splits.val, 0).shape == (28, 28, 3)


def test_it_is_never_fetched_unless_that_is_allowed(tmp_path):
    refused(config_of("torch/mnist", tmp_path, classes=10), "torch/mnist", "'train'", "data.download")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_through_torchvision_has_the_files_for_names(tmp_path):
    root = write_folder(tmp_path, splits=("train", "validation"))
    splits = load_splits(config_of("torch/image_folder", root))
    shutil.move(root / "validation", root / "val")
    plain = load_splits(DataConfig("folder", "folder", 3, None, 0.25, str(root)))
    assert splits.train.images.names == plain.train.images.names
    assert splits.minival.indices == plain.minival.indices
    assert np.array_equal(pixels(splits.train, 5), pixels(plain.train, 5))


@pytest.mark.parametrize(("split", "told"), [("train", "train"), ("val", "validation")])
def test_a_missing_split_of_a_folder_is_not_taken_for_the_whole_root(tmp_path, split, told):
    shutil.rmtree(write_folder(tmp_path) / split)
    refused(config_of("torch/folder", tmp_path), tmp_path, f"no folder {told!r}")


def test_labels_beyond_the_promised_classes_are_refused(tmp_path):
    root = write_mnist(tmp_path)
    refused(config_of("torch/mnist", root, classes=9), root, "10 classes in train, expected 9")
    refused(config_of("torch/mnist", root, classes=11), root, "10 classes in train, expected 11")


def test_the_same_files_have_the_same_identity_through_every_scheme_that_reads_them(tmp_path):
    mnist = [load_splits(config_of("torch/mnist", write_mnist(tmp_path / at), 10)).identity for at in "ab"]
    assert mnist[0] == mnist[1]
    folder = write_folder(tmp_path / "c")
    wanted = load_splits(config_of("torch/folder", folder)).identity
    shutil.copytree(folder, tmp_path / "d")
    assert load_splits(config_of("torch/folder", tmp_path / "d")).identity == wanted
    (tmp_path / "d" / "train" / "one" / "01.png").write_bytes(b"another size")
    assert load_splits(config_of("torch/folder", tmp_path / "d")).identity != wanted


# --- hfds/ ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory):
    """A folder with a data set in the layout that the datasets library reads as it is."""
    root = tmp_path_factory.mktemp("hub")
    write_folder(root / "digits", train=12, val=4, splits=("train", "validation"))
    return root


def test_a_data_set_of_the_hugging_face_library_is_read_from_its_folder(hub_root):
    splits = load_splits(config_of("hfds/digits", hub_root))
    assert splits.train.images.names[3] == "hfds/digits/train/3"
    assert [len(part) for part in (splits.train, splits.minival, splits.val)] == [27, 9, 12]
    assert torch.bincount(splits.val.labels).tolist() == [4, 4, 4]
    wanted = {np.array(image.convert("RGB")).tobytes() for image in digit_images(0, 16)}
    zeros = [n for n, label in enumerate(splits.val.labels.tolist()) if label == 2]  # "zero" comes last
    assert sum(pixels(splits.val, number).tobytes() in wanted for number in zeros) == 2  # the PNG files


def test_its_cache_is_found_again_by_another_process(hub_root, tmp_path):
    config = config_of("hfds/digits", hub_root, cache=str(tmp_path / "cache"))
    assert len(load_splits(config).val) == 12
    made = sorted(path.name for path in (tmp_path / "cache").iterdir())
    program = (
        "from workers.contract import DataConfig\nfrom workers.data import load_splits\n"
        f"print(len(load_splits({config!r}).val))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "12"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == made


def test_a_corrupt_image_of_a_table_is_told_by_its_number(tmp_path):
    root = write_folder(tmp_path / "digits", train=4, val=2, splits=("train", "validation"))
    (root / "train" / "one" / "01.png").write_bytes(b"no image")
    refused(config_of("hfds/digits", tmp_path, cache=str(tmp_path / "cache")), "hfds/digits/train/1: not a readable")


@pytest.mark.parametrize("name", ["owner/photos", "photos"])
def test_a_name_never_reaches_the_hub_unless_that_is_allowed(tmp_path, name):
    refused(config_of(f"hfds/{name}", tmp_path), f"hfds/{name}: cannot open split 'train'", "data.download")


def test_a_name_never_leads_to_the_working_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos", train=2, val=1)
    monkeypatch.chdir(tmp_path)
    refused(config_of("hfds/photos", None), "hfds/photos: a file of this name lies in the working folder")
    refused(config_of("hfds/imagefolder", None), "hfds/imagefolder: 'imagefolder' is a file format")


@pytest.mark.parametrize(
    "name",
    ["hfds/../secret", "hfds//etc", "hfds/hf://owner/name", "hfds/https://host/x", "wds/..", "tfds/a/../b", "hfds/",
     "torch/./mnist", "wds/pipe:cat x", "hfds/a\\b", "hfds/~/x"],
)  # fmt: skip
def test_a_name_that_is_a_path_or_an_address_is_refused(tmp_path, name):
    refused(config_of(name, tmp_path, download=True), repr(name), "plain name")


def test_the_libraries_are_left_as_they_were(hub_root):
    import datasets
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    load_splits(config_of("hfds/digits", hub_root))
    after = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    assert after == before


def test_it_draws_no_progress_bars_and_leaves_the_librarys_own_setting(tmp_path, capfd):
    import datasets

    write_folder(tmp_path / "digits", train=4, val=2, splits=("train", "validation"))
    before = datasets.are_progress_bars_disabled()
    load_splits(config_of("hfds/digits", tmp_path))
    assert datasets.are_progress_bars_disabled() == before
    assert capfd.readouterr().err == ""


# --- wds/ -------------------------------------------------------------------------------------------------------------


def add(archive, name, content):
    facts = tarfile.TarInfo(name)
    facts.size = len(content)
    archive.addfile(facts, io.BytesIO(content))


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def write_archives(root, train=8, val=4, per_archive=5):
    """Zeros, ones and twos in tar files with timm's `_info.json` beside them."""
    images = {split: [] for split in ("train", "validation")}
    for label in range(3):
        for number, image in enumerate(digit_images(label, train + val)):
            images["train" if number < train else "validation"].append((image, label))
    info = {"splits": {}}
    for split, samples in images.items():
        files = [samples[first : first + per_archive] for first in range(0, len(samples), per_archive)]
        names = [f"digits-{split}-{number:03}.tar" for number in range(len(files))]
        for name, part in zip(names, files, strict=True):
            with tarfile.open(root / name, "w") as archive:
                for number, (image, label) in enumerate(part):
                    add(archive, f"{number:03}.png", png(image))
                    add(archive, f"{number:03}.cls", str(label).encode())
        lengths = [len(part) for part in files]
        info["splits"][split] = {
            "name": split, "filenames": names, "shard_lengths": lengths, "num_samples": sum(lengths),
        }  # fmt: skip
    (root / "_info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def archives(tmp_path):
    root = tmp_path / "archives"
    root.mkdir()
    return write_archives(root)


def test_a_web_data_set_is_read_through_the_cache(archives, tmp_path):
    config = config_of("wds/digits", archives, cache=str(tmp_path / "cache"))
    splits, again = load_splits(config), load_splits(config)
    assert splits.train.images.names[6] == "digits-train-001.tar/001"
    assert sorted(splits.train.labels.tolist() + splits.minival.labels.tolist()) == [0] * 8 + [1] * 8 + [2] * 8
    assert splits.val.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    wanted = [np.array(image.convert("RGB")) for image in digit_images(1, 12)][8:]
    assert all(np.array_equal(pixels(splits.val, 4 + number), wanted[number]) for number in range(4))
    assert again.minival.indices == splits.minival.indices


def test_a_web_data_sets_identity_is_that_of_its_archives_wherever_they_lie(archives, tmp_path):
    cache = str(tmp_path / "cache")
    wanted = load_splits(config_of("wds/digits", archives, cache=cache)).identity
    copy = tmp_path / "copy"
    shutil.copytree(archives, copy)
    assert load_splits(config_of("wds/digits", copy, cache=str(tmp_path / "other"), expected=wanted)).identity == wanted
    with tarfile.open(copy / "digits-train-000.tar", "w") as archive:
        for number, image in enumerate(digit_images(0, 5)):
            add(archive, f"{number:03}.png", png(image))
            add(archive, f"{number:03}.cls", b"1")  # the labels alone are others
    refused(config_of("wds/digits", copy, cache=cache, expected=wanted), copy, "the images are not those")


def test_without_a_cache_the_setting_is_named(archives):
    refused(config_of("wds/digits", archives), "wds/digits", "set data.cache in the search space")


def test_a_corrupt_image_of_a_web_data_set_is_named_or_counted(archives, tmp_path):
    name = "digits-train-004.tar"
    with tarfile.open(archives / name, "a") as archive:
        add(archive, "900.png", b"no image")
        add(archive, "900.cls", b"1")
    info = json.loads((archives / "_info.json").read_text())
    info["splits"]["train"]["shard_lengths"][4] += 1
    (archives / "_info.json").write_text(json.dumps(info))
    where = f"{archives / name}, 900: not a readable image"
    refused(config_of("wds/digits", archives, cache=str(tmp_path / "cache")), where)
    skipping = config_of("wds/digits", archives, cache=str(tmp_path / "cache"), unreadable="skip")
    splits = load_splits(skipping)
    assert splits.skipped == 1
    assert len(splits.train) + len(splits.minival) == 24
    # What the others skipped is still an error for a trial that does not.
    refused(config_of("wds/digits", archives, cache=str(tmp_path / "cache")), where)


def test_a_damaged_archive_or_one_without_labels_is_named_even_when_images_may_be_skipped(archives, tmp_path):
    config = config_of("wds/digits", archives, cache=str(tmp_path / "cache"), unreadable="skip")
    file = archives / "digits-train-001.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[:700])
    refused(config, file, "not a readable archive")
    file.write_bytes(whole[: whole.rindex(b"004.png")])  # tarfile takes that for the end
    refused(config, f"{file}: 4 images, _info.json says 5")
    with tarfile.open(file, "w") as archive:
        add(archive, "000.png", b"")
    refused(config, f"{file}, 000: no label")


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "missing.tar", "pipe:touch x.tar"])
def test_archives_are_sought_in_the_roots_folder_alone(archives, tmp_path, name):
    info = json.loads((archives / "_info.json").read_text())
    info["splits"]["train"]["filenames"][0] = name
    (archives / "_info.json").write_text(json.dumps(info))
    shutil.copyfile(archives / "digits-train-000.tar", archives.parent / "outside.tar")
    refused(config_of("wds/digits", archives, cache=str(tmp_path / "cache")), archives, f"no archive {name!r}")


def test_a_web_data_set_without_its_list_or_without_a_split_is_told(archives, tmp_path):
    cache = str(tmp_path / "cache")
    info = json.loads((archives / "_info.json").read_text())
    del info["splits"]["validation"]
    (archives / "_info.json").write_text(json.dumps(info))
    refused(config_of("wds/digits", archives, cache=cache), "wds/digits: cannot open split 'validation'")
    (archives / "_info.json").unlink()
    refused(config_of("wds/digits", archives, cache=cache), archives, "_info.json")


# --- missing packages and folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [("hfds/x", "datasets", "datasets"), ("wds/x", "webdataset", "webdataset"),
     ("tfds/x", "tensorflow_datasets", "tensorflow-datasets")],
)  # fmt: skip
def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch, name, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    refused(config_of(name, tmp_path), f"{name}: needs a package that is not installed: pip install {install}")


@pytest.mark.parametrize("name", ["torch/mnist", "wds/x"])
def test_a_missing_root_is_named(tmp_path, name):
    refused(config_of(name, None), name, "set data.root")
    refused(config_of(name, tmp_path / "nowhere"), tmp_path / "nowhere", "no such folder")
