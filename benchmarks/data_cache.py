"""Loading speed: our loader from the cache, our loader from JPEG files, and timm's own loader from the same files.

    python benchmarks/data_cache.py [--images 400] [--rounds 5] [--workers 2] [--resolution 160]

The files are synthetic photographs, 500 x 375: digits enlarged, on smooth noise, as JPEG of quality 90. Each loader
gives one epoch of uint8 batches with the full augmentation of the resnet_rs recipe (random resized crop, flip,
RandAugment of two operations at magnitude 10). The three take turns within each round. Printed: images per second of
the rounds' median and of the slowest and fastest round, the ratio to decoding in each trial, and what the cache costs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_dataset, create_loader

from workers.contract import DataConfig
from workers.data import Loader, load_splits
from workers.recipe import Recipe

CLASSES, VAL_IMAGES = 10, 20
RECIPE = Recipe(
    name="resnet_rs", batch_size=64, bn_batch=64, learning_rate=1.6, warmup_epochs=5, weight_decay=4e-5,
    crop_min_area=0.08, horizontal_flip=0.5, randaugment_layers=2, randaugment_magnitude=10.0, eval_crop=0.875,
)  # fmt: skip


def write_photographs(root: Path, images: int) -> None:
    """JPEG files of about the size and detail of ImageNet's."""
    digits, draw = load_digits(), np.random.default_rng(0)
    for index in range(images + VAL_IMAGES):
        picture = Image.fromarray((digits.images[index] * 15).astype("uint8")).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        coarse = draw.integers(0, 255, (24, 32, 3)).astype("uint8")
        blurred = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), "int16")
        pixels = (
            blurred // 2
            + np.asarray(picture, "int16")[..., None] // 2
            + draw.normal(0, 8, (375, 500, 1)).astype("int16")
        )
        folder = root / ("train" if index < images else "val") / str(digits.target[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(folder / f"{index:05}.jpg", quality=90)


def our_epochs(root: Path, cache: Path | None, workers: int, resolution: int) -> Iterator[int]:
    """Each item is one epoch; it says how many images that was."""
    config = DataConfig("folder", "folder", CLASSES, None, 0.02, str(root), cache=None if cache is None else str(cache))
    loader = Loader(load_splits(config), RECIPE, resolution, 0, workers)
    epoch = 0
    while True:
        epoch += 1
        yield sum(len(labels) for _, labels in loader.train(epoch))


def timm_epochs(root: Path, workers: int, resolution: int) -> Iterator[int]:
    """The same through timm; its prefetcher's normalisation, which is work for the device, is left out as ours is."""
    loader = create_loader(
        create_dataset("", root=str(root / "train")), input_size=(3, resolution, resolution),
        batch_size=RECIPE.batch_size, is_training=True, use_prefetcher=True, device=torch.device("cpu"),
        scale=(RECIPE.crop_min_area, 1.0),
        hflip=RECIPE.horizontal_flip, color_jitter=None, auto_augment="rand-m10-n2", interpolation="bicubic",
        num_workers=workers, persistent_workers=workers > 0, pin_memory=False,
    )  # fmt: skip
    while True:
        yield sum(len(labels) for _, labels in loader.loader)


def rate(epochs: Iterator[int]) -> float:
    """Images per second of the next epoch."""
    started = time.perf_counter()
    images = next(epochs)
    return images / (time.perf_counter() - started)


def measure(root: Path, images: int, rounds: int, workers: int, resolution: int) -> None:
    """Measure and print."""
    write_photographs(root / "data", images)
    started = time.perf_counter()
    config = DataConfig("folder", "folder", CLASSES, None, 0.02, str(root / "data"), cache=str(root / "cache"))
    load_splits(config)
    built = time.perf_counter() - started
    size = sum(path.stat().st_size for path in (root / "cache").rglob("*.bin"))
    names: dict[str, Callable[[], Iterator[int]]] = {
        "ours, from the cache": lambda: our_epochs(root / "data", root / "cache", workers, resolution),
        "ours, decoding JPEG": lambda: our_epochs(root / "data", None, workers, resolution),
        "timm, decoding JPEG": lambda: timm_epochs(root / "data", workers, resolution),
    }
    loaders = {name: make() for name, make in names.items()}
    for epochs in loaders.values():
        next(epochs)  # starts the processes
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, epochs in loaders.items():
            rates[name].append(rate(epochs))
    print(f"{images} images at {resolution} px, {workers} processes, {rounds} rounds; torch {torch.__version__}")
    print(f"cache: {built:.1f} s to build, {size / 2**20:.0f} MiB")
    print(f"{'loader':<22} {'images/s':>9} {'slowest':>8} {'fastest':>8} {'x decoding':>11} {'spread':>15}")
    for name, values in rates.items():
        ratios = [ours / base for ours, base in zip(values, rates["ours, decoding JPEG"], strict=True)]
        print(
            f"{name:<22} {statistics.median(values):9.1f} {min(values):8.1f} {max(values):8.1f} "
            f"{statistics.median(ratios):11.2f} {f'{min(ratios):.2f} to {max(ratios):.2f}':>15}"
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.images, options.rounds, options.workers, options.resolution)


if __name__ == "__main__":
    main()
