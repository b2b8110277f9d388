"""Records sweeps in MLflow, off the training path: one parent run per sweep, one child per trial.

A run is found again by its `trial_id` tag, and every metric carries the time at which it was measured, so recording
twice changes nothing. The only module that knows MLflow.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sweep.naming import MODEL_COLUMN, label
from workers.contract import EpochMetrics, TrialConfig, TrialStatus

Row = Mapping[str, Any]
EPOCH_METRICS = ("train_loss", "train_top1", "minival_top1", "learning_rate")
FINAL_METRICS = (
    "val_top1", "val_top5", "val_loss", "params", "macs_per_image", "train_flops", "train_step_ms",
    "infer_latency_ms", "peak_memory_bytes", "train_images_per_s", "train_device_hours",
)  # fmt: skip
PARAMETERS = (
    "family", "width", "depth", "resolution", "epochs", "seed", "recipe", "dataset", "protocol", "batch_size",
    "precision", "device", "ranks",
)  # fmt: skip


SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}
# MLflow asks a server that does not answer again and again, with every call. A job that failed after OUTAGE_S was such
# a call: what comes in the next PAUSE_S is dropped, or closing would wait for hours; rows that lack their mark are sent
# again by the next run.
OUTAGE_S, PAUSE_S = 1.0, 60.0


class Tracker(Protocol):
    """Hears of a sweep as it goes on; its failures never stop a trial."""

    def trial_started(self, config: TrialConfig) -> None:
        """A trial is under way."""

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """One epoch of it is done."""

    def trial_ended(self, row: Row, history: Sequence[EpochMetrics]) -> None:
        """The trial's row is written; everything about it can be recorded from these two."""

    def sweep_ended(self, artifacts: Path) -> None:
        """The sweep is done; the folder's files belong to it."""

    def close(self, finished: bool) -> list[str]:
        """Wait for what is under way; what could not be recorded, in words."""


class NullTracker:
    """Records nothing."""

    def trial_started(self, config: TrialConfig) -> None:
        """Nothing."""

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """Nothing."""

    def trial_ended(self, row: Row, history: Sequence[EpochMetrics]) -> None:
        """Nothing."""

    def sweep_ended(self, artifacts: Path) -> None:
        """Nothing."""

    def close(self, finished: bool) -> list[str]:
        """Nothing failed."""
        return []


class MlflowTracker:
    """Records in MLflow from a thread of its own, in the order of the calls.

    Args:
        sweep: name of the sweep; its experiment has the same name.
        description: the search space, kept as the parent run's note.
        recorded: called with trial id, tracking address and run id once MLflow has the whole trial.
    """

    def __init__(self, sweep: str, description: str, recorded: Callable[[str, str, str], None]) -> None:
        self._store = _Store(sweep, description, recorded)
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def trial_started(self, config: TrialConfig) -> None:
        """Open the trial's run, or the one that an earlier attempt opened."""
        self._jobs.put(lambda: self._store.start(config.trial_id, label(vars(config))))

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """Log one epoch; where the trial's run could not be opened, it goes with the trial's row."""
        self._jobs.put(lambda: self._store.log_epoch(config.trial_id, metrics))

    def trial_ended(self, row: Row, history: Sequence[EpochMetrics]) -> None:
        """Log the whole trial: what the epochs before it logged already does not change."""
        self._jobs.put(lambda: self._store.record(row, history))

    def sweep_ended(self, artifacts: Path) -> None:
        """Attach the report's files to the parent run."""
        self._jobs.put(lambda: self._store.attach(artifacts))

    def close(self, finished: bool) -> list[str]:
        """Wait until MLflow has everything; the problems met on the way."""
        self._jobs.put(None)
        self._thread.join()
        self._try(lambda: self._store.end(finished))  # even in an outage: no run stays open if it can be helped
        return self._problems

    def _work(self) -> None:
        dropping_until = 0.0
        while (job := self._jobs.get()) is not None:
            started = time.monotonic()
            if started < dropping_until:
                continue
            if not self._try(job) and time.monotonic() - started > OUTAGE_S:
                dropping_until = time.monotonic() + PAUSE_S

    def _try(self, job: Callable[[], object]) -> bool:
        """Whether the job succeeded; MLflow raises many kinds of errors, and none may stop a sweep."""
        try:
            job()
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            self._problems.append(f"{type(error).__name__}: {text}")
            return False
        return True


class _Store:
    """The runs of one sweep in MLflow; used by one thread."""

    def __init__(self, sweep: str, description: str, recorded: Callable[[str, str, str], None]) -> None:
        self._sweep, self._description, self._recorded = sweep, description, recorded
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, str] = {}

    def start(self, trial_id: str, name: str, started_ms: int | None = None) -> str:
        """The trial's run id; found by its tag, or created under the sweep's parent run."""
        tags = {"sweep": self._sweep, "trial_id": trial_id, "mlflow.parentRunId": self._parent()}
        return self._run(f"tags.trial_id = '{trial_id}'", trial_id, name, tags, started_ms)

    def log_epoch(self, trial_id: str, epoch: EpochMetrics) -> None:
        """Log one epoch of a trial that has a run."""
        if trial_id in self._runs:
            self.log_epochs(trial_id, [epoch])

    def log_epochs(self, trial_id: str, history: Sequence[EpochMetrics]) -> None:
        """Log epochs with the time at which each was measured, so that the same one twice is the same entry."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, getattr(epoch, name), round(1000 * epoch.finished_at), epoch.epoch)
            for epoch in history
            for name in EPOCH_METRICS
        ]
        for first in range(0, len(metrics), 1000):  # MLflow's limit for one batch
            self._client.log_batch(self._runs[trial_id], metrics=metrics[first : first + 1000])

    def record(self, row: Row, history: Sequence[EpochMetrics]) -> None:
        """Everything about a trial that ended."""
        from mlflow.entities import Metric, Param

        trial_id = str(row["trial_id"])
        run_id = self.start(trial_id, label(row), _milliseconds(row["started_at"]))
        self.log_epochs(trial_id, history)
        ended = _milliseconds(row["finished_at"])
        names = [name for name in row if name in PARAMETERS or name.startswith(("recipe_", MODEL_COLUMN))]
        self._client.log_batch(
            run_id,
            metrics=[Metric(n, float(row[n]), ended, 0) for n in FINAL_METRICS if row.get(n) is not None],
            params=[Param(name, _text(row[name])) for name in names],
        )
        self._client.set_tag(run_id, "status", str(row["status"]))
        if row.get("error"):
            self._client.set_tag(run_id, "error", str(row["error"])[:5000])
        ok = row["status"] == TrialStatus.OK
        self._client.set_terminated(run_id, "FINISHED" if ok else "FAILED", ended)
        self._recorded(trial_id, self._client.tracking_uri, run_id)

    def attach(self, folder: Path) -> None:
        """Log a folder's files to the parent run."""
        parent = self._parent()
        self._client.set_tag(parent, "mlflow.note.content", self._description)  # the space may have changed
        self._client.log_artifacts(parent, str(folder), "report")

    def end(self, finished: bool) -> None:
        """Close the parent run, and the children that an interruption left open."""
        if self._client is None:
            return
        for key, run_id in self._runs.items():
            if self._client.get_run(run_id).info.status == "RUNNING":
                done = finished and key == "parent"
                self._client.set_terminated(run_id, "FINISHED" if done else "KILLED")

    def _parent(self) -> str:
        tags = {"sweep": self._sweep, "sweep_role": "parent", "mlflow.note.content": self._description}
        return self._run("tags.sweep_role = 'parent'", "parent", self._sweep, tags, None)

    def _run(self, query: str, key: str, name: str, tags: dict[str, str], started_ms: int | None) -> str:
        if key in self._runs:
            return self._runs[key]
        client, experiment = self._client_of(), self._experiment
        found = client.search_runs([experiment], f"{query} and tags.sweep = '{self._sweep}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            client.update_run(run_id, "RUNNING")
        else:
            run_id = client.create_run(experiment, started_ms, tags, name).info.run_id
        self._runs[key] = run_id
        return str(run_id)

    def _client_of(self) -> Any:
        """The client, made on first use: importing MLflow takes seconds and a sweep with nothing to do needs none."""
        if self._client is None:
            for name, value in SETTINGS.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            for noisy in ("mlflow", "alembic"):  # importing MLflow sets its own level
                logging.getLogger(noisy).setLevel(logging.ERROR)
            client = MlflowClient()
            found = client.get_experiment_by_name(self._sweep)
            self._experiment = found.experiment_id if found else client.create_experiment(self._sweep)
            self._client = client  # last: an outage here leaves nothing half made
        return self._client


def _text(value: Any) -> str:
    """The table reads back 32 as 32.0, and MLflow refuses a parameter that changes."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _milliseconds(time: Any) -> int:
    return round(1000 * datetime.fromisoformat(str(time)).timestamp())
