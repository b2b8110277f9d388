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

from sweep.errors import SweepError

app = typer.Typer(
    help="Scaling sweeps of image classifiers: with your data, device and training length, is it depth or width "
    "that pays, and how high a resolution?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


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
    except OSError as error:  # a path of the person's that cannot be read or written
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        sys.exit(SweepError.exit_code)


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


@app.command()
def pareto(
    sweep: Sweep = None,
    budget: Annotated[int | None, typer.Option(help="Epochs; by default every budget in turn.")] = None,
    cost: Cost = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Leave out cells that cost more.", callback=_not_negative)
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="How many to recommend, evenly spread in log cost.")] = None,
    compare: Annotated[str | None, typer.Option(help="Another family of the table: times faster at its top-1.")] = None,
    noise_sd: NoiseSd = None,
    out: Annotated[Path | None, typer.Option(help="Write the recommended cells as a search space.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the front (PNG).")] = None,
    results: Results = RESULTS,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Recommend configurations: those that no other one beats in both cost and accuracy."""
    from sweep import commands

    query = {"budget": budget, "cost": cost, "max_cost": max_cost, "top": top, "compare": compare}
    commands.pareto(sweep, results, {**query, "noise_sd": noise_sd}, commands.ParetoOutput(out, plot, format.value))


@app.command()
def rules(
    sweep: Sweep = None,
    cost: Cost = None,
    noise_sd: NoiseSd = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the depth and width arms (PNG).")] = None,
    results: Results = RESULTS,
    format: FormatOption = Format.TABLE,  # noqa: A002
) -> None:
    """Say what the table supports: depth, width, mixed or undetermined, and how fast to raise the resolution."""
    from sweep import commands

    commands.rules(sweep, results, {"cost": cost, "noise_sd": noise_sd}, plot, format.value)


@app.command()
def report(sweep: Sweep = None, results: Results = RESULTS, cost: Cost = None) -> None:
    """Write the front and the rules as JSON and pictures into the sweep's report folder."""
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
