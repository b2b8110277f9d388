"""Training speed: our trial loop beside a plain timm + torch loop, in one run, interleaved.

    python benchmarks/train_throughput.py [--rounds 7] [--steps 4]

Both train the same model with the same batch, precision, threads and images; the plain loop is what a person would
write with timm's loader, torch's SGD and timm's weight average. Printed: images per second of each (median of the
rounds), the ratio of the two with its spread over the rounds, and the share of our step that waits for data. On a GPU
also model FLOPs utilisation against a measured matrix product, and peak memory; without one that is not measured.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_dataset, create_loader
from timm.utils import ModelEmaV2
from torch import nn

from workers.contract import DataConfig, Execution, TrialConfig
from workers.costs import count_costs
from workers.data import load_splits
from workers.device import Device
from workers.families import find_family, resolve_arguments
from workers.model import build_model
from workers.recipe import Cell, Recipe
from workers.recipes import resolve
from workers.train import Trainer

Shape = tuple[str, dict[str, object], int, int]  # family, arguments, resolution, batch

CPU_SHAPES: list[Shape] = [
    ("resnet_rs", {"width": 0.25, "depth": 26}, 16, 32),
    ("resnet_rs", {"width": 0.5, "depth": 50}, 32, 32),
    ("resnet_rs", {"width": 0.25, "depth": 50}, 128, 16),
    ("resnet_rs", {"width": 1.0, "depth": 50}, 160, 8),
    ("efficientnet", {"variant": "b0"}, 128, 16),
    ("timm:resnet50", {}, 128, 8),
]
GPU_SHAPES: list[Shape] = [
    ("resnet_rs", {"width": 1.0, "depth": 50}, 160, 256),
    ("resnet_rs", {"width": 1.0, "depth": 152}, 256, 128),
    ("resnet_rs", {"width": 1.0, "depth": 420}, 320, 64),
    ("timm:resnet50", {}, 224, 256),
]
CLASSES, TRAIN_IMAGES, VAL_IMAGES = 10, 1536, 40


@dataclass(frozen=True)
class TimedLoop:
    """One of the two loops: `run(steps)` trains on and returns (seconds, seconds of it waiting for data)."""

    run: Callable[[int], tuple[float, float]]


def make_photos(folder: Path) -> None:
    """JPEG files of the size of photographs, from the digits."""
    digits = load_digits()
    for split, count in (("train", TRAIN_IMAGES), ("val", VAL_IMAGES)):
        for index in range(count):
            label = int(digits.target[index])
            path = folder / split / str(label) / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * 15).astype("uint8")
            Image.fromarray(pixels).convert("RGB").resize((400, 320), Image.Resampling.BICUBIC).save(path, quality=90)


def recipe_of(resolution: int, batch: int) -> Recipe:
    """The paper's short recipe at a batch that is one BatchNorm group, so that both loops compute the same."""
    return resolve("resnet_rs", Cell(resolution, 10, 1.0, 50), {"batch_size": batch, "bn_batch": batch})


def config_of(shape: Shape, root: Path, device: Device) -> TrialConfig:
    """A trial of a shape on the photographs."""
    family, given, resolution, batch = shape
    arguments = resolve_arguments(find_family(family), given)
    width, depth = arguments.pop("width", None), arguments.pop("depth", None)
    data = DataConfig("folder", "benchmark", CLASSES, TRAIN_IMAGES, 0.02, str(root))
    return TrialConfig(
        "benchmark", family, resolution, 10, 0, recipe_of(resolution, batch), data, width=width, depth=depth,
        model=arguments, device=device.kind, precision=device.precision, threads=torch.get_num_threads(),
        execution=Execution(compile="on" if device.kind == "cuda" else "off"),
    )  # fmt: skip


def timed(batches: Iterator[object], waited: list[float]) -> Iterator[object]:
    """The batches, with the time spent waiting for each."""
    while True:
        started = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        waited.append(time.perf_counter() - started)
        yield batch


def our_loop(config: TrialConfig, device: Device) -> TimedLoop:
    """The trial's own loop."""
    trainer, waited, epoch = Trainer(config, load_splits(config.data), device), [0.0], 0
    batches_of = trainer.loader.train
    trainer.loader.train = lambda epoch, first=0: timed(iter(batches_of(epoch, first)), waited)

    def steps() -> Iterator[object]:
        nonlocal epoch
        while True:
            epoch += 1
            yield from trainer.train(epoch)

    return TimedLoop(stopwatch(steps(), waited, device))


def plain_loop(config: TrialConfig, root: Path, device: Device) -> TimedLoop:
    """What a person writes with timm and torch."""
    torch.manual_seed(config.seed)
    model = build_model(config.family, config.arguments, config.resolution, CLASSES, config.recipe)
    model = model.to(device.torch, memory_format=torch.channels_last).train()
    recipe, waited = config.recipe, [0.0]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True, weight_decay=4e-5
    )
    average = ModelEmaV2(model, decay=recipe.ema_decay) if recipe.ema_decay else None
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    loader = create_loader(
        create_dataset("", root=str(root / "train"), split="train"), (3, config.resolution, config.resolution),
        recipe.batch_size, is_training=True, hflip=recipe.horizontal_flip, scale=(recipe.crop_min_area, 1.0),
        interpolation="bicubic", num_workers=torch.multiprocessing.cpu_count(), use_prefetcher=device.kind == "cuda",
        device=device.torch, persistent_workers=True,
    )  # fmt: skip

    def steps() -> Iterator[object]:
        while True:
            for images, labels in timed(iter(loader), waited):
                images = images.to(device.torch, memory_format=torch.channels_last)
                with device.autocast():
                    loss = loss_of(model(images), labels.to(device.torch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if average:
                    average.update(model)
                yield loss

    return TimedLoop(stopwatch(steps(), waited, device))


def stopwatch(steps: Iterator[object], waited: list[float], device: Device) -> Callable[[int], tuple[float, float]]:
    """Runs a number of steps: (seconds, seconds of them waiting for data)."""

    def run(count: int) -> tuple[float, float]:
        waited.clear()
        device.wait()
        started = time.perf_counter()
        for _ in range(count):
            next(steps)
        device.wait()
        return time.perf_counter() - started, sum(waited)

    return run


def matrix_ceiling(device: Device) -> float:
    """FLOPs per second of large matrix products in the device's precision, the best of several."""
    side, repeats = 8192, 20
    left = torch.randn(side, side, device=device.torch, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        device.wait()
        started = time.perf_counter()
        for _ in range(repeats):
            left @ left
        device.wait()
        best = max(best, repeats * 2 * side**3 / (time.perf_counter() - started))
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="on CPU")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = device_of(options.threads)
    print(f"{device.name}, {device.precision}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{options.rounds} rounds of {options.steps} steps each, the two loops taking turns")
    print(f"{'shape':38} batch ours img/s    plain  ratio   (range)  waiting" + ("    MFU  peak GB" if cuda else ""))
    ceiling = matrix_ceiling(device) if cuda else None
    with tempfile.TemporaryDirectory() as folder:
        make_photos(Path(folder))
        for shape in GPU_SHAPES if cuda else CPU_SHAPES:  # each in a process of its own: nothing is left from the last
            process = torch.multiprocessing.get_context("spawn").Process(
                target=compare, args=(shape, Path(folder), options, ceiling)
            )
            process.start()
            process.join()
    if not cuda:
        print("GPU shapes (RS-50@160, RS-152@256, RS-420@320, R-50@224 in bfloat16), MFU, peak memory: not measured")


def device_of(threads: int) -> Device:
    """What there is to measure on."""
    return Device("cuda", "bfloat16", None) if torch.cuda.is_available() else Device("cpu", "float32", threads)


def compare(shape: Shape, root: Path, options: argparse.Namespace, ceiling: float | None) -> None:
    """One line of the table."""
    warnings.filterwarnings("ignore")
    device = device_of(options.threads)
    config = config_of(shape, root, device)
    ours, plain = our_loop(config, device), plain_loop(config, root, device)
    for loop in (ours, plain):
        loop.run(2)
    if ceiling:
        torch.cuda.reset_peak_memory_stats()
    images = options.steps * config.recipe.batch_size
    ours_s, plain_s, waiting = [], [], []
    for index in range(options.rounds):
        for loop in (ours, plain) if index % 2 == 0 else (plain, ours):
            seconds, waited = loop.run(options.steps)
            (ours_s if loop is ours else plain_s).append(images / seconds)
            if loop is ours:
                waiting.append(waited / seconds)
    ratios = sorted(a / b for a, b in zip(ours_s, plain_s, strict=True))
    size = [f"{name}={config.arguments[name]}" for name in ("width", "depth", "variant") if name in config.arguments]
    name, speed = " ".join([config.family, *size, f"@{config.resolution}"]), statistics.median(ours_s)
    line = f"{name:38} {config.recipe.batch_size:5} {speed:10.1f} {statistics.median(plain_s):8.1f}"
    line += f" {statistics.median(ratios):6.2f} {ratios[0]:5.2f}-{ratios[-1]:4.2f} {statistics.median(waiting):7.1%}"
    if ceiling:
        macs = count_costs(config.family, config.arguments, config.resolution, CLASSES).macs_per_image
        line += f" {100 * speed * 6 * macs / ceiling:5.1f}% {torch.cuda.max_memory_allocated() / 1e9:8.1f}"
    print(line, flush=True)


if __name__ == "__main__":
    main()
