"""What MLflow has of a sweep's table: a mark per recorded trial, `tracking/<id>.json`.

The table is the spool: a row without a mark that counts is sent to MLflow, now or by the next `sweep run`. A mark
counts for the address, the parent run and the status that it names; a damaged one is the same as none.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sweep.layout import SweepFolder
from sweep.plan import EXCLUDED, RowState
from sweep.rows import read_history, read_row
from workers.contract import EpochMetrics
from workers.files import read_sealed, seal, write_json

Row = Mapping[str, Any]
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Mark:
    """A trial that MLflow has whole: where, under which parent run, and with which status."""

    tracking_uri: str
    run_id: str
    parent: str
    status: str


class Ledger:
    """The marks of one sweep, beside the rows that they are about."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder

    @property
    def _open(self) -> Path:
        """There until MLflow shows the sweep as finished; not the name of a trial's mark."""
        return self._folder.tracking / "open"

    def missing(self, states: Mapping[str, RowState]) -> list[str]:
        """Ids of the rows that the MLflow of today's address has not got."""
        address = current_address()
        ids = recordable(states)
        if _deleted(address):
            return ids
        return [trial_id for trial_id in ids if not _counts(self.mark_of(trial_id), address, states[trial_id].status)]

    def mark(self, trial_id: str, mark: Mark) -> None:
        """Note that MLflow has a trial."""
        write_json(self._folder.tracked(trial_id), seal(dataclasses.asdict(mark)))

    def mark_of(self, trial_id: str) -> Mark | None:
        """The trial's mark; None where there is none, or a damaged one."""
        try:
            return Mark(**read_sealed(self._folder.tracked(trial_id)))
        except (OSError, ValueError, TypeError):
            return None

    def strangers(self, address: str, parent: str) -> list[str]:
        """Trials that were recorded at this address under another parent run: MLflow's database was deleted since."""
        ids = [path.stem for path in self._folder.tracking.glob("*.json")]
        marks = {trial_id: mark for trial_id in ids if (mark := self.mark_of(trial_id)) and self.has_row(trial_id)}
        return [i for i, mark in marks.items() if mark.tracking_uri == address and mark.parent != parent]

    def has_row(self, trial_id: str) -> bool:
        """Whether the trial ended."""
        return self._folder.row(trial_id).exists()

    def read(self, trial_id: str) -> tuple[Row, Sequence[EpochMetrics]]:
        """A trial's row and learning curve.

        Raises:
            RefusedError: one of them is damaged or gone; the message names the file.
        """
        return read_row(self._folder.row(trial_id)), read_history(self._folder, trial_id)

    def unmark(self, trial_id: str) -> None:
        """Forget that MLflow had a trial."""
        self._folder.tracked(trial_id).unlink(missing_ok=True)

    def opened(self) -> None:
        """From now on MLflow shows runs as running."""
        write_json(self._open, {"tracking_uri": current_address()})

    def closed(self) -> None:
        """MLflow shows the sweep as finished."""
        self._open.unlink(missing_ok=True)

    def is_open(self) -> bool:
        """Whether MLflow may show runs as running or the sweep as killed."""
        return self._open.exists()


def recordable(states: Mapping[str, RowState]) -> list[str]:
    """Ids of the rows that MLflow is to have; excluded cells have nothing to record."""
    return [trial_id for trial_id, state in states.items() if state.status != EXCLUDED]


def _counts(mark: Mark | None, address: str, status: str) -> bool:
    return mark is not None and (mark.tracking_uri, mark.status) == (address, status)


def _deleted(address: str) -> bool:
    """Whether the address is a file that is not there."""
    return address.startswith(SQLITE) and not Path(address.removeprefix(SQLITE)).exists()


def current_address() -> str:
    """Where MLflow records, found without importing it: `MLFLOW_TRACKING_URI`, else its own default."""
    return address_of(os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db")


def address_of(uri: str) -> str:
    """What tells one MLflow from another, the same from every working folder and without user, password and options."""
    if uri.startswith(SQLITE):
        return SQLITE + os.path.abspath(uri.removeprefix(SQLITE).partition("?")[0])  # noqa: PTH100
    scheme, found, rest = uri.partition("://")
    if not found:
        return uri if uri == "databricks" else os.path.abspath(uri)  # noqa: PTH100
    place = re.split(r"[?#]", rest)[0]
    return f"{scheme}://{place.rpartition('@')[2]}"


def masked(text: str) -> str:
    """The text without the password of MLflow's address, nor of any other address in it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^\s'\"]*@", "://***@", text)


def _secrets(uri: str) -> set[str]:
    """Everything in an address that may be a password: after the user's name, and the values of its options."""
    options = re.findall(r"[?&][^=&]*(?:pass|pwd|token|secret|key)[^=&]*=([^&#]+)", uri, re.IGNORECASE)
    user = uri.partition("://")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    try:
        parsed = urlsplit(uri).password or ""
    except ValueError:
        parsed = ""
    written = {*options, password, parsed, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
               os.environ.get("MLFLOW_TRACKING_TOKEN", "")}  # fmt: skip
    return {text for secret in written for text in (secret, unquote(secret)) if text}
