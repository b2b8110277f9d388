"""Does a larger model still learn what holds outside the training set?

From the base cell to each larger cell on its arms: gain on the clean training subset and gain on held-out
images, in points with 95 % intervals. A cell overfits where the first is above 0 and the second below.
"""

from typing import Any

from sweep.noise import Estimate
from sweep.rules.cells import Cell, Study
from sweep.rules.depth_width import base_cell


def regimes(heldout: Study, train: Study) -> list[dict[str, Any]]:
    """The `regime` entries of one budget; `train` is the same study with train top-1 for accuracy."""
    entries = []
    for resolution in heldout.resolutions():
        base = base_cell(heldout, resolution) or base_cell(heldout, resolution, both=False)
        if base is not None and base.key in train.cells:
            larger = heldout.arm(base, "depth") + heldout.arm(base, "width")
            entries += [_regime(heldout, train, base, cell) for cell in larger if cell.key in train.cells]
    return entries


def _regime(heldout: Study, train: Study, base: Cell, cell: Cell) -> dict[str, Any]:
    weights = {cell.key: 1.0, base.key: -1.0}
    inside, outside = train.estimate(weights), heldout.estimate(weights)
    return {
        **heldout.named,
        "depth": cell.depth,
        "width": cell.width,
        "resolution": cell.resolution,
        "base": {"depth": base.depth, "width": base.width},
        "train_gain": inside.value,
        "train_ci": inside.interval(),
        "heldout_gain": outside.value,
        "heldout_ci": outside.interval(),
        "overfits": _overfits(inside, outside),
    }


def _overfits(inside: Estimate, outside: Estimate) -> bool | None:
    """True and False only where the intervals say so; else None, not known."""
    if outside.side() > 0:
        return False
    return True if inside.side() > 0 and outside.side() < 0 else None
