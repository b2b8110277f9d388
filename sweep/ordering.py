"""Sorting orders of real numbers, faster than `numpy.argsort`.

NumPy sorts plain whole numbers with vector instructions, so each value goes into the high bits of a whole number whose
low bits are its index.
"""

import numpy as np
from numpy.typing import NDArray

from sweep.noise import Array

Order = NDArray[np.int64]
Keys = NDArray[np.uint64]
_SMALL = 4096
_SCALABLE = (1e-280, 1e300)  # least range and largest number, so that no factor overflows
_SIGN = np.uint64(1 << 63)


def stable_order(values: Array) -> tuple[Order, Array]:
    """The order that sorts n numbers, equal ones by their index, and the sorted numbers; NaN is not allowed."""
    n = len(values)
    if (values[1:] >= values[:-1]).all():
        return np.arange(n), values
    if n <= _SMALL:
        order = np.argsort(values, kind="stable")
        return order, values[order]
    bits = (n - 1).bit_length()
    keys = _as_whole(values)
    keys -= keys.min()
    lost = max(int(keys.max()).bit_length() + bits - 64, 0)
    keys >>= np.uint64(lost)
    keys <<= np.uint64(bits)
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    order = (keys & np.uint64((1 << bits) - 1)).view(np.int64)
    found = values.take(order)
    if (found[1:] < found[:-1]).any():  # numbers too close to be told apart by their keys
        keys >>= np.uint64(bits)
        _sort_runs(order, keys[1:] == keys[:-1], found)
        found = values.take(order)
    return order, found


def lexicographic(columns: list[Array]) -> Order:
    """The order that sorts n points by their first coordinate, equal ones by the second, and so on."""
    if all((column[1:] >= column[:-1]).all() for column in columns):
        return np.arange(len(columns[0]))
    if (packed := _packed(columns)) is not None:
        return packed
    order, first = stable_order(columns[0])
    same = first[1:] == first[:-1]
    if np.count_nonzero(same) <= len(same) // 4:
        _sort_runs(order, same, *(column.take(order) for column in columns))
        return order
    order = np.arange(len(first))
    for column in reversed(columns):
        order = order.take(stable_order(column.take(order))[0])
    return order


def _packed(columns: list[Array]) -> Order | None:
    """The same at once, where all coordinates are whole numbers that fit into one; else None."""
    n = len(columns[0])
    if n <= _SMALL or any((column[:_SMALL] != np.floor(column[:_SMALL])).any() for column in columns):
        return None
    lows = [column.min() for column in columns]
    if any(max(column.max(), -low) >= 2.0**52 for column, low in zip(columns, lows, strict=True)):
        return None
    widths = [int(column.max() - low).bit_length() for column, low in zip(columns, lows, strict=True)]
    bits = (n - 1).bit_length()
    if sum(widths) + bits > 64 or any((column != np.floor(column)).any() for column in columns):
        return None
    keys = np.zeros(n, dtype=np.uint64)
    for column, low, width in zip(columns, lows, widths, strict=True):
        keys <<= np.uint64(width)
        keys |= (column - low).astype(np.uint64)
    keys <<= np.uint64(bits)
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    keys &= np.uint64((1 << bits) - 1)
    return keys.view(np.int64)


def _as_whole(values: Array) -> Keys:
    """Whole numbers that never fall where the values rise.

    Positive numbers keep their bits, which rise with them and tell small ones apart as well as large ones. Others are
    scaled, for next to zero their bits would leave no room for the rest.
    """
    low, high = values.min(), values.max()
    if low <= 0 and max(high, -low) < _SCALABLE[1] and high - low > _SCALABLE[0]:
        scaled: Keys = ((values - low) * (2.0**52 / (high - low))).astype(np.uint64)
        return scaled
    bits = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    return bits if low > 0 else np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _sort_runs(order: Order, same: NDArray[np.bool_], *columns: Array) -> None:
    """Sort each run of an order within itself; `same` says which neighbours are of one run.

    Args:
        order: changed in place.
        same: shape (n - 1,).
        columns: what to sort by, the first one first, each in that order; runs rise in the first one.
    """
    if not same.any():
        return
    inside = np.append(same, False)
    inside[1:] |= same
    places = np.flatnonzero(inside)
    found = np.lexsort([column.take(places) for column in reversed(columns)])
    order[places] = order.take(places.take(found))
