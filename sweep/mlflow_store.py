"""The runs of a sweep in MLflow: one parent, one child per trial.

A run is found by its `trial_id` tag, and every metric carries the time at which it was measured, so recording twice
changes nothing. The only module that knows MLflow.
"""

import logging
import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sweep.errors import SweepError
from sweep.ledger import SQLITE, Ledger, Mark, current_address
from sweep.naming import MODEL_COLUMN, label
from workers.contract import EpochMetrics, TrialStatus

EPOCH_METRICS = ("train_loss", "train_top1", "minival_top1", "learning_rate")
FINAL_METRICS = (
    "val_top1", "val_top5", "val_loss", "params", "macs_per_image", "train_flops", "train_step_ms",
    "infer_latency_ms", "peak_memory_bytes", "train_images_per_s", "train_device_hours",
)  # fmt: skip
PARAMETERS = (
    "family", "width", "depth", "resolution", "epochs", "seed", "recipe", "dataset", "protocol", "batch_size",
    "precision", "device", "ranks",
)  # fmt: skip


# MLflow's own retries would send a run's creation again after an answer that was lost, and make a second run: here the
# run is looked for first.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PARENT = "mlflow.parentRunId"
TEMPORARY = (401, 403, 408, 429)  # HTTP statuses that are not about what was sent


class MlflowStore:
    """The runs of one sweep in MLflow; used by one thread, which others read `preparing` and the like of."""

    def __init__(self, sweep: str, description: str, ledger: Ledger) -> None:
        self._sweep, self._description, self._ledger = sweep, description, ledger
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, str] = {}  # that are known, by trial id; the parent's under ""
        self._found: set[str] = set()  # of these, those that another attempt may have logged to
        self._uncertain: set[str] = set()  # whose creation failed, and may have succeeded all the same
        self._logged: dict[str, dict[int, int]] = {}
        self._swept = False
        self.ready = self.preparing = self.abandoned = self.running = False
        self.prepared_at = 0.0

    def open(self) -> list[str]:
        """Find or make experiment and parent run; the trials whose rows MLflow has to be sent again.

        Runs that a killed controller left running are ended first.
        """
        if self.ready:
            return []
        try:
            self.preparing = True
            self._connect()
        finally:
            self._prepared()
        self._ledger.opened()
        self.running = True
        again = [] if self._swept else self._settle()
        before = self._runs.pop("", None)
        tags = {"sweep": self._sweep, "sweep_role": "parent", "mlflow.note.content": self._description}
        parent = self._run("", "tags.sweep_role = 'parent'", self._sweep, tags, None, running=True)
        self.ready = self._swept = True
        if before == parent:
            return again
        self._runs = {"": parent}
        return [*again, *self._ledger.strangers(current_address(), parent)]

    def start(self, trial_id: str, name: str) -> None:
        """Open the trial's run."""
        self._trial_run(trial_id, name, None, running=True)

    def log_epochs(self, trial_id: str, history: Sequence[EpochMetrics]) -> None:
        """Log epochs of a trial that has a run."""
        if trial_id not in self._runs:
            return
        logged = self._logged.setdefault(trial_id, {})
        for epoch in history:
            if logged.setdefault(epoch.epoch, _measured_at(epoch)) != _measured_at(epoch):
                self._found.add(trial_id)  # an epoch that was repeated
        self._call("log_batch", self._runs[trial_id], metrics=_epoch_metrics(history))

    def record(self, trial_id: str, anew: bool = False) -> None:
        """Everything about a trial that ended, from its row.

        Args:
            trial_id: which.
            anew: in a new run; the old one is deleted.
        """
        from mlflow.entities import Metric, Param, RunTag

        row, history = self._ledger.read(trial_id)
        if trial_id in self._uncertain:
            self._runs.pop(trial_id, None)
        name, started, ended = label(row), _milliseconds(row["started_at"]), _milliseconds(row["finished_at"])
        run_id = self._trial_run(trial_id, name, started)
        if anew or self._has_other_epochs(trial_id, run_id, history):
            self._call("delete_run", run_id)
            self._runs.pop(trial_id)
            run_id = self._trial_run(trial_id, name, started)
        final = [Metric(n, float(row[n]), ended, 0) for n in FINAL_METRICS if row.get(n) is not None]
        names = [name for name in row if name in PARAMETERS or name.startswith(("recipe_", MODEL_COLUMN))]
        status = str(row["status"])
        tags = {"status": status, "error": str(row.get("error") or "")[:5000]}
        self._call(
            "log_batch",
            run_id,
            metrics=[*_epoch_metrics(history), *final],
            params=[Param(name, _text(row[name])) for name in names],
            tags=[RunTag(key, value) for key, value in tags.items() if value or trial_id in self._found],
        )
        self._call("set_terminated", run_id, "FINISHED" if status == TrialStatus.OK else "FAILED", ended)
        self._ledger.mark(trial_id, Mark(current_address(), run_id, self._runs[""], status))
        for known in (self._found, self._uncertain):
            known.discard(trial_id)
        self._logged.pop(trial_id, None)

    def attach(self, folder: Path) -> None:
        """Log a folder's files to the parent run."""
        self._call("set_tag", self._runs[""], "mlflow.note.content", self._description)  # the space may have changed
        self._call("log_artifacts", self._runs[""], str(folder), "report")

    def end(self, finished: bool, late: bool) -> None:
        """End every run of the sweep.

        Args:
            finished: whether the sweep came to its end.
            late: there is no time to record anything.
        """
        for trial_id in self._settle(late):
            try:
                self.record(trial_id)
            except Exception as error:
                if not is_refusal(error):
                    raise
                self._call("set_terminated", self._runs[trial_id], "KILLED")
        self._call("set_terminated", self._runs[""], "FINISHED" if finished else "KILLED")
        if finished:  # else another run has to end it, though it may find nothing else to do
            self._ledger.closed()
        self.running = False

    def forget(self, trial_id: str) -> None:
        """Look for the trial's run and the sweep's again before the next call."""
        self._runs.pop(trial_id, None)
        self.ready = False

    def _settle(self, late: bool = False) -> list[str]:
        """End trials that MLflow shows as running; those that have a row are left to be recorded from it."""
        again = []
        for run in self._search("attributes.status = 'RUNNING'"):
            trial_id = run.data.tags.get("trial_id")
            if trial_id and self._only(trial_id, self._search(_of(trial_id))).info.run_id == run.info.run_id:
                if self._ledger.has_row(trial_id) and not late:
                    again.append(trial_id)
                    continue
                self._call("set_terminated", run.info.run_id, "KILLED")
                self._ledger.unmark(trial_id)
        return again

    def _has_other_epochs(self, trial_id: str, run_id: str, history: Sequence[EpochMetrics]) -> bool:
        """Whether epochs were logged that are not the row's: of an attempt whose work was lost."""
        if trial_id not in self._found:
            return False
        wanted = {(epoch.epoch, _measured_at(epoch)) for epoch in history}
        logged = self._call("get_metric_history", run_id, EPOCH_METRICS[0])
        return any((entry.step, entry.timestamp) not in wanted for entry in logged)

    def _trial_run(self, trial_id: str, name: str, started_ms: int | None, running: bool = False) -> str:
        tags = {"sweep": self._sweep, "trial_id": trial_id, PARENT: self._runs[""]}
        return self._run(trial_id, _of(trial_id), name, tags, started_ms, running)

    def _run(self, key: str, query: str, name: str, tags: dict[str, str], started_ms: int | None, running: bool) -> str:
        """The run's id; found by its tag, or created."""
        if key in self._runs:
            return self._runs[key]
        if found := self._search(query):
            run = self._only(key, found)
            self._found.add(key)
            if run.data.tags.get(PARENT) != tags.get(PARENT):
                self._call("set_tag", run.info.run_id, PARENT, tags[PARENT])
            if running and run.info.status != "RUNNING":
                self._call("update_run", run.info.run_id, "RUNNING")
        else:
            self._uncertain.add(key)
            run = self._call("create_run", self._experiment, started_ms, tags, name)
            self._uncertain.discard(key)
        self._runs[key] = str(run.info.run_id)
        return self._runs[key]

    def _search(self, query: str) -> list[Any]:
        """The sweep's runs that fit, oldest first."""
        query = f"{query} and tags.sweep = '{self._sweep}'"
        order = ["attributes.start_time ASC"]
        return list(self._call("search_runs", [self._experiment], query, max_results=1000, order_by=order))

    def _only(self, key: str, runs: list[Any]) -> Any:
        """The one of these runs to keep, the oldest unless we know another; the others are deleted.

        There are several where an answer came too late: the run was made, and looked for in vain, and made again.
        """
        kept = next((run for run in runs if run.info.run_id == self._runs.get(key)), runs[0])
        for run in runs:
            if run is not kept:
                self._call("delete_run", run.info.run_id)
        return kept

    def _connect(self) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic", "urllib3"):  # what they say has many lines, and addresses with passwords
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        address = current_address()
        if not address.startswith(SQLITE) or Path(address.removeprefix(SQLITE)).exists():
            self._prepared()
        self._client = MlflowClient()
        found = self._call("get_experiment_by_name", self._sweep)
        self._experiment = found.experiment_id if found else self._call("create_experiment", self._sweep)
        if found and found.lifecycle_stage == "deleted":
            self._call("restore_experiment", self._experiment)

    def _prepared(self) -> None:
        """Importing takes seconds, laying out a database some more: neither is a server's slowness."""
        self.preparing = False
        self.prepared_at = self.prepared_at or time.monotonic()

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Ask MLflow, unless nobody waits for it any more: the next controller may own the sweep by now."""
        if self.abandoned:
            raise TimeoutError("no answer in time")
        return getattr(self._client, method)(*arguments, **options)


def is_refusal(error: Exception) -> bool:
    """Whether it is about what was sent, so that waiting does not help."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return 400 <= status < 500 and status not in TEMPORARY
    return isinstance(error, SweepError | KeyError | ValueError | TypeError | AttributeError)


def _epoch_metrics(history: Sequence[EpochMetrics]) -> list[Any]:
    """Each with the time at which it was measured, so that the same one twice is the same entry."""
    from mlflow.entities import Metric

    return [
        Metric(name, getattr(epoch, name), _measured_at(epoch), epoch.epoch)
        for epoch in history
        for name in EPOCH_METRICS
        if getattr(epoch, name) is not None
    ]


def _measured_at(epoch: EpochMetrics) -> int:
    return round(1000 * epoch.finished_at)


def _of(trial_id: str) -> str:
    return f"tags.trial_id = '{trial_id}'"


def _text(value: Any) -> str:
    """The table reads back 32 as 32.0, and MLflow refuses a parameter that changes."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _milliseconds(moment: Any) -> int:
    return round(1000 * datetime.fromisoformat(str(moment)).timestamp())
