"""Which of n points are beaten in three or four objectives: divide and conquer in O(n log^(d-2) n), on whole arrays.

Kung, Luccio and Preparata, "On finding the maxima of a set of vectors" (JACM 1975), turned round for NumPy: all blocks
of a level are treated at once. Equal points are treated as one, points are put into lexicographic order, and every
other coordinate becomes a rank in which ties go to the earlier point. Then a point beats another if and only if it
comes before it in the order and in all ranks.
"""

import numpy as np
from numpy.typing import NDArray

from sweep.noise import Array
from sweep.ordering import lexicographic, stable_order

Mask = NDArray[np.bool_]
Ints = NDArray[np.int32]
_LEAF_BITS = 6
_LEAF = 32  # points that are compared pair by pair: _LEAF to 2 x _LEAF, which fits into _LEAF_BITS
_OUT = 1 << 30  # a rank above all others


def beaten(columns: list[Array]) -> Mask:
    """Which points another point beats, being no larger in any coordinate and smaller in one.

    Args:
        columns: three or four coordinates, each of shape (n,), without NaN; less is better.
    """
    if not len(columns[0]):
        return np.zeros(0, dtype=bool)
    order = lexicographic(columns)
    columns = [column.take(order) for column in columns]
    differs = np.ones(len(order), dtype=bool)
    differs[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    if differs.all():
        found = _of_distinct(columns[1:])
    else:
        found = _of_distinct([column.compress(differs) for column in columns[1:]])
        found = found.take(np.cumsum(differs) - 1)
    mask = np.empty(len(order), dtype=bool)
    mask[order] = found
    return mask


def _of_distinct(columns: list[Array]) -> Mask:
    """The same of distinct points in lexicographic order, given their coordinates but the first."""
    n = len(columns[0])
    levels = max((n // _LEAF).bit_length() - 1, 0)
    leaf = -(-n // (1 << levels))
    orders = [_padded(stable_order(column)[0], leaf << levels) for column in columns]
    # Ranks as codes whose low bits count within a leaf, so that each of the others halves a block.
    codes = np.arange(1 << levels, dtype=np.int32)[:, None] << _LEAF_BITS | np.arange(leaf, dtype=np.int32)
    last = _inverse(orders[-1], np.arange(leaf << levels, dtype=np.int32))
    if len(columns) == 2:
        return _after(_inverse(orders[0], codes.ravel()), last, levels, leaf)[:n]
    return _after_in_three(codes.ravel(), orders[0], orders[1], last, levels, leaf)[:n]


def _padded(order: NDArray[np.int64], size: int) -> Ints:
    """The order with points at its end that are behind all others."""
    return np.append(order, np.arange(len(order), size)).astype(np.int32)


def _inverse(order: Ints, values: Ints) -> Ints:
    ranks = np.empty_like(values)
    ranks[order] = values
    return ranks


def _after(codes: Ints, ranks: Ints, levels: int, leaf: int) -> Mask:
    """Which points come after another one in their places, their codes and their ranks.

    Args:
        codes: by place; within each block of leaf x 2^levels places a permutation of the codes of that block.
        ranks: by place, a permutation; with the bit `_OUT` set, the point is only compared with those without it.
        levels: how often the blocks are halved.
        leaf: size of the smallest blocks.
    """
    places = np.arange(len(codes), dtype=np.int32)
    hits = np.zeros(len(codes), dtype=bool)
    apart = bool((ranks & _OUT).any())
    for level in reversed(range(levels)):
        upper = (codes >> (_LEAF_BITS + level)) & 1
        lower = (ranks | upper << 30).reshape(-1, leaf << (level + 1))
        least = np.minimum.accumulate(lower, axis=1).ravel()
        high = upper.astype(bool)
        hit = high & (least < (ranks & (_OUT - 1)))
        if apart:
            hit &= ranks >= _OUT
        hits[places.compress(hit)] = True
        low = ~high
        codes, ranks, places = (np.concatenate([x.compress(low), x.compress(high)]) for x in (codes, ranks, places))
    hits[places.compress(_pairwise(codes, ranks, leaf, apart))] = True
    return hits


def _pairwise(codes: Ints, ranks: Ints, leaf: int, apart: bool) -> Mask:
    """The same within each leaf, comparing every pair; leaves stand in columns, so that all are compared at once."""
    codes, ranks = (np.ascontiguousarray(x.reshape(-1, leaf).T) for x in (codes, ranks))
    found = np.zeros(codes.shape, dtype=bool)
    plain = ranks & (_OUT - 1)
    for i in range(leaf - 1):
        hit = codes[i + 1 :] > codes[i]
        hit &= plain[i + 1 :] > ranks[i]
        found[i + 1 :] |= hit
    if apart:
        found &= ranks >= _OUT
    return found.T.ravel()


def _after_in_three(codes: Ints, second: Ints, third: Ints, last: Ints, levels: int, leaf: int) -> Mask:
    """Which points come after another one in their numbers, in two orders, and in their ranks.

    Blocks of numbers are halved; in each, the points of the lower half are compared with those of the upper half,
    which is a comparison in three coordinates.

    Args:
        codes: of each number.
        second: an order of the numbers.
        third: another one.
        last: rank of each number.
        levels: how often the blocks are halved.
        leaf: size of the smallest blocks.
    """
    hits = np.zeros(len(codes), dtype=bool)
    rank = np.empty_like(codes)
    for level in reversed(range(levels)):
        rank[third] = codes
        upper = (codes.take(second) >> (_LEAF_BITS + level)) & 1
        found = _after(rank.take(second), last.take(second) | upper << 30, level + 1, leaf)
        hits[second.compress(found)] = True
        second, third = (_halved(order, codes, level) for order in (second, third))
    return _in_leaves(hits, codes, second, third, last, leaf)


def _halved(order: Ints, codes: Ints, level: int) -> Ints:
    """The order, numbers of lower halves first."""
    high = ((codes.take(order) >> (_LEAF_BITS + level)) & 1).astype(bool)
    return np.concatenate([order.compress(~high), order.compress(high)])


def _in_leaves(hits: Mask, codes: Ints, second: Ints, third: Ints, last: Ints, leaf: int) -> Mask:
    """Compare every pair within the leaves of numbers."""
    rank = np.empty_like(codes)
    rank[third] = np.arange(len(codes), dtype=np.int32)
    number, rank, last = (np.ascontiguousarray(x.reshape(-1, leaf).T) for x in (second, rank[second], last[second]))
    found = np.zeros(number.shape, dtype=bool)
    for i in range(leaf - 1):
        hit = number[i + 1 :] > number[i]
        hit &= rank[i + 1 :] > rank[i]
        hit &= last[i + 1 :] > last[i]
        found[i + 1 :] |= hit
    hits[number[found]] = True
    return hits
