"""Runs trials as Ray Tune trials. Ray only executes: our own files are the truth.

What is built around, measured on Ray 2.60: an exception in a callback or a kill by the memory monitor ends a whole
Tune run; restoring a Tune experiment is not safe; its own SIGINT handling takes 13 s and marks trials terminated.
"""

import dataclasses
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Self

from sweep.ray_messages import SHORT_OF_MEMORY, about_memory, first_line, held_the_most, what_happened
from sweep.ray_security import before_import, close_cluster

# Read by Ray when it is imported or starts, so they have to be set before.
os.environ.update(before_import())
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # its own result files; ours are the table's
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")  # its experiment state, which is never read
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its own tables on stdout
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; else a warning

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from sweep import interrupt
from sweep.errors import ResourcesError
from sweep.executor import Listener, result_of
from sweep.jobs import Job, Jobs
from sweep.ray_worker import trainable
from sweep.yaml_file import one_line
from workers.contract import EpochMetrics, TrialConfig, TrialStatus
from workers.tether import process_of
from workers.trial import run_trial
from workers.work_folder import in_use

# Of every failed trial it prints the traceback, where people are told in one line what became of it.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

STARTS = 3  # Tune runs in a row that end before any trial has started, before it is given up
LOOK_S = 2.0  # from one look after the cluster to the next
MEASURE_S = 1800.0  # for one round of one shape, with its way to a free node: it takes seconds, or a few minutes
STOP_S = 7.0  # for workers to come to the end of a step and to save a checkpoint
# Of the process that only starts those of a trial of several devices; Ray refuses to place what asks for nothing.
STARTER = {"cpu": 0, "memory": 1}


class RayExecutor:
    """See `sweep.executor.Executor`.

    Args:
        cpus: CPU cores that one trial holds.
        gpus: GPUs, or a share of one, that one trial holds.
        max_concurrent: trials at a time; None fills the cluster.
        address: of a running Ray cluster; None starts one on this machine and ends it afterwards.
        tpus: TPU chips that one trial holds.
        ranks: processes of one trial; each holds all of the above.
        trial: what a worker does with a trial of one process; see `workers.trial.run_trial`.
    """

    def __init__(
        self,
        cpus: int,
        gpus: float,
        max_concurrent: int | None = None,
        address: str | None = None,
        tpus: int = 0,
        ranks: int = 1,
        trial: Callable[..., object] = run_trial,
    ) -> None:
        self._resources = {"cpu": cpus, "gpu": gpus} | ({"TPU": tpus} if tpus else {})
        self._ranks, self._max_concurrent, self._address, self._trial = ranks, max_concurrent, address, trial
        self._held = ExitStack()
        self._greedy: set[str] = set()  # trials that their host had too little memory for, once so far

    def __enter__(self) -> Self:
        """Ray takes seconds to start, so it starts with the first work.

        Of each worker that dies it prints its own long story on stdout, where the row tells it in one line.
        """
        self._held.enter_context(redirect_stdout(self._held.enter_context(Path(os.devnull).open("w"))))
        return self

    def __exit__(self, *raised: object) -> None:
        """Leave the cluster; one that was started here ends with all its processes."""
        ray.shutdown()
        self._held.close()

    def measure(self, config: TrialConfig) -> Any:
        """Measure as a task that holds a whole node's CPU cores, so that nothing else runs beside it.

        Raises:
            TimeoutError: it came to no end within MEASURE_S.
            MemoryError: its host had too little memory.
        """
        self.start()
        cores = min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
        gpus = 1 if self._resources["gpu"] else 0
        others = {name: 1 for name in ("TPU",) if name in self._resources}
        measured = _measure.options(num_cpus=cores, num_gpus=gpus, resources=others).remote(config.to_json())
        for _ in range(round(MEASURE_S / LOOK_S)):  # looks and not the time of day: this process may have slept
            if ray.wait([measured], timeout=LOOK_S)[0]:
                break
            _look_after_cluster()
        else:
            ray.cancel(measured, force=True)
            raise TimeoutError(f"measuring it took more than {MEASURE_S / 60:g} minutes")
        try:
            return ray.get(measured)
        except ray.exceptions.OutOfMemoryError as error:
            raise MemoryError(SHORT_OF_MEMORY) from error

    def run(self, jobs: Jobs, listener: Listener) -> None:
        """Run the trials; a Tune run that breaks off is followed by another one for the rest."""
        self.start()
        fruitless = 0
        while (relay := _Relay(jobs, listener, self._greedy)).fill():
            try:
                self._fit(relay)
            except Exception as error:
                if relay.error:  # it is the listener's, who cannot go on: a full disk, say
                    raise relay.error from None
                relay.break_off(error)
                fruitless = 0 if relay.any_started else fruitless + 1
                if fruitless == STARTS:
                    raise ResourcesError(f"Ray could not run any trial: {first_line(error)}") from error
            except KeyboardInterrupt:
                jobs.stop()
                relay.wait_for_workers(STOP_S)
                raise

    def _fit(self, relay: "_Relay") -> None:
        with tempfile.TemporaryDirectory(prefix="sweep-tune-") as storage:
            tuner = tune.Tuner(
                tune.with_resources(
                    partial(trainable, trial=self._trial), self._resources if self._ranks == 1 else STARTER
                ),
                tune_config=tune.TuneConfig(
                    search_alg=_Feed(relay, self._resources),
                    num_samples=-1,  # as many as there are
                    max_concurrent_trials=self._concurrent(),
                    # A new process costs a second and importing torch four more; on a GPU or TPU it is
                    # worth that, because a process gives its memory back only when it ends.
                    reuse_actors=not self._resources["gpu"] and "TPU" not in self._resources,
                ),
                run_config=tune.RunConfig(name="sweep", storage_path=storage, callbacks=[relay], verbose=0),
            )
            tuner.fit()
        if relay.running:
            raise RuntimeError("Tune came to its end before its trials did")

    def _concurrent(self) -> int | None:
        """Trials at a time; of several processes only as many as fit, or each might hold what another waits for."""
        if self._ranks == 1:
            return self._max_concurrent
        have = ray.cluster_resources()
        room = [have.get(name.upper(), 0) // (self._ranks * share) for name, share in self._resources.items() if share]
        most = max(1, int(min(room)))
        return most if self._max_concurrent is None else min(most, self._max_concurrent)

    def start(self) -> None:
        """Start Ray, or join the cluster, if that has not been done."""
        if ray.is_initialized():
            return
        handler = signal.getsignal(signal.SIGTERM)  # Ray replaces it; the controller's own has to stay
        settings = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
        try:
            ray.init(**close_cluster(self._address), **settings)
        except (ConnectionError, RuntimeError) as error:
            where = "Ray cannot be started here" if self._address is None else f"--address {self._address}: no answer"
            raise ResourcesError(f"{where}: {one_line(first_line(error))}") from error
        signal.signal(signal.SIGTERM, handler)
        if self._address is None:  # a cluster may still grow, this machine will not
            self._refuse_more_than_there_is()

    def _refuse_more_than_there_is(self) -> None:
        """Ray would wait for ever for resources that never come."""
        have = ray.cluster_resources()
        for name, share in self._resources.items():
            wanted = share * self._ranks
            if wanted > have.get(name.upper(), 0):
                there = f"{have.get(name.upper(), 0):g}"
                raise ResourcesError(f"resources: one trial asks for {name} {wanted:g}, this machine has {there}")


def _look_after_cluster() -> None:
    """Notice what Ray would wait through for ever: that all nodes are gone, or a signal that Python lost."""
    interrupt.check()
    if not any(node["Alive"] for node in ray.nodes()):
        raise ResourcesError("Ray's own processes were ended; nothing is lost: the same command goes on from there")


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]  # else one for which memory is short begins for ever again
def _measure(config_json: str) -> Any:
    from workers.profiling import measure_trial_shape

    return measure_trial_shape(TrialConfig.from_json(config_json))


class _Feed(Searcher):  # type: ignore[misc]
    """Hands Tune one trial after the other, when it asks: no thousands of trials that wait inside Tune."""

    def __init__(self, relay: "_Relay", resources: dict[str, float]) -> None:
        super().__init__()
        self._relay, self._resources = relay, resources

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None while one that is running may come back, FINISHED when there is none."""
        job = self._relay.take()
        if job is None:
            return None if self._relay.running else Searcher.FINISHED
        return {
            "trial_id": job.config.trial_id,
            "config": job.config.to_json(),
            "work": str(job.work),
            "lease": dataclasses.asdict(job.lease),
            "resources": self._resources,
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn from a trial: every one runs to its end."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of Tune's is ever restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing of Tune's is ever restored."""


class _Relay(TrialProgressCallback):  # type: ignore[misc]
    """Passes Tune's events on to the listener, and knows which trials it holds.

    As a progress callback it takes the place of Tune's own one, which prints on stdout.
    """

    def __init__(self, jobs: Jobs, listener: Listener, greedy: set[str]) -> None:
        self.running: dict[str, Job] = {}  # handed to Tune and not ended
        self._jobs, self._listener, self._greedy = jobs, listener, greedy
        self._first: Job | None = None
        self.error: Exception | None = None
        self.any_started = False
        self._looked_at = time.monotonic()

    def __reduce__(self) -> Any:
        """Tune pickles its callbacks into the state that is never read; there is nothing to keep."""
        return (tune.Callback, ())

    def fill(self) -> bool:
        """Whether there is a trial to begin with."""
        self._first = self._jobs.take()
        return self._first is not None

    def take(self) -> Job | None:
        """The next trial, from now on held by Tune."""
        job, self._first = self._first, None
        try:
            job = job or self._jobs.take()
        except Exception as error:
            self.error = error
            raise
        if job:
            self.running[job.config.trial_id] = job
        return job

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked_at > LOOK_S:
            self._looked_at = time.monotonic()
            self._tell(_look_after_cluster)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.any_started = True
        self._tell(self._listener.started, self.running[trial.config["trial_id"]])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        fields = {name: result[name] for name in EpochMetrics.__dataclass_fields__ if name in result}
        if len(fields) == len(EpochMetrics.__dataclass_fields__):
            self._tell(self._listener.epoch, self.running[trial.config["trial_id"]], EpochMetrics(**fields))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Without a result it was told to stop, or has lost its lease.
        job = self.running[trial.config["trial_id"]]
        self._end(job, TrialStatus.PREEMPTED, "the worker stopped before the trial's end")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job, error_file = self.running[trial.config["trial_id"]], Path(trial.error_file)
        text = error_file.read_text() if error_file.exists() else ""
        own = job.config.execution.ranks > 1  # what is said of a trial of several processes is about its own
        self._end(job, *(self._short_of_memory(job, text, own) if about_memory(text) else what_happened(text)))

    def break_off(self, error: Exception) -> None:
        """Tune has ended the run: one trial may be the reason, the others lost their workers."""
        text, lost = str(error), (TrialStatus.PREEMPTED, f"Ray ended the run: {first_line(error)}")
        for job in list(self.running.values()):
            self._end(job, *(self._short_of_memory(job, text) if about_memory(text) else lost))

    def _short_of_memory(self, job: Job, text: str, own: bool = False) -> tuple[TrialStatus, str]:
        """What a kill for want of memory means; who needs the most gets a second chance, without the others maybe."""
        hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
        guilty = own or held_the_most(text, process_of(job.work), hosts)
        if guilty and job.config.trial_id in self._greedy:
            return TrialStatus.OOM, f"{SHORT_OF_MEMORY}; it held the most"
        if guilty:
            self._greedy.add(job.config.trial_id)
        return TrialStatus.PREEMPTED, SHORT_OF_MEMORY

    def wait_for_workers(self, seconds: float) -> None:
        """Wait until those that were told to stop have saved a checkpoint and let go of their folders."""
        deadline = time.monotonic() + seconds
        while any(in_use(job.work) for job in self.running.values()) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _end(self, job: Job, status: TrialStatus, reason: str) -> None:
        del self.running[job.config.trial_id]
        self._tell(self._listener.ended, job, result_of(job, status, reason))

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        """An exception ends the Tune run, which may wrap or log it: the original is kept."""
        try:
            call(*arguments)
        except Exception as error:
            self.error = error
            raise
