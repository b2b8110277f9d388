"""timm's data set schemes `torch/`, `hfds/`, `wds/` and `tfds/` as sources of images.

timm opens the data set and says what is in it; images are decoded here, so that an unreadable one is reported in the
same way everywhere (timm passes over it). Names of images, which decide who is held out: the path below the split's
folder where torchvision reads files, `<archive>/<key>` in a web data set, else `<data set>/<split>/<number>` in the
data set's own order. The validation images are the split called validation, val or valid, or if there is none, test.

The name after the scheme comes from a file that may be anybody's. So it is a plain name (`datasets.find_dataset` sees
to that), and unless `data.download` is true, no library may reach the network for it. `hfds/<name>` is the folder
`<name>` in `data.root` where there is one, else what the datasets library fetched into `data.root` before.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from workers.contract import DataConfig, DataError
from workers.datasets import missing_package
from workers.sources import (
    Images,
    Sample,
    Stream,
    UnreadableError,
    decode,
    files_content,
    files_fingerprint,
    to_rgb,
    tree_fingerprint,
)

Source = TypeVar("Source")
VALIDATION = ("validation", "val", "valid", "test")  # in the order of preference
MOST_PARTS = 128  # of a stream: the cache keeps a file open for each
TFDS_PART = 4096  # images


def open_scheme(config: DataConfig) -> tuple[Images | Stream, Images | Stream]:
    """Training and validation images of a data set of one of timm's schemes.

    Raises:
        DataError: a package is missing, or the data set or one of its splits.
    """
    scheme, _, name = config.name.partition("/")
    if missing := missing_package(config.name):
        raise DataError(f"{config.name}: needs a package that is not installed: pip install {missing}")
    if config.root is not None and not Path(config.root).is_dir():
        raise DataError(f"{config.root}: no such folder; set data.root in the search space")
    if config.root is None and scheme != "hfds":
        raise DataError(f"{config.name}: no folder given; set data.root in the search space")
    return _OPENERS[scheme](config, name)


def _create(config: DataConfig, name: str, split: str) -> Any:
    """The data set as timm opens it; whatever it or a library under it raises comes out as one line."""
    from timm.data import create_dataset

    try:
        return create_dataset(name, root=config.root, split=split, download=config.download)
    except DataError:
        raise
    except Exception as error:
        hint = "" if config.download else "; nothing is fetched unless data.download is true"
        raise DataError(f"{config.name}: cannot open split {split!r} ({_line(error)}){hint}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --- torch/ -----------------------------------------------------------------------------------------------------------


class TorchImages:
    """A data set of torchvision."""

    def __init__(self, config: DataConfig, split: str) -> None:
        self._dataset = _create(config, config.name, split)
        self.labels = _torch_labels(self._dataset)
        files = getattr(self._dataset, "samples", None) or getattr(self._dataset, "imgs", None)
        root = Path(self._dataset.root)
        self._files = [Path(path) for path, _ in files] if files else None
        if self._files:
            self.names = [Path(os.path.relpath(path, root)).as_posix() for path in self._files]
            self.content = files_content(self._files)
            self.fingerprint = files_fingerprint(self._files)
        else:
            self.names = [f"{config.name}/{split}/{index}" for index in range(len(self.labels))]
            self.fingerprint = tree_fingerprint(root, config.cache)
        classes = getattr(self._dataset, "classes", None)
        self.classes = list(classes) if self._files and classes else None

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UnreadableError: it cannot be decoded.
        """
        if self._files:
            return decode(self._files[index], str(self._files[index]))
        try:
            return to_rgb(self._dataset[index][0])
        except Exception as error:
            raise UnreadableError(f"{self.names[index]}: not a readable image ({_line(error)})") from error


def _torch_labels(dataset: Any) -> list[int]:
    targets = getattr(dataset, "targets", None)
    if targets is None:  # INaturalist
        targets = [category for category, _ in dataset.index]
    array = np.asarray(targets)
    labels: list[int] = (array[:, 0] if array.ndim == 2 else array).tolist()  # QMNIST has eight facts per image
    return labels


def _open_torch(config: DataConfig, name: str) -> tuple[Images, Images]:
    if name in ("folder", "image_folder"):
        for split, also in (("train", ["training"]), ("validation", ["val", "valid", "eval", "evaluation"])):
            if not any((Path(str(config.root)) / folder).is_dir() for folder in (split, *also)):
                # timm would take the whole root for the split then
                raise DataError(f"{config.root}: no folder {split!r} (or {', '.join(also)}) in it")
    return TorchImages(config, "train"), TorchImages(config, "validation")


# --- hfds/ ------------------------------------------------------------------------------------------------------------


class HubImages:
    """A data set of the Hugging Face datasets library, with a column `image` and a column `label`."""

    def __init__(self, config: DataConfig, name: str, split: str) -> None:
        self._reader = _create(config, f"hfds/{name}", split).reader
        table = self._reader.dataset
        labels = table.select_columns(self._reader.label_key)[:][self._reader.label_key]
        self.labels = [int(label) for label in labels]
        self.names = [f"{config.name}/{split}/{index}" for index in range(len(self.labels))]
        self.fingerprint = str(table._fingerprint)  # the library's own, of files and their times

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UnreadableError: it cannot be decoded.
        """
        try:
            content, _ = self._reader[index]
        except Exception as error:
            raise UnreadableError(f"{self.names[index]}: not a readable image ({_line(error)})") from error
        with content:
            return decode(content, self.names[index])


def _open_hfds(config: DataConfig, name: str) -> tuple[Images, Images]:
    local = None if config.root is None else Path(config.root) / name
    if local is not None and local.is_dir():
        name = str(local)
    else:
        _refuse_local(config, name)
    with _offline(not config.download), _without_bars():
        return HubImages(config, name, "train"), _validation(partial(HubImages, config, name))


def _refuse_local(config: DataConfig, name: str) -> None:
    """The library takes some names for paths below the working folder."""
    if Path(name).exists():
        raise DataError(f"{config.name}: a file of this name lies in the working folder; set data.root to its folder")
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if name in _PACKAGED_DATASETS_MODULES:
        raise DataError(f"{config.name}: {name!r} is a file format, not a data set; put its folder into data.root")


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Keep the Hugging Face libraries off the network. They read the environment only when they are imported."""
    import datasets
    import huggingface_hub.constants as hub

    places: list[tuple[Any, str]] = [(hub, "HF_HUB_OFFLINE")]
    places += [(datasets.config, key) for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")]
    kept = [getattr(module, key) for module, key in places]
    environment = {key: os.environ.get(key) for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    try:
        if offline:
            os.environ.update(dict.fromkeys(environment, "1"))
            for module, key in places:
                setattr(module, key, True)
        yield
    finally:
        for (module, key), value in zip(places, kept, strict=True):
            setattr(module, key, value)
        for key, before in environment.items():
            os.environ.pop(key, None) if before is None else os.environ.__setitem__(key, before)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the library from drawing progress bars into the logs of trials that train side by side."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


# --- wds/ -------------------------------------------------------------------------------------------------------------


class ArchiveStream:
    """A web data set: tar archives in one folder, listed in its `_info.json`; each part is a few archives."""

    one_process = False

    def __init__(self, config: DataConfig, split: str) -> None:
        reader = _create(config, config.name, split).reader
        self._name, self._root = config.name, Path(str(config.root))
        self._label_key: str = reader.split_info.alt_label
        self._image_keys: list[str] = reader.input_key.split(";")
        names = list(reader.split_info.filenames)
        self._lengths = dict(zip(names, reader.split_info.shard_lengths, strict=False))
        for name in names:
            if Path(name).is_absolute() or ".." in Path(name).parts or not (self._root / name).is_file():
                raise DataError(f"{self._root / '_info.json'}: no archive {name!r} in this folder")
        if not names:
            raise DataError(f"{self._root / '_info.json'}: split {split!r} has no archives")
        self.parts = min(len(names), MOST_PARTS)
        bounds = [len(names) * part // self.parts for part in range(self.parts + 1)]
        self._archives = [names[first:last] for first, last in pairwise(bounds)]
        archives = [self._root / name for name in names]
        self.content, self.fingerprint = files_content(archives), files_fingerprint(archives)

    def read(self, part: int) -> Iterator[Sample]:
        """The part's images in the archives' order.

        Raises:
            DataError: an archive is damaged, or has an image without a label.
        """
        for archive in self._archives[part]:
            try:
                yield from self._samples(archive)
            except DataError:
                raise
            except Exception as error:
                told = " ".join(str(error.args[0] if error.args else error).split())
                raise DataError(f"{self._root / archive}: not a readable archive ({told})") from error

    def _samples(self, archive: str) -> Iterator[Sample]:
        from webdataset.tariterators import group_by_keys, tar_file_expander

        with (self._root / archive).open("rb") as stream:
            files = tar_file_expander([{"url": archive, "stream": stream}])
            count = 0
            for fields in group_by_keys(files):
                count += 1
                label = self._label(fields, archive)
                if label >= 0:  # below 0 timm's web data sets mark an image as not to be used
                    yield Sample(f"{archive}/{fields['__key__']}", label, self._loader(fields, archive))
        if count != self._lengths.get(archive, count):  # an archive that was cut short may end without an error
            raise DataError(f"{self._root / archive}: {count} images, _info.json says {self._lengths[archive]}")

    def _label(self, fields: Mapping[str, Any], archive: str) -> int:
        try:
            if not self._label_key:
                return int(fields["cls"])
            return int(json.loads(fields["json"])[self._label_key])
        except (KeyError, ValueError, TypeError) as error:
            where = f"{self._root / archive}, {fields['__key__']}"
            raise DataError(f"{where}: no label ({type(error).__name__}: {_line(error)})") from error

    def _loader(self, fields: Mapping[str, Any], archive: str) -> Callable[[], Image.Image]:
        where = f"{self._root / archive}, {fields['__key__']}"
        content = next((fields[key] for key in self._image_keys if key in fields), None)
        if content is None:
            raise DataError(f"{where}: no image; expected one of {', '.join(self._image_keys)}")
        return lambda: decode(io.BytesIO(content), where)


def _open_wds(config: DataConfig, name: str) -> tuple[Stream, Stream]:
    if not any((Path(str(config.root)) / info).is_file() for info in ("_info.json", "info.json")):
        raise DataError(f"{config.root}: no _info.json, which lists a web data set's splits and archives")
    return ArchiveStream(config, "train"), _validation(partial(ArchiveStream, config))


# --- tfds/ ------------------------------------------------------------------------------------------------------------


class TensorflowStream:
    """A data set of TensorFlow Datasets. Not tested: TensorFlow is not among what this project is tested with."""

    one_process = True  # TensorFlow does not survive a fork; it decodes in threads of its own

    def __init__(self, config: DataConfig, name: str, split: str) -> None:
        self._config, self._split = config, split
        self._images: int = _create(config, config.name, split).reader.num_samples
        self.parts = -(-self._images // TFDS_PART)
        self.fingerprint = tree_fingerprint(Path(str(config.root)) / name.split(":")[0], config.cache)

    def read(self, part: int) -> Iterator[Sample]:
        """The part's images in the order of the data set's own files."""
        first, last = part * TFDS_PART, min((part + 1) * TFDS_PART, self._images)
        images = _create(self._config, self._config.name, f"{self._split}[{first}:{last}]")
        for number, (image, label) in enumerate(images, start=first):
            yield Sample(f"{self._config.name}/{self._split}/{number}", int(label), partial(to_rgb, image))


def _open_tfds(config: DataConfig, name: str) -> tuple[Stream, Stream]:
    prepared = Path(str(config.root)) / name.split(":")[0]
    if not config.download and not prepared.is_dir():
        raise DataError(f"{prepared}: no such folder; nothing is fetched unless data.download is true")
    return TensorflowStream(config, name, "train"), _validation(partial(TensorflowStream, config, name))


def _validation(open_split: Callable[[str], Source]) -> Source:
    """The split that is not for training, whatever it is called."""
    first: DataError | None = None
    for split in VALIDATION:
        try:
            return open_split(split)
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


_OPENERS: Mapping[str, Callable[[DataConfig, str], tuple[Images | Stream, Images | Stream]]] = {
    "torch": _open_torch,
    "hfds": _open_hfds,
    "wds": _open_wds,
    "tfds": _open_tfds,
}
