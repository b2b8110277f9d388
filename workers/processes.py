"""Work shared between processes by torch's DataLoader, whose processes end by themselves when their parent dies."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from workers.contract import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`function` of each item, in order; with no workers, in this process.

    Raises:
        DataError: raised by the function for one of the items, whichever process it ran in.
    """
    if workers == 0 or len(items) < 2:
        yield from map(function, items)
        return
    import torch
    from torch.utils.data import DataLoader

    results = iter(
        DataLoader(
            _Calls(function, items),  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(len(items)),
            num_workers=min(workers, len(items)),
            collate_fn=as_it_is,
            generator=torch.Generator(),  # with one of its own it leaves the process's untouched
        )
    )
    try:
        for result in results:
            if isinstance(result, DataError):
                raise result
            yield result
    finally:
        end_processes(results)


class _Calls(Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function, self._items = function, items

    def __getitem__(self, index: int) -> Result | DataError:
        try:
            return self._function(self._items[index])
        except DataError as error:  # as a value: raised, it would come with the traceback of the other process
            return error


def as_it_is(value: Any) -> Any:
    """The value; a DataLoader would otherwise look into it for arrays."""
    return value


def end_processes(batches: Iterator[Any]) -> None:
    """End the processes of a DataLoader's iterator now, whoever still holds it: an exception's frames often do."""
    shut_down = getattr(batches, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
