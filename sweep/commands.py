"""What the commands do that read a table, behind the parser: read, call, print."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sweep
from sweep import display
from sweep.errors import RefusedError, TableError
from sweep.layout import SweepFolder, find_table, rows_of
from sweep.naming import label
from sweep.parts import read_part
from sweep.status import COLUMNS, status_of
from sweep.table import read_columns, read_table
from workers.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class ParetoOutput:
    """Where `sweep pareto` writes besides stdout."""

    out: Path | None
    plot: Path | None
    format: str


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")


def status(name: str | None, results: Path, output_format: str) -> None:
    """`sweep status`."""
    path = find(name, results)
    rows = read_columns(rows_of(path), COLUMNS).to_pylist() if rows_of(path).exists() else []
    planned = _planned_cells(path)
    value = status_of(path, rows, None if planned is None else planned.to_pylist())
    display.show(value, output_format, display.status_table, rows=value["budgets"])


def pareto(name: str | None, results: Path, query: Mapping[str, Any], output: ParetoOutput) -> None:
    """`sweep pareto`."""
    from sweep.pareto import pareto as find_front

    _check_picture(output.plot)
    path = find(name, results)
    table = _current_rows(path)
    value = find_front(table, **query)
    fronts = value.get("fronts", [value])
    display.show(value, output.format, display.front_tables, rows=[row for front in fronts for row in front["front"]])
    if output.out:
        members = [member for front in fronts for member in front["recommended"]]
        write_bytes(output.out, _recommended_space(path, members).encode())
        say(f"wrote {output.out}; `sweep run {output.out}` trains it")
    if output.plot:
        from sweep.plots import plot_front

        plot_front(table, output.plot, **{name: query[name] for name in ("budget", "cost", "noise_sd")})
        say(f"wrote {output.plot}")


def _check_picture(path: Path | None) -> None:
    """Refuse a name that says no picture format, before anything is computed."""
    if path and path.suffix.lower() not in (".png", ".svg"):
        raise TableError(f"--plot {path}: the name must end in .png or .svg")


def _recommended_space(path: Path, members: list[dict[str, Any]]) -> str:
    """Recommended cells as a search space that `sweep run` accepts."""
    from sweep.kept_space import not_as_written
    from sweep.space import dump_space, read_space, space_of_cells

    space = SweepFolder(path).space
    if not space.is_file() and SweepFolder(path).planned.is_file():
        raise not_as_written(space, "missing")
    if not space.is_file():
        raise TableError(f"--out: {path} has no space.yaml, so its data set and recipe are not known")
    return dump_space(space_of_cells(read_space(space), members), sweep.__version__)


def rules(name: str | None, results: Path, query: Mapping[str, Any], plot: Path | None, output_format: str) -> None:
    """`sweep rules`."""
    from sweep.rules import rules as find_rules

    _check_picture(plot)
    path = find(name, results)
    table = _current_rows(path)
    value = find_rules(table, planned=_planned(path), **query)
    display.show(value, output_format, display.rules_tables, rows=value["depth_vs_width"])
    if plot:
        from sweep.plots import plot_depth_width

        plot_depth_width(value, plot)
        say(f"wrote {plot}")


def report(name: str | None, results: Path, cost: str | None) -> None:
    """`sweep report`."""
    folder = write_report(find(name, results), cost)
    for path in sorted(folder.iterdir()):
        sys.stdout.write(f"{path}\n")


def export(trial: str, name: str | None, results: Path, out: Path | None, run_plugins: bool) -> None:
    """`sweep export`."""
    from sweep.export import exportable, find_trial, trained_again

    path = find(name, results) if name else _sweep_with(trial, results)
    if not path.is_dir():
        raise TableError(f"{path}: only a trial that `sweep run` trained has weights to export")
    folder = SweepFolder(path)
    found = exportable(folder, find_trial(folder, trial), run_plugins)
    from workers.export import DamagedWeightsError, export_model  # after the mistakes that need no torch

    target = out or folder.path / "export" / found.config.trial_id
    try:
        export_model(found.config, found.weights, found.row, target)
    except DamagedWeightsError as error:
        raise RefusedError(f"{error}; {trained_again(folder, found.config.trial_id)}") from error
    except ValueError as error:
        raise TableError(f"trial {found.config.trial_id}: {error}") from error
    say(f"{label(found.row)} is in {target}/")
    sys.stdout.write(f"{target}\n")


def _sweep_with(trial: str, results: Path) -> Path:
    """The sweep that a trial is exported from where none is named; says which of several."""
    from sweep.export import sweeps_with

    first, *others = (folder.path for folder in sweeps_with(results, trial))
    if others:
        say(f"{trial} is in {first} and in {', '.join(map(str, others))}: exporting that of {first}")
    return first


def find(name: str | None, results: Path) -> Path:
    """The table that is meant; says which where it was left out."""
    path = find_table(name, results)
    if name is None:
        say(f"newest sweep: {path}")
    return path


def _current_rows(path: Path) -> "pd.DataFrame":
    """The table without the trials that the sweep's space no longer plans: an edited recipe makes other trials."""
    table, planned = read_table(rows_of(path)), _planned(path)
    if planned is None:
        return table
    if missing := (~planned["trial_id"].isin(table["trial_id"])).sum():
        say(f"{missing} of {len(planned)} planned trials have no row: `sweep run` makes those that are missing")
    current = table["trial_id"].isin(planned["trial_id"])
    if not current.all():
        say(f"{(~current).sum()} of {len(table)} rows are of trials that {path}/space.yaml no longer plans: left out")
    return table[current].reset_index(drop=True)


def _planned(path: Path) -> "pd.DataFrame | None":
    """The cells of a sweep's space as a frame; see `_planned_cells`."""
    cells = _planned_cells(path)
    return None if cells is None else cells.to_pandas()


def _planned_cells(path: Path) -> "pa.Table | None":
    """The cells of a sweep's space; None for a table from elsewhere, or where only a plug-in could tell."""
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


def write_report(path: Path, cost: str | None) -> Path:
    """Fronts and rules as JSON and pictures; the folder that they are in."""
    from sweep.report import write_report

    folder = SweepFolder(path).report if path.is_dir() else path.with_suffix(".report")
    write_report(_current_rows(path), _planned(path), folder, cost)
    return folder
