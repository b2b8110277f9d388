"""Where a sweep's files lie, and which sweep a command means."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import TableError
from sweep.kept_space import as_written, sealed
from sweep.untrusted import inside, without_links
from workers.files import write_bytes

RESULTS = Path("results")
NOT_SWEEPS = frozenset({"published", "reference", "simulated"})  # folders of sweeps, not sweeps
IMPORTED = "imported.json"  # in the folder of a table that was imported


@dataclass(frozen=True)
class SweepFolder:
    """`results/<sweep>/`: every path in it is made here, and none leads out of it.

    Raises:
        RefusedError: by everything that gives a path: an id is no name of ours, or a link stands in the way.
    """

    path: Path

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    @property
    def space(self) -> Path:
        """The space as it was last run, resolved; earlier ones stand beside it as space-<hash>.yaml."""
        return self._inside("space.yaml")

    @property
    def spaces(self) -> list[Path]:
        """The space as it was last run, then the earlier ones."""
        return [path for path in (self.space, *sorted(self.path.glob("space-*.yaml"))) if path.is_file()]

    @property
    def planned(self) -> Path:
        """The explicit list of trials of that space; reading it needs neither the space nor its plug-ins."""
        return self._inside("planned.parquet")

    @property
    def data(self) -> Path:
        """Which images the trials were trained on: their identity by data set and version."""
        return self._inside("data.json")

    @property
    def trials(self) -> Path:
        """The results table: one part per trial."""
        return self._inside("trials")

    @property
    def damaged(self) -> Path:
        """Rows that were damaged, and have been written again."""
        return self._inside("damaged")

    @property
    def shapes(self) -> Path:
        """Measurements, one part per shape."""
        return self._inside("shapes")

    @property
    def report(self) -> Path:
        """Figures and JSON for people."""
        return self._inside("report")

    @property
    def reported(self) -> Path:
        """The report's last file: where it is, the report is whole."""
        return self.report / "rules.json"

    @property
    def lock(self) -> Path:
        """Held by the controller that owns the sweep."""
        return self._inside("lock")

    @property
    def owner(self) -> Path:
        """Which controller that is, and that it lives."""
        return self._inside("owner.json")

    def row(self, trial_id: str) -> Path:
        """The trial's row; it is there if and only if the trial ended."""
        return self._inside("trials", f"{trial_id}.parquet")

    @property
    def curves(self) -> Path:
        """Learning curves, one part per trial."""
        return self._inside("epochs")

    def epochs(self, trial_id: str) -> Path:
        """The trial's learning curve."""
        return self._inside("epochs", f"{trial_id}.parquet")

    @property
    def whole_curves(self) -> Path:
        """Which learning curves were found to be whole."""
        return self._inside("curves.json")

    @property
    def works(self) -> Path:
        """The trials' own folders."""
        return self._inside("work")

    def work(self, trial_id: str) -> Path:
        """The trial's own folder: checkpoints, then result.json."""
        return without_links(self._inside("work", trial_id))

    @property
    def tracking(self) -> Path:
        """What MLflow has: one mark per trial."""
        return self._inside("tracking")

    def shape(self, shape_id: str) -> Path:
        """A shape's measurement."""
        return self._inside("shapes", f"{shape_id}.parquet")

    def tracked(self, trial_id: str) -> Path:
        """There once MLflow has the whole trial; holds the tracking address and the run's id."""
        return self._inside("tracking", f"{trial_id}.json")

    def _inside(self, *names: str) -> Path:
        return inside(self.path, *names)

    def remove_unfinished(self) -> None:
        """Remove what a killed controller was writing; only its successor may."""
        for folder in (".", "trials", "epochs", "shapes", "tracking", "report"):
            for path in self.path.glob(f"{folder}/.*.tmp"):
                path.unlink(missing_ok=True)

    def keep_space(self, text: str) -> None:
        """Write the resolved space; one that it replaces is kept, so that old cells can be told from planned ones."""
        new = sealed(text)
        if self.space.exists():
            old = self.space.read_bytes()
            if old == new:
                return
            digest, kind = hashlib.sha256(old).hexdigest()[:8], "yaml" if as_written(old) else "damaged"
            write_bytes(self._inside(f"space-{digest}.{kind}"), old)
        write_bytes(self.space, new)


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
    """The sweep whose table changed last; an imported table is none."""
    return sweeps_in(results)[0]


def sweeps_in(results: Path) -> list[Path]:
    """The folders of sweeps that were run or planned here, the one whose table changed last first.

    Raises:
        TableError: there is none.
    """
    marks = [*results.glob("*/space.yaml"), *results.glob("*/trials")]
    own = [mark for mark in marks if mark.parent.name not in NOT_SWEEPS and not (mark.parent / IMPORTED).is_file()]
    changed = {mark.parent: mark.stat().st_mtime_ns for mark in own}
    if not changed:
        raise TableError(f"no sweep under {results}/ yet; `sweep run search_spaces/quickstart.yaml` makes one")
    return sorted(changed, key=lambda folder: changed[folder], reverse=True)


def rows_of(table: Path) -> Path:
    """What `read_table` reads for a sweep's folder or a lone Parquet file."""
    return table if table.is_file() else table / "trials"
