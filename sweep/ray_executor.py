"""Runs trials as Ray Tune trials. The only module that knows Ray; Ray only executes, our own files are the truth.

What is built around, measured on Ray 2.60: an exception in a callback or a kill by the memory monitor ends a whole
Tune run; restoring a Tune experiment is not safe; its own SIGINT handling takes 13 s and marks trials terminated.
"""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Read by Ray when it is imported or starts, so they have to be set before.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # its own result files; ours are the table's
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000")  # its experiment state, which is never read
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its own tables on stdout
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; else a warning

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from sweep.errors import ResourcesError
from sweep.executor import Listener, died
from workers.contract import EpochMetrics, TrialConfig
from workers.trial import RESULT, failed_for_good, read_result, run_trial

Work = Callable[[str], Path]

RANK_LOSSES = 3  # times that a trial of several devices is started again after one of its processes died
# Of the process that only starts and waits for those of such a trial; Ray refuses to place what asks for nothing.
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
    """

    def __init__(
        self,
        cpus: int,
        gpus: float,
        max_concurrent: int | None = None,
        address: str | None = None,
        tpus: int = 0,
        ranks: int = 1,
    ) -> None:
        self._resources = {"cpu": cpus, "gpu": gpus} | ({"TPU": tpus} if tpus else {})
        self._ranks, self._max_concurrent, self._address = ranks, max_concurrent, address

    def __enter__(self) -> Self:
        """Ray takes seconds to start, so it starts with the first work."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster; one that was started here ends with all its processes."""
        ray.shutdown()

    def measure(self, config: TrialConfig) -> Any:
        """Measure as a task that holds a whole node's CPU cores, so that nothing else runs beside it."""
        self._start()
        cores = min(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
        gpus = 1 if self._resources["gpu"] else 0
        others = {name: 1 for name in ("TPU",) if name in self._resources}
        return ray.get(_measure.options(num_cpus=cores, num_gpus=gpus, resources=others).remote(config.to_json()))

    def run(self, trials: Sequence[TrialConfig], work: Work, listener: Listener) -> None:
        """Run the trials; a Tune run that breaks off is followed by another one for the rest."""
        self._start()
        waiting = list(trials)
        while waiting:
            relay = _Relay(waiting, work, listener)
            try:
                self._fit(waiting, work, relay)
            except Exception as error:
                if relay.error:  # it is the listener's, who cannot go on: a full disk, say
                    raise relay.error from None
                relay.lose_running(f"Ray ended the run: {_first_line(error)}")
            waiting = relay.not_ended()
            if not relay.any_ended:  # nothing moved: say so instead of trying for ever
                for config in waiting:
                    listener.ended(config, died(config, "Ray could not run this trial"))
                return

    def _fit(self, trials: list[TrialConfig], work: Work, relay: "_Relay") -> None:
        with tempfile.TemporaryDirectory(prefix="sweep-tune-") as storage:
            tuner = tune.Tuner(
                tune.with_resources(_train, self._resources if self._ranks == 1 else STARTER),
                tune_config=tune.TuneConfig(
                    search_alg=_Feed(trials, work, self._resources),
                    num_samples=len(trials),
                    max_concurrent_trials=self._concurrent(),
                    # A new process costs a second and importing torch four more; on a GPU or TPU it is
                    # worth that, because a process gives its memory back only when it ends.
                    reuse_actors=not self._resources["gpu"] and "TPU" not in self._resources,
                ),
                run_config=tune.RunConfig(name="sweep", storage_path=storage, callbacks=[relay], verbose=0),
            )
            tuner.fit()

    def _concurrent(self) -> int | None:
        """Trials at a time; of several processes only as many as fit, or each might hold what another waits for."""
        if self._ranks == 1:
            return self._max_concurrent
        have = ray.cluster_resources()
        room = [have.get(name.upper(), 0) // (self._ranks * share) for name, share in self._resources.items() if share]
        most = max(1, int(min(room)))
        return most if self._max_concurrent is None else min(most, self._max_concurrent)

    def _start(self) -> None:
        if ray.is_initialized():
            return
        handler = signal.getsignal(signal.SIGTERM)  # Ray replaces it; the controller's own has to stay
        ray.init(
            address=self._address,
            include_dashboard=None if self._address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
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


@ray.remote  # type: ignore[untyped-decorator]
def _measure(config_json: str) -> Any:
    from workers.profiling import measure_trial_shape

    return measure_trial_shape(TrialConfig.from_json(config_json))


def _train(parameters: dict[str, Any]) -> None:
    """The trainable: a thin shell around `workers.trial.run_trial`, whose result lies in the work folder."""
    config = TrialConfig.from_json(parameters["config"])
    if config.execution.ranks > 1:
        _train_on_several(config, parameters)
    else:
        run_trial(config, Path(parameters["work"]), lambda epoch: tune.report(epoch.__dict__), end_when_hung=True)


def _train_on_several(config: TrialConfig, parameters: dict[str, Any]) -> None:
    """Start the trial's processes; where one is lost all are started again, and go on from the checkpoint."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    work = Path(parameters["work"])
    (work / RESULT).unlink(missing_ok=True)  # what lies there from now on is of this start
    storage = work / "ray"  # where every process can write; nothing in it is read again
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config=parameters,
        scaling_config=ScalingConfig(
            num_workers=config.execution.ranks,
            use_gpu=config.device == "cuda",
            resources_per_worker={name.upper(): share for name, share in parameters["resources"].items() if share},
        ),
        run_config=RunConfig(
            name=config.trial_id,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=RANK_LOSSES),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if read_result(work) is None:
            raise
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _train_rank(parameters: dict[str, Any]) -> None:
    """One of the processes of a trial; all of them have to report, since Ray waits for all."""
    from ray import train

    config, work = TrialConfig.from_json(parameters["config"]), Path(parameters["work"])
    if failed_for_good(work):  # Ray starts the processes again after any failure; this one would only come again
        return
    run_trial(config, work, lambda epoch: train.report(epoch.__dict__), end_when_hung=True)


class _Feed(Searcher):  # type: ignore[misc]
    """Hands Tune one trial after the other, when it asks: no thousands of trials that wait inside Tune."""

    def __init__(self, trials: Sequence[TrialConfig], work: Work, resources: dict[str, float]) -> None:
        super().__init__()
        self._left = [
            {
                "trial_id": config.trial_id,
                "config": config.to_json(),
                "work": str(work(config.trial_id).absolute()),
                "resources": resources,
            }
            for config in reversed(trials)
        ]

    def suggest(self, trial_id: str) -> Any:
        return self._left.pop() if self._left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn from a trial: every one runs to its end."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of Tune's is ever restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing of Tune's is ever restored."""


class _Relay(TrialProgressCallback):  # type: ignore[misc]
    """Passes Tune's events on to the listener, and knows which trials have no result yet.

    As a progress callback it takes the place of Tune's own one, which prints on stdout.
    """

    def __init__(self, trials: Sequence[TrialConfig], work: Work, listener: Listener) -> None:
        self._configs = {config.trial_id: config for config in trials}
        self._running: dict[str, TrialConfig] = {}
        self._work, self._listener = work, listener
        self.error: Exception | None = None
        self.any_ended = False

    def __reduce__(self) -> Any:
        """Tune pickles its callbacks into the state that is never read; there is nothing to keep."""
        return (tune.Callback, ())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config = self._configs[trial.config["trial_id"]]
        self._running[config.trial_id] = config
        self._tell(self._listener.started, config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        fields = {name: result[name] for name in EpochMetrics.__dataclass_fields__ if name in result}
        if len(fields) == len(EpochMetrics.__dataclass_fields__):
            config = self._configs[trial.config["trial_id"]]
            self._tell(self._listener.epoch, config, EpochMetrics(**fields))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.config["trial_id"], "the worker ended without a result")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.config["trial_id"], "the worker process died (killed, or out of memory)")

    def lose_running(self, reason: str) -> None:
        """Give every trial that was under way a result: the run that held them is gone."""
        for trial_id in list(self._running):
            self._end(trial_id, reason)

    def not_ended(self) -> list[TrialConfig]:
        """The trials that have no result yet, in their order."""
        return list(self._configs.values())

    def _end(self, trial_id: str, reason: str) -> None:
        self._running.pop(trial_id, None)
        config = self._configs.pop(trial_id)
        self.any_ended = True
        result = read_result(self._work(trial_id))
        self._tell(self._listener.ended, config, result or died(config, reason))

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        """An exception ends the Tune run, which may wrap or log it: the original is kept."""
        try:
            call(*arguments)
        except Exception as error:
            self.error = error
            raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
