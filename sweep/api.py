"""The tables of sweeps for Python; `import sweep` offers these functions."""

import warnings
from pathlib import Path

import pandas as pd

from sweep.layout import RESULTS, find_table
from sweep.studies import current_rows, planned_trials


def load(sweep: str | Path | None = None, results: str | Path = RESULTS) -> pd.DataFrame:
    """The results table of a sweep, as the commands see it.

    Args:
        sweep: a sweep's name, its folder, or a Parquet file; None takes the sweep under `results` written to last.
        results: the folder of all sweeps.

    Returns:
        One row for each trial, failed ones too (`status`), with every column of results/README.md and the table's own
        (`recipe_…`, `model_…`). Rows of trials that the sweep's space no longer plans are left out, with a warning.

    Raises:
        TableError: there is no such table, or it holds what no table of results can.
    """
    return current_rows(_found(sweep, results), _warn)


def planned(sweep: str | Path | None = None, results: str | Path = RESULTS) -> pd.DataFrame | None:
    """The trials that a sweep's space plans, for `rules(table, planned=…)`: what is missing counts in the coverage.

    Args:
        sweep: as for `load`.
        results: as for `load`.

    Returns:
        One row for each trial: trial_id, family, width, depth, resolution, epochs, seed and `model_…`. None for a table
        from elsewhere.
    """
    return planned_trials(_found(sweep, results), _warn)


def _found(sweep: str | Path | None, results: str | Path) -> Path:
    return find_table(None if sweep is None else str(sweep), Path(results))


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
