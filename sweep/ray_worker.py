"""What runs in a Ray worker: a thin shell around `workers.trial.run_trial`, whose result lies in the work folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from sweep.epoch_reports import EpochReports
from workers.contract import EpochMetrics, TrialConfig, TrialStatus
from workers.learner import halvings
from workers.tether import Lease, why_stopped
from workers.trial import run_trial
from workers.work_folder import RESULT, failed_for_good, read_result

# Times that a trial of several devices is started again after one of its processes died. Where that was for want of
# memory the micro-batch is halved; so many starts are allowed besides.
RANK_LOSSES = 3


def trainable(parameters: dict[str, Any], trial: Callable[..., object] = run_trial) -> None:
    """Train one trial; what Tune calls.

    Args:
        parameters: as `_Feed.suggest` of the executor gives them.
        trial: what to do with a trial of one process.
    """
    config = TrialConfig.from_json(parameters["config"])
    if config.execution.ranks > 1:
        _train_on_several(config, parameters)
    else:
        with EpochReports(tune.report) as reports:
            result = _run_trial(config, parameters, reports.put, trial)
            if getattr(result, "status", None) is not TrialStatus.PREEMPTED:  # else there may be nobody who takes them
                reports.wait()


def _run_trial(
    config: TrialConfig,
    parameters: dict[str, Any],
    report: Callable[[EpochMetrics], None],
    trial: Callable[..., object] = run_trial,
) -> object:
    lease = Lease(**parameters["lease"])
    return trial(config, Path(parameters["work"]), report, end_when_hung=True, lease=lease)


def _train_on_several(config: TrialConfig, parameters: dict[str, Any]) -> None:
    """Start the trial's processes; where one is lost all are started again, and go on from the checkpoint."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    work = Path(parameters["work"])
    earlier = read_result(work)
    if earlier and earlier.status is TrialStatus.OK:  # of processes that outlived an earlier start
        return
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
            failure_config=FailureConfig(max_failures=RANK_LOSSES + halvings(config)),
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
    # Ray starts the processes again after any failure: this one would only come again, or is none.
    if failed_for_good(work) or why_stopped(work, Lease(**parameters["lease"])):
        return
    _run_trial(config, parameters, lambda epoch: train.report(dict(epoch.__dict__)))
