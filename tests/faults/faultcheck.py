"""What has to be true of a sweep's folder and of MLflow, whatever struck the runs that made it."""

import hashlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from faultlib import Done, Place

DONE, REFUSED = 0, 3
# Columns that say how a run went, not what came of it: times, memory, and what an interruption leaves behind.
_MEASURED = ("_ms", "_at", "_s", "_seconds", "_hours", "_spread", "_bytes", "_repeated")
_CIRCUMSTANCES = {"seconds", "attempts", "notes", "host"}
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Truth:
    """What a run that nothing struck left."""

    rows: pd.DataFrame
    curves: pd.DataFrame
    tracked: list[tuple[str, str, str]]
    files: list[str]

    @classmethod
    def of(cls, place: Place) -> "Truth":
        """Read it."""
        return cls(outcome(place.rows()), outcome(place.curves()), place.tracked(), files(place))

    def broken(self, place: Place) -> list[str]:
        """How a folder whose sweep was brought to its end differs from this."""
        found = [
            *different("trials", self.rows, outcome(place.rows())),
            *different("epochs", self.curves, outcome(place.curves())),
            *(f"left behind: {path}" for path in files(place) if path not in self.files),
            *(f"missing: {path}" for path in self.files if path not in files(place)),
            *damaged(place.results),
        ]
        if place.tracked() != self.tracked:
            found.append(f"MLflow has {place.tracked()}")
        return found


def outcome(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that have to be the same however often a run was struck."""
    names = [name for name in table if name not in _CIRCUMSTANCES and not str(name).endswith(_MEASURED)]
    return table[names]


def different(what: str, expected: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """How two tables differ; NaN equals NaN."""
    if list(expected["trial_id"]) != list(found["trial_id"]):
        return [f"{what}: of trials {list(found['trial_id'])} instead of {list(expected['trial_id'])}"]
    missing = set(expected) ^ set(found)
    wrong = [name for name in expected if name in found and not expected[name].equals(found[name])]
    names = sorted({*missing, *wrong})
    return [f"{what}: these columns differ: {', '.join(names)}"] if names else []


def ended(run: Done) -> list[str]:
    """What is wrong with the end of a run that nothing strikes."""
    return [] if run.code == DONE and not run.traceback else [f"ended with {run.code}: {run.stderr[-600:]!r}"]


def explained(run: Done, error: int) -> list[str]:
    """What is wrong with the end of a run whose disk fails: it is done, or its last line says why it is not."""
    if run.code == -signal.SIGALRM:
        return ["it hung"]
    if run.traceback or run.code not in (DONE, REFUSED):
        return [f"ended with {run.code}: {run.stderr[-600:]!r}"]
    last = (run.stderr.splitlines() or [""])[-1]
    if run.code == REFUSED and not (os.strerror(error) in last and "the same command goes on" in last):
        return [f"does not say why it stopped and what to do: {run.stderr[-600:]!r}"]
    return []


def files(place: Place) -> list[str]:
    """Everything that lies in a sweep's folder, temporary files too; its names are the same for the same trials."""
    return sorted(str(path.relative_to(place.sweep)) for path in place.sweep.rglob("*") if path.is_file())


def damaged(folder: Path) -> list[str]:
    """Files that are neither whole nor absent; a temporary one may be anything."""
    readers = {".parquet": _read_parquet, ".json": _read_json, ".png": _read_png, ".pt": _read_state}
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in readers:
            try:
                readers[path.suffix](path)
            except (OSError, ValueError, KeyError, pa.ArrowException) as error:
                found.append(f"damaged: {path.relative_to(folder)}: {error}")
    return found


def _read_parquet(path: Path) -> None:
    pq.read_table(path)


def _read_json(path: Path) -> None:
    json.loads(path.read_text())


def _read_png(path: Path) -> None:
    if not path.read_bytes().endswith(_PNG_END):
        raise ValueError("it ends too early")


def _read_state(path: Path) -> None:
    """A checkpoint; without its manifest it does not count."""
    manifest = path.with_suffix(".json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if manifest.exists() and json.loads(manifest.read_text())["sha256"] != digest:
        raise ValueError("it does not fit its manifest")
