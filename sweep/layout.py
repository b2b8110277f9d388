"""Where a sweep's files lie, and which sweep a command means."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import TableError
from workers.files import write_bytes

RESULTS = Path("results")
NOT_SWEEPS = frozenset({"published", "reference", "simulated"})  # folders of sweeps, not sweeps


@dataclass(frozen=True)
class SweepFolder:
    """`results/<sweep>/`: every path in it is made here."""

    path: Path

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    @property
    def space(self) -> Path:
        """The space as it was last run, resolved; earlier ones stand beside it as space-<hash>.yaml."""
        return self.path / "space.yaml"

    @property
    def spaces(self) -> list[Path]:
        """The space as it was last run, then the earlier ones."""
        return [path for path in (self.space, *sorted(self.path.glob("space-*.yaml"))) if path.is_file()]

    @property
    def planned(self) -> Path:
        """The explicit list of trials of that space; reading it needs neither the space nor its plug-ins."""
        return self.path / "planned.parquet"

    @property
    def trials(self) -> Path:
        """The results table: one part per trial."""
        return self.path / "trials"

    @property
    def shapes(self) -> Path:
        """Measurements, one part per shape."""
        return self.path / "shapes"

    @property
    def report(self) -> Path:
        """Figures and JSON for people."""
        return self.path / "report"

    @property
    def lock(self) -> Path:
        """Held by the controller that owns the sweep."""
        return self.path / "lock"

    def row(self, trial_id: str) -> Path:
        """The trial's row; it is there if and only if the trial ended."""
        return self.trials / f"{trial_id}.parquet"

    def epochs(self, trial_id: str) -> Path:
        """The trial's learning curve."""
        return self.path / "epochs" / f"{trial_id}.parquet"

    def work(self, trial_id: str) -> Path:
        """The trial's own folder: checkpoints, then result.json."""
        return self.path / "work" / trial_id

    def shape(self, shape_id: str) -> Path:
        """A shape's measurement."""
        return self.shapes / f"{shape_id}.parquet"

    def tracked(self, trial_id: str) -> Path:
        """There once MLflow has the whole trial; holds the tracking address and the run's id."""
        return self.path / "tracking" / f"{trial_id}.json"

    def keep_space(self, text: str) -> None:
        """Write the resolved space; one that it replaces is kept, so that old cells can be told from planned ones."""
        if self.space.exists():
            old = self.space.read_bytes()
            if old == text.encode():
                return
            digest = hashlib.sha256(old).hexdigest()[:8]
            write_bytes(self.path / f"space-{digest}.yaml", old)
        write_bytes(self.space, text.encode())


def find_table(sweep: str | None, results: Path = RESULTS) -> Path:
    """The table that a command's SWEEP argument means: a name or path under `results`, or a Parquet file.

    Args:
        sweep: as typed; None takes the sweep that was written to last.
        results: the results folder.

    Returns:
        The sweep's folder, or the Parquet file.

    Raises:
        TableError: there is no such sweep; the message lists those that are there.
    """
    if sweep is None:
        return newest_sweep(results)
    for path in (Path(sweep), results / sweep):
        if path.suffix == ".parquet" and path.is_file():
            return path
        if (path / "trials").is_dir() or (path / "space.yaml").is_file():
            return path
    marks = [*results.glob("**/trials"), *results.glob("**/space.yaml")]
    known = ", ".join(sorted({str(mark.parent.relative_to(results)) for mark in marks})) or "none yet"
    raise TableError(f"no sweep {sweep!r} under {results}/ and no such Parquet file; sweeps there: {known}")


def newest_sweep(results: Path) -> Path:
    """The sweep whose table changed last."""
    marks = [*results.glob("*/trials"), *results.glob("*/space.yaml")]
    changed = {mark.parent: mark.stat().st_mtime_ns for mark in marks if mark.parent.name not in NOT_SWEEPS}
    if not changed:
        raise TableError(f"no sweep under {results}/ yet; `sweep run search_spaces/quickstart.yaml` makes one")
    return max(changed, key=lambda folder: changed[folder])


def rows_of(table: Path) -> Path:
    """What `read_table` reads for a sweep's folder or a lone Parquet file."""
    return table if table.is_file() else table / "trials"
