"""The `sweep` command: parse, wire, print. Heavy imports stand inside the commands that need them.

Results go to stdout, everything else to stderr; exit codes: 0 done, 1 some trials failed, 2 bad input, 3 refused,
130 interrupted.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sweep.errors import RefusedError, StorageError, SweepError, TableError
from workers.files import DISK_FAULTS

app = typer.Typer(
    help="Scaling sweeps of image classifiers: with your data, device and training length, is it depth or width "
    "that pays, and how high a resolution?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
imports = typer.Typer(help="Make a table of others' results, to be drawn beside yours.", no_args_is_help=True)
app.add_typer(imports, name="import")


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class ExecutorName(StrEnum):
    """What runs the trials."""

    RAY = "ray"
    LOCAL = "local"


Space = Annotated[
    Path, typer.Argument(help="A search space, such as search_spaces/quickstart.yaml.", show_default=False)
]
Sweep = Annotated[
    str | None,
    typer.Argument(help="A sweep's name or path, or a Parquet file; by default the newest sweep.", show_default=False),
]
Sweeps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SWEEP",
        help="Names, paths or Parquet files, analysed together; by default the newest sweep.",
        show_default=False,
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of all sweeps.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result on stdout.")]
Cost = Annotated[str | None, typer.Option(help="Any numeric column of the table; by default train_step_ms.")]


def _not_negative(value: float | None) -> float | None:
    if value is not None and not 0 <= value < float("inf"):
        raise typer.BadParameter(f"{value} is not at least 0 and finite")
    return value


NoiseSd = Annotated[
    float | None,
    typer.Option(help="Standard deviation over seeds, in points, if the table cannot tell it.", callback=_not_negative),
]
RESULTS = Path("results")


def main() -> None:
    """Entry point: errors of ours become one line and an exit code. What is written is for this user only."""
    os.umask(0o077)  # results hold paths and configurations, MLflow's database too; see docs/security.md
    try:
        app()
    except SweepError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a path that cannot be read or written
        sys.exit(_explain(error))


def _explain(error: OSError) -> int:
    """Say where and what; the exit code."""
    if error.errno in DISK_FAULTS:
        refused: SweepError = StorageError.of(error, Path())
        _say(str(refused))
        return refused.exit_code
    path = error.filename2 or error.filename
    where = f"{path}: " if path else ""
    way_out = "; a folder stands where a file should: move it away" if isinstance(error, IsADirectoryError) else ""
    _say(f"{where}{error.strerror or error}{way_out}")
    return RefusedError.exit_code if way_out else SweepError.exit_code


def _say(problems: str) -> None:
    """One problem a line; what they quote from a file must not reach the terminal as anything but text."""
    from sweep.yaml_file import one_line

    sys.stderr.writelines(f"{one_line(problem)}\n" for problem in problems.split("\n"))


def _version(wanted: bool) -> None:
    if wanted:
        from sweep import __version__

        sys.stdout.write(f"sweep {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of every command."""


@app.command()
def plan(
    space: Space,
    dump: Annotated[Path | None, typer.Option(help="Also write every trial as <trial_id>.json here.")] = None,
    explain: Annotated[
        str | None,
        typer.Option(metavar="TRIAL", help="Instead, say which field changed a trial's id, and from what."),
    ] = None,
    results: Results = RESULTS,
    format: FormatOption = Format.TABLE,  # noqa: A002  (the option's name)
) -> None:
    """List every trial of a search space with its costs and what is left to do. Trains nothing, needs no data."""
    from sweep import run_commands

    if explain is not None:
        run_commands.explain(space, explain, results, format.value)
    else:
        run_commands.plan(space, dump, results, format.value)


@app.command()
def run(
    space: Space,
    results: Results = RESULTS,
    executor: Annotated[ExecutorName, typer.Option(help="Ray Tune, or this process, one trial at a time.")] = (
        ExecutorName.RAY
    ),
    retry: Annotated[
        str, typer.Option(help="Also run trials again that failed in these ways, such as `oom,crashed`.")
    ] = "",
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; by default all that fit.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster; by default one is started here.")
    ] = None,
) -> None:
    """Train every trial that is not finished, then report. Running it again goes on where it stopped."""
    from sweep import interrupt, run_commands

    interrupt.install()
    options = run_commands.RunOptions(executor.value, retry, max_concurrent, address)
    interrupt.leave(run_commands.run(space, results, options))


@app.command()
def status(sweep: Sweep = None, results: Results = RESULTS, format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """Say how far a sweep is: trials by status and budget, and the failures."""
    from sweep import commands

    commands.status(sweep, results, format.value)


def _limits(texts: list[str] | None) -> list[str] | None:
    """Refuse a limit that is no number; what it is a limit of, the table knows."""
    for part in ",".join(texts or []).split(",") if texts else []:
        try:
            value = float(part.rpartition("=")[2])
        except ValueError:
            raise typer.BadParameter(f"{part!r} is neither a number nor COLUMN=NUMBER") from None
        _not_negative(value)
    return texts


def _max_cost(texts: list[str] | None) -> float | dict[str, float] | None:
    """The limits as the front takes them: one number, or numbers by column."""
    parts = [part.rpartition("=") for part in ",".join(texts).split(",")] if texts else []
    if len(parts) == 1 and not parts[0][0]:
        return float(parts[0][2])
    if any(not name.strip() for name, _, _ in parts):
        raise TableError("--max-cost: of which column is each? right would be COLUMN=NUMBER for all of them")
    return {name.strip(): float(number) for name, _, number in parts} or None


def _columns(text: str | None) -> str | list[str] | None:
    """One column, or a list of them."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return names if len(names) > 1 else text


@app.command()
def pareto(
    sweep: Sweep = None,
    budget: Annotated[int | None, typer.Option(help="Epochs; by default every budget in turn.")] = None,
    cost: Annotated[
        str | None,
        typer.Option(help="Any numeric column, or up to three as A,B; by default train_step_ms.", show_default=False),
    ] = None,
    max_cost: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[COLUMN=]NUMBER",
            help="Leave out cells that cost more; COLUMN= says of which column, once for each.",
            callback=_limits,
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Only rows of this device, or of the one so named.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="How many to recommend, evenly spread in log cost.")] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="FAMILY", help="How many times cheaper the others are at its top-1.")
    ] = None,
    noise_sd: NoiseSd = None,
    out: Annotated[Path | None, typer.Option(help="Write the recommended cells as a search space.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the front (PNG or SVG).")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Another table to draw behind it, such as an imported one.")
    ] = None,
    results: Results = RESULTS,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Recommend configurations: those that no other one beats in both cost and accuracy."""
    from sweep import commands

    query = {"budget": budget, "cost": _columns(cost), "max_cost": _max_cost(max_cost), "top": top}
    query |= {"compare": compare, "device": device, "noise_sd": noise_sd}
    commands.pareto(sweep, results, query, commands.ParetoOutput(out, plot, format.value, reference))


@app.command()
def rules(
    sweeps: Sweeps = None,
    cost: Cost = None,
    noise_sd: NoiseSd = None,
    robust: Annotated[
        bool, typer.Option("--robust", help="Also say whether verdicts hold at other learning rates.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the depth and width arms (PNG).")] = None,
    reference_as_evidence: Annotated[
        bool, typer.Option("--reference-as-evidence", help="Derive rules from an imported table too.")
    ] = False,
    results: Results = RESULTS,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Say what the table supports: depth, width, mixed or undetermined, and how fast to raise the resolution.

    Several sweeps are one table where they agree in data, protocol and recipe.
    """
    from sweep import commands

    query = {"cost": cost, "noise_sd": noise_sd, "robust": robust}
    commands.rules(sweeps or [], results, query, plot, format.value, reference_as_evidence)


@app.command()
def report(sweep: Sweep = None, results: Results = RESULTS, cost: Cost = None) -> None:
    """Write verdicts, fronts and figures as one page, with JSON and pictures, into the sweep's report folder."""
    from sweep import commands

    commands.report(sweep, results, cost)


@app.command()
def export(
    trial: Annotated[str, typer.Argument(help="A trial's id, or the beginning of it.", show_default=False)],
    sweep: Annotated[str | None, typer.Option(help="Its sweep's name or path; by default all are searched.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; by default export/<id> in the sweep's.")] = None,
    run_plugins: Annotated[
        bool, typer.Option("--run-plugins", help="Run the plug-ins that the sweep's folder names: code, so trust it.")
    ] = False,
    results: Results = RESULTS,
) -> None:
    """Write a finished trial's model as a folder that timm can load: weights, configuration, its row."""
    from sweep import commands

    commands.export(trial, sweep, results, out, run_plugins)


@app.command()
def sync(sweep: Sweep = None, results: Results = RESULTS) -> None:
    """Record every trial of the table in MLflow again, for a tracking server that was lost or changed."""
    from sweep import run_commands

    run_commands.sync(sweep, results)


Name = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Its name under results/.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="What the speeds were measured on; by default as the file says.")]


@imports.command("timm")
def import_timm(
    accuracies: Annotated[Path, typer.Argument(metavar="RESULTS.csv", help="model, img_size, top1, …")],
    speeds: Annotated[
        Path, typer.Argument(metavar="BENCHMARK.csv", help="model, infer_img_size, infer_samples_per_sec, …")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Its name under results/.", show_default=False)],
    device: Device = None,
    dataset: Annotated[
        str | None, typer.Option(help="What the accuracies are of; by default as the file says.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Read the accuracies and speeds that timm publishes, joined on the model's name and the image size."""
    from sweep import commands

    commands.import_timm(name, results, (accuracies, speeds), device, dataset)


@imports.command("table")
def import_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV or Parquet file.")],
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OWN=COLUMN[*K]", help="Rename a column, and scale it; once for each."),
    ] = None,
    name: Name = None,
    device: Device = None,
    results: Results = RESULTS,
) -> None:
    """Read any table: one row for each model, with a top-1 in percent and at least one cost."""
    from sweep import commands

    commands.import_table(name, results, file, maps or [], device)
