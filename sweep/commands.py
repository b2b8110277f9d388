"""What the commands do that read a table, behind the parser: read, call, print."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sweep
from sweep import display
from sweep.errors import RefusedError, TableError
from sweep.layout import SweepFolder, find_table, rows_of
from sweep.naming import label
from sweep.status import COLUMNS, status_of
from sweep.studies import current_rows, planned_cells, planned_trials
from sweep.table import read_columns
from workers.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sweep.imports import Imported
    from sweep.space import SweepSpec


@dataclass(frozen=True)
class ParetoOutput:
    """Where `sweep pareto` writes besides stdout."""

    out: Path | None
    plot: Path | None
    format: str
    reference: str | None = None


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")


def status(name: str | None, results: Path, output_format: str) -> None:
    """`sweep status`."""
    path = find(name, results)
    rows = read_columns(rows_of(path), COLUMNS).to_pylist() if rows_of(path).exists() else []
    planned = planned_cells(path, say)
    value = status_of(path, rows, None if planned is None else planned.to_pylist())
    display.show(value, output_format, display.status_table, rows=value["budgets"])


def pareto(name: str | None, results: Path, query: Mapping[str, Any], output: ParetoOutput) -> None:
    """`sweep pareto`."""
    from sweep.pareto import pareto as find_front

    _check_picture(output.plot)
    if output.out and output.out.exists():
        raise TableError(f"--out {output.out}: is there already; right would be a new name")
    path = find(name, results)
    table = current_rows(path, say)
    reference = _reference(output, results)
    value = find_front(table, **query)
    fronts = value.get("fronts", [value])
    display.show(value, output.format, display.front_tables, rows=[row for front in fronts for row in front["front"]])
    if output.out:
        members = [member for front in fronts for member in front["recommended"]]
        write_bytes(output.out, _recommended_space(path, members).encode())
        say(f"wrote {output.out}; `sweep run {output.out}` trains it")
    if output.plot:
        from sweep.plots import plot_front

        asked = {name: query[name] for name in ("budget", "cost", "max_cost", "device", "noise_sd")}
        plot_front(table, output.plot, reference=reference, **asked)
        say(f"wrote {output.plot}")


def _reference(output: ParetoOutput, results: Path) -> "pd.DataFrame | None":
    """The table that is drawn behind a front and nothing else."""
    if output.reference is None:
        return None
    if output.plot is None:
        raise TableError("--reference: is only drawn; name the picture with --plot FILE.png")
    return current_rows(find(output.reference, results), say)


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
    spec = space_of_cells(read_space(space), members)
    say_what_is_new(spec, members)
    return dump_space(spec, sweep.__version__)


def say_what_is_new(spec: "SweepSpec", members: list[dict[str, Any]]) -> None:
    """Say where the space means other trials than those that were recommended, such as those of an older recipe."""
    from sweep.trials import trials_of

    if spec.plugins:  # which only a plug-in could tell, and reading a folder runs none
        return
    planned = {trial.trial_id for trial in trials_of(spec)}
    new = [str(member["trial_id"]) for member in members if member["trial_id"] not in planned]
    if new:
        words = (
            f"{len(new)} of {len(members)} recommended trials are not in the space as it is now: {', '.join(new[:5])}"
        )
        say(f"{words}; it trains their cells anew")


def rules(
    names: Sequence[str | None],
    results: Path,
    query: Mapping[str, Any],
    plot: Path | None,
    output_format: str,
    reference_as_evidence: bool = False,
) -> None:
    """`sweep rules`, of one table or of several together."""
    from sweep.rules import rules as find_rules

    _check_picture(plot)
    paths = list(dict.fromkeys(find(name, results) for name in (names or (None,))))
    tables = [(str(path), current_rows(path, say)) for path in paths]
    if not reference_as_evidence:
        for path, table in tables:
            _refuse_imported(path, table)
    rows, planned = _together(paths, tables, bool(query.get("robust")))
    value = find_rules(rows, planned=planned, **query)
    display.show(value, output_format, display.rules_tables, rows=value["depth_vs_width"])
    if plot:
        from sweep.plots import plot_depth_width

        plot_depth_width(value, plot)
        say(f"wrote {plot}")


def _together(
    paths: Sequence[Path], tables: "Sequence[tuple[str, pd.DataFrame]]", robust: bool
) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
    """The rows of all tables, and what was planned for all of them."""
    quietly = [planned_trials(path, lambda _: None) for path in paths]  # reading the rows has said it
    if len(tables) == 1:
        return tables[0][1], quietly[0]
    from sweep.unions import union, union_of_planned

    rows = union(tables, rates_may_differ=robust)
    say(f"{len(rows)} trials of {len(tables)} tables, each counted once")
    devices = sorted(map(str, rows["device"].dropna().unique()))
    if len(devices) > 1:
        say(f"note: measured costs are of {len(devices)} devices together: {', '.join(devices)}")
    return rows, union_of_planned(quietly, tables)


def _refuse_imported(path: str, table: "pd.DataFrame") -> None:
    """Rules are about what was trained alike; what others trained is drawn beside it."""
    from sweep.imports import MARK

    if MARK in table and (count := int(table[MARK].notna().sum())):
        origin = table[MARK].dropna().iloc[0]
        raise TableError(
            f"{path}: {count} rows were imported from {origin}: a reference, no evidence for a rule; "
            "--reference-as-evidence takes them for it"
        )


def import_timm(name: str, results: Path, files: tuple[Path, Path], device: str | None, dataset: str | None) -> None:
    """`sweep import timm`."""
    from sweep.imports import timm_table

    _keep(name, results, timm_table(name, *files, device, dataset), list(files))


def import_table(name: str | None, results: Path, file: Path, maps: list[str], device: str | None) -> None:
    """`sweep import table`."""
    from sweep.imports import any_table

    name = name or file.stem
    _keep(name, results, any_table(name, file, maps, device), [file])


def _keep(name: str, results: Path, imported: "Imported", files: list[Path]) -> None:
    from sweep.imports import write_import

    folder = write_import(results, name, imported, files)
    for note in imported.notes:
        say(note)
    ways = f"`sweep pareto {name}`, `sweep pareto A --plot FILE.png --reference {name}`"
    say(f"{len(imported.table)} rows in {folder}/; see {ways}")


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


def write_report(path: Path, cost: str | None) -> Path:
    """The page, fronts and rules as JSON, and pictures; the folder that they are in."""
    from sweep.report import write_report
    from sweep.rows import read_history

    folder = SweepFolder(path).report if path.is_dir() else path.with_suffix(".report")
    curves = partial(read_history, SweepFolder(path)) if path.is_dir() else None
    write_report(current_rows(path, say), planned_trials(path, lambda _: None), folder, cost, curves)
    return folder
