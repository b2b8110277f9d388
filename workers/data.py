"""Gives batches of uint8 images, the same ones for the same seed, however many processes decode them.

Images stay uint8 until they are on the device; `Normalize` turns them into floats there. A batch is put together from
chunks that processes decode, one batch ahead of the one that is trained on; the processes live as long as the loader.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from workers.augment import Transform, eval_transform, random_states_kept, seed_augmentation, train_transform
from workers.contract import DataError, InvalidConfigError
from workers.processes import as_it_is, end_processes
from workers.recipe import Recipe
from workers.sources import Images
from workers.splits import Splits, Subset, load_splits

__all__ = ["Batch", "Loader", "Normalize", "Splits", "Subset", "load_splits"]

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 images (N, 3, H, W), labels (N,)
Item = TypeVar("Item")

EVAL_BATCH = 256  # no gradients are kept, so memory is no concern
CHUNK = (
    64  # images that one process decodes at a time: small beside a large batch, large beside the cost of handing over
)
AUGMENTED, PLAIN, EVALUATED = range(3)  # the transforms


class _Chunk(NamedTuple):
    """A task for one process. The numbers (epoch, position, copy) seed an image's augmentation."""

    source: int  # number of the source of images
    transform: int
    epoch: int
    indices: list[int]  # in the source
    positions: list[int]  # in the subset
    copies: list[int]


@dataclass(frozen=True)
class _Request:
    """Batches of one subset, by the images' positions in it."""

    subset: Subset
    transform: int
    epoch: int
    positions: Sequence[torch.Tensor]
    copies: Sequence[torch.Tensor] | None  # which of its copies each image is; None: there is one of each

    def chunks(self, source: int) -> Iterator[_Chunk]:
        for number, batch in enumerate(self.positions):
            copies = torch.zeros_like(batch) if self.copies is None else self.copies[number]
            for part, which in zip(torch.split(batch, CHUNK), torch.split(copies, CHUNK), strict=True):
                positions = part.tolist()
                indices = [self.subset.indices[position] for position in positions]
                yield _Chunk(source, self.transform, self.epoch, indices, positions, which.tolist())


class _Rendered(Dataset[torch.Tensor | DataError]):
    """Chunks of images through a transform, whichever process does it."""

    def __init__(self, sources: list[Images], transforms: Sequence[Transform], seed: int) -> None:
        self.sources = sources
        self._transforms, self._seed = transforms, seed

    def __getitem__(self, chunk: _Chunk) -> torch.Tensor | DataError:
        try:
            return self.render(chunk)
        except DataError as error:  # as a value: raised, it would come with the traceback of another process
            return error

    def render(self, chunk: _Chunk) -> torch.Tensor:
        """uint8 (N, 3, R, R), channels last in memory."""
        load, transform = self.sources[chunk.source].load, self._transforms[chunk.transform]
        if chunk.transform != AUGMENTED:
            images = [transform(load(index)) for index in chunk.indices]
        else:
            images = []
            with random_states_kept():
                for index, position, copy in zip(chunk.indices, chunk.positions, chunk.copies, strict=True):
                    image = load(index)
                    seed_augmentation(self._seed, chunk.epoch, position, copy)
                    images.append(transform(image))
        # Straight into shared memory where another process waits for it, and without turning the colours around.
        batch: torch.Tensor = default_collate([image.permute(1, 2, 0) for image in images])
        return batch.permute(0, 3, 1, 2)


class _Tasks:
    """What a DataLoader's processes do next; it is asked anew whenever they have come to an end."""

    def __init__(self) -> None:
        self.next: Callable[[], Iterator[_Chunk]] = lambda: iter(())

    def __iter__(self) -> Iterator[_Chunk]:
        return self.next()


class Loader:
    """Batches of one trial: `train(epoch)` and `evaluate(subset)`, one of them at a time."""

    def __init__(
        self,
        splits: Splits,
        recipe: Recipe,
        resolution: int,
        seed: int,
        workers: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        pin: bool = False,
    ) -> None:
        """Prepare the batches.

        Args:
            splits: the data set.
            recipe: batch size, augmentation, evaluation crop and resolution.
            resolution: side of the training images, in pixels.
            seed: of order and augmentation.
            workers: decoding processes; None takes this rank's share of the cores, 0 decodes in this process.
            rank: which of the processes that share every batch this is.
            ranks: how many they are.
            pin: give images in page-locked memory, from which a GPU copies while the host goes on.

        Raises:
            DataError: the training set is smaller than one batch.
            InvalidConfigError: the batch's BatchNorm groups cannot be shared evenly between the ranks.
        """
        if len(splits.train) < recipe.batch_size:
            raise DataError(f"{len(splits.train)} training images are fewer than a batch of {recipe.batch_size}")
        if recipe.batch_size // recipe.bn_batch % ranks:
            raise InvalidConfigError(
                f"batch_size {recipe.batch_size} is {recipe.batch_size // recipe.bn_batch} groups of bn_batch "
                f"{recipe.bn_batch}: not a multiple of the {ranks} devices"
            )
        self.splits, self.batch_size, self.seed, self._recipe = splits, recipe.batch_size, seed, recipe
        self._rank, self._ranks, self._pin = rank, ranks, pin
        plain = eval_transform(recipe, resolution)
        augmented = train_transform(recipe, resolution) if recipe.augments else plain
        evaluated = eval_transform(recipe, recipe.test_resolution) if recipe.test_resolution else plain
        sources = [splits.train.images, splits.val.images]
        self._rendered = _Rendered(sources, [augmented, plain, evaluated], seed)
        self._evaluated = EVALUATED if recipe.test_resolution else PLAIN
        cores = max(1, len(os.sched_getaffinity(0)) // ranks)
        self._workers = 0 if splits.in_memory else (cores if workers is None else workers)
        self._kept: dict[tuple[Subset, int], torch.Tensor] = {}
        self._tasks = _Tasks()
        self._processes: DataLoader[Any] | None = None
        self._results: Iterator[Any] = iter(())
        self._current: Generator[Batch, None, None] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; the images that do not fill a batch wait for another epoch's order.

        With repeated augmentation an epoch has as many samples, of fewer images.
        """
        return len(self.splits.train) // self.batch_size

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's share of the epoch's batches from a step (0-based in the epoch) on.

        A share is `batch_size / ranks` consecutive images of the batch. What is in it follows from seed and epoch.
        """
        positions, copies = self._plan(epoch)
        share = self.batch_size // self._ranks
        mine = slice(self._rank * share, (self._rank + 1) * share)
        transform = AUGMENTED if self._recipe.augments else PLAIN
        return self._batches(
            _Request(
                self.splits.train,
                transform,
                epoch,
                positions[first_step:, mine].unbind(),
                None if copies is None else copies[first_step:, mine].unbind(),
            )
        )

    def evaluate(self, subset: Subset) -> Iterator[Batch]:
        """This rank's share of a subset in its own order, without augmentation, at the evaluation resolution.

        Every image is in one rank's share; a rank's batches are of 256 images, the last one of what is left.
        """
        return self._batches(_Request(subset, self._evaluated, 0, self._share(subset), None))

    def eval_batches(self, subset: Subset) -> tuple[int, ...]:
        """Images in each batch of `evaluate`: XLA compiles the model once for each size that occurs."""
        return tuple(len(batch) for batch in self._share(subset))

    def close(self) -> None:
        """End the decoding processes; the next batch that is asked for starts them again."""
        current, self._current = self._current, None
        if current is not None:
            current.close()
        end_processes(self._results)
        self._processes, self._results = None, iter(())

    def _share(self, subset: Subset) -> Sequence[torch.Tensor]:
        first, last = (len(subset) * rank // self._ranks for rank in (self._rank, self._rank + 1))
        return torch.split(torch.arange(first, last), EVAL_BATCH) if last > first else ()

    def _plan(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Position of each sample in the training set, (steps, batch), and which of the image's copies it is.

        Repeated augmentation as in RASampler (DeiT, timm): each image of a shuffled list is taken r times in a row, and
        these samples are dealt out to the batch's BatchNorm groups in turn, as there to the GPUs. So copies of an image
        are in one batch and in different groups, unless there are fewer groups than copies or a batch's end is between.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.splits.train), generator=generator)
        shape = (self.steps_per_epoch, self.batch_size)
        repeats = self._recipe.repeated_augmentation
        if repeats == 1:
            return order[: shape[0] * shape[1]].view(shape), None
        samples = torch.arange(shape[0] * shape[1])
        dealt = samples.view(shape[0], self._recipe.bn_batch, -1).transpose(1, 2).reshape(shape)
        return order[dealt // repeats], dealt % repeats

    def _batches(self, request: _Request) -> Iterator[Batch]:
        if self.splits.in_memory and request.transform != AUGMENTED:
            return self._from_memory(request)
        return self._one_at_a_time(request)

    def _from_memory(self, request: _Request) -> Iterator[Batch]:
        images, labels = self._in_memory(request.subset, request.transform), request.subset.labels
        batches = ((images[batch], labels[batch]) for batch in request.positions)
        return ((image.pin_memory(), label.pin_memory()) for image, label in batches) if self._pin else batches

    def _in_memory(self, subset: Subset, transform: int) -> torch.Tensor:
        """All images of a small subset, rendered once."""
        key = subset, transform
        if key not in self._kept:
            everything = list(range(len(subset)))
            chunk = _Chunk(self._source(subset.images), transform, 0, list(subset.indices), everything, [])
            self._kept[key] = self._rendered.render(chunk).contiguous()
        return self._kept[key]

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self._pin else tensor

    def _one_at_a_time(self, request: _Request) -> Iterator[Batch]:
        """The batches of a request; asking for others meanwhile ends it, for the processes do one thing at a time."""
        if self._current is not None:
            self._current.close()
        current = self._current = self._made(request)
        try:
            yield from current
        except Exception:
            self.close()
            raise
        finally:
            current.close()
        if self._current is not current:
            raise RuntimeError("other batches were asked for before these came to their end")

    def _made(self, request: _Request) -> Generator[Batch, None, None]:
        images = self._assembled(self._chunks(request), [len(batch) for batch in request.positions])
        with closing(_ahead(images) if self._workers else images) as batches:
            for batch, positions in zip(batches, request.positions, strict=True):
                yield batch, self._pinned(request.subset.labels[positions])

    def _chunks(self, request: _Request) -> Iterator[torch.Tensor | DataError]:
        """Decoded chunks, from the processes or from this one."""
        source = self._source(request.subset.images)
        if self._workers == 0:
            return (self._rendered[chunk] for chunk in request.chunks(source))
        self._tasks.next = lambda: request.chunks(source)
        if self._processes is None:
            self._processes = DataLoader(
                self._rendered,
                batch_size=None,
                sampler=self._tasks,
                num_workers=self._workers,
                collate_fn=as_it_is,
                persistent_workers=True,
                generator=torch.Generator(),  # with one of its own it leaves the process's untouched
            )
        self._results = iter(self._processes)
        return self._results

    def _source(self, images: Images) -> int:
        """The source's number; processes that do not know it yet are ended."""
        for number, source in enumerate(self._rendered.sources):
            if source is images:
                return number
        self._rendered.sources.append(images)
        end_processes(self._results)
        self._processes, self._results = None, iter(())
        return len(self._rendered.sources) - 1

    def _assembled(
        self, chunks: Iterator[torch.Tensor | DataError], sizes: Sequence[int]
    ) -> Generator[torch.Tensor, None, None]:
        """Batches of the given sizes out of chunks that fill them exactly."""
        for size in sizes:
            chunk = _or_raise(next(chunks))
            if len(chunk) == size and not self._pin:
                yield chunk
                continue
            batch = torch.empty(
                (size, *chunk.shape[1:]),
                dtype=torch.uint8,
                pin_memory=self._pin,
                memory_format=torch.channels_last,
            )
            filled = 0
            while True:
                batch[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
                if filled == size:
                    break
                chunk = _or_raise(next(chunks))
            yield batch


def _or_raise(chunk: torch.Tensor | DataError) -> torch.Tensor:
    if isinstance(chunk, DataError):
        raise chunk
    return chunk


def _ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The items, each made by a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item


class Normalize:
    """Moves uint8 images to the device and makes floats of zero mean and unit variance there."""

    def __init__(self, splits: Splits, device: torch.device) -> None:
        self._device = device
        self._mean = torch.tensor(splits.mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(splits.std, device=device).view(1, 3, 1, 1) * 255

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W): uint8 anywhere to float32, channels last, on the device."""
        moved = images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        return (moved.float() - self._mean) / self._std
