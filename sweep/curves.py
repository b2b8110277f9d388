"""Learning curves that got lost or damaged after their rows were written: noticed by `sweep run`, not years later.

Reading ten thousand curves takes half a minute, so each is read once: `curves.json` holds the inode, size and time of
those that were whole, and only what changed since is read again.
"""

from collections.abc import Callable, Collection
from contextlib import suppress

from sweep.errors import DamagedTableError
from sweep.index import read_rows, stamps_of
from sweep.layout import SweepFolder
from sweep.parts import read_part
from sweep.rows import write_history
from workers.files import read_sealed, seal, write_json
from workers.work_folder import read_result


def mend_curves(folder: SweepFolder, say: Callable[[str], None]) -> list[str]:
    """Write lost and damaged curves again from the trials' results, and say so.

    Args:
        folder: of the sweep.
        say: told of each curve that was not whole, in one line.

    Returns:
        Files of those that could not be written again.
    """
    if not folder.trials.is_dir():
        return []
    now, seen = _stamps(folder), _seen(folder)
    lost = []
    for row in read_rows(folder.trials, ["trial_id", "epochs_done"]).to_pylist():
        name = f"{row['trial_id']}.parquet"
        if row.get("epochs_done") and (name not in now or seen.get(name) != now[name]):
            lost += [] if _is_whole(folder, row["trial_id"], row["epochs_done"], say) else [name]
    mark_curves(folder, lost)
    return lost


def mark_curves(folder: SweepFolder, lost: Collection[str]) -> None:
    """Note that all curves but these are whole: they were read, or this process wrote them."""
    whole = {name: stamp for name, stamp in sorted(_stamps(folder).items()) if name not in lost}
    if whole != _seen(folder):
        with suppress(OSError):  # then they are read once more
            write_json(folder.whole_curves, seal(whole))


def _is_whole(folder: SweepFolder, trial_id: str, epochs: int, say: Callable[[str], None]) -> bool:
    path = folder.epochs(trial_id)
    try:
        if path.exists():
            read_part(path)
            return True
        reason = "missing"
    except DamagedTableError as error:
        reason = f"damaged ({error.reason})"
    result = read_result(folder.work(trial_id))
    if result is None or result.trial_id != trial_id or len(result.history) != epochs:
        row = folder.row(trial_id)
        say(f"{path}: {reason}, as is the trial's result; move it and {row} away, and `sweep run` trains it again")
        return False
    write_history(folder, trial_id, result.history)
    say(f"{path}: {reason}; written again from the trial's result")
    return True


def _stamps(folder: SweepFolder) -> dict[str, str]:
    return stamps_of(folder.curves) if folder.curves.is_dir() else {}


def _seen(folder: SweepFolder) -> dict[str, str]:
    try:
        return read_sealed(folder.whole_curves)
    except (OSError, ValueError):
        return {}
