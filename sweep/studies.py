"""What a sweep's table says now, and what was planned: read in one way for the commands and for Python."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.layout import SweepFolder, rows_of
from sweep.parts import read_part
from sweep.table import read_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Say = Callable[[str], None]  # takes a line for people


def current_rows(path: Path, say: Say) -> "pd.DataFrame":
    """The table without the trials that the sweep's space no longer plans: an edited recipe makes other trials."""
    table, planned = read_table(rows_of(path)), planned_trials(path, say)
    if planned is None:
        return table
    if missing := (~planned["trial_id"].isin(table["trial_id"])).sum():
        say(f"{missing} of {len(planned)} planned trials have no row: `sweep run` makes those that are missing")
    current = table["trial_id"].isin(planned["trial_id"])
    if not current.all():
        say(f"{(~current).sum()} of {len(table)} rows are of trials that {path}/space.yaml no longer plans: left out")
    return table[current].reset_index(drop=True)


def planned_trials(path: Path, say: Say) -> "pd.DataFrame | None":
    """The planned trials as a frame; see `planned_cells`."""
    cells = planned_cells(path, say)
    return None if cells is None else cells.to_pandas()


def planned_cells(path: Path, say: Say) -> "pa.Table | None":
    """The trials of a sweep's space; None for a table from elsewhere, or where only a plug-in could tell."""
    folder = SweepFolder(path)
    if folder.planned.is_file():
        return read_part(folder.planned)
    if not folder.space.is_file():
        return None
    import pyarrow as pa

    from sweep.rows import planned_columns
    from sweep.space import load_space, read_space
    from sweep.trials import trials_of

    if read_space(folder.space).plugins:
        say(f"{folder.planned}: missing, and only a plug-in could tell what is planned; `sweep run` writes it again")
        return None
    return pa.Table.from_pylist([planned_columns(config) for config in trials_of(load_space(folder.space))])
