"""A controller's surroundings that train and record nothing: executor, tracker, progress."""

from sweep import cost
from sweep.controller import Controller
from sweep.ledger import Ledger, Mark, current_address
from sweep.ownership import owned
from sweep.plan import make_plan
from sweep.rows import read_history, read_row, read_states
from sweep.space import SweepSpec
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialResult, TrialStatus
from workers.files import write_bytes
from workers.profiling import Measurement


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def space(**changes):
    return SweepSpec.model_validate(
        {
            "sweep": "a",
            "data": {"name": "digits"},
            "recipe": "small",
            "axes": {"width": [0.125, 0.25], "depth": [26], "resolution": [16], "epochs": [1, 3]},
            **changes,
        }
    )


def result_of(config, status=TrialStatus.OK, error="too large"):
    history = tuple(EpochMetrics(n, 1.0, 50.0, 40.0 + n, 0.1, 1.0, 1.0, 1.7e9 + n) for n in range(1, config.epochs + 1))
    now = "2026-01-01T00:00:00+00:00"
    if status is not TrialStatus.OK:
        return TrialResult(config.trial_id, status, 1, now, now, error=error)
    return TrialResult(config.trial_id, status, 1, now, now, history=history, val_top1=90.0, device="a cpu")


def fails_if(job, fails, status=TrialStatus.OOM):
    return result_of(job.config, status if fails else TrialStatus.OK)


class Executor:
    """Gives results; `die` at an event of a trial ends everything there.

    Args:
        die: "before the row": end everything there.
        failing: ids of trials that fail; shorthand for `outcome`.
        unmeasurable: errors of measuring, by width.
        outcome: what becomes of an attempt, from its job and how often the trial was begun before.
    """

    def __init__(self, die=None, failing=(), unmeasurable=(), outcome=None):
        self.die, self.unmeasurable = die, unmeasurable
        self.outcome = outcome or (lambda job, before: fails_if(job, job.config.trial_id in failing))
        self.measured, self.ran = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def measure(self, config):
        self.measured.append(config)
        if config.width in self.unmeasurable:
            raise self.unmeasurable[config.width]
        return Measurement(100.0 * config.width, 1.0, 1.5, 2.0, 1000, "a cpu")

    def run(self, jobs, listener):
        while job := jobs.take():
            trial_id = job.config.trial_id
            result = self.outcome(job, self.ran.count(trial_id))
            self.ran.append(trial_id)
            listener.started(job)
            for epoch in result.history:
                listener.epoch(job, epoch)
            if result.status is not TrialStatus.PREEMPTED:
                write_bytes(job.work / "result.json", result.to_json().encode())
            if self.die == "before the row":
                raise Killed
            listener.ended(job, result)


class Tracker:
    """Remembers; demands that the row is there first; marks like the real one; may die instead."""

    def __init__(self, folder, die=False, works=True):
        self.folder, self.die, self.works = folder, die, works
        self.events, self.rows = [], {}

    def trial_started(self, config):
        self.events.append(("started", config.trial_id))

    def epoch(self, config, metrics):
        self.events.append((f"epoch {metrics.epoch}", config.trial_id))

    def trial_ended(self, trial_id):
        row = read_row(self.folder.row(trial_id))
        assert len(read_history(self.folder, trial_id)) == row["epochs_done"]
        if self.die:
            raise Killed
        self.rows.setdefault(trial_id, []).append(row)
        if self.works:
            Ledger(self.folder).mark(trial_id, Mark(current_address(), "run", "parent", row["status"]))

    def sweep_ended(self, artifacts):
        pass

    def close(self, finished):
        return []


class Progress:
    def __init__(self):
        self.events, self.notes, self.work = [], [], {}

    def measuring(self, config, index, total):
        self.events.append(f"measuring {index}/{total}")

    def running(self, trials, work):
        self.events.append(f"running {len(trials)}")
        self.work = work

    def started(self, config):
        pass

    def epoch(self, config, metrics):
        pass

    def again(self, config, result):
        self.events.append(f"again {result.status}")

    def ended(self, config, result):
        self.events.append(f"ended {result.status}")

    def note(self, text):
        self.notes.append(text)


def run(folder, spec=None, executor=None, tracker=None, retry=(), progress=None):
    """One `sweep run`, without the command."""
    spec = spec or space()
    executor, tracker, progress = executor or Executor(), tracker or Tracker(folder), progress or Progress()
    with owned(folder) as owner:
        plan = make_plan(spec, trials_of(spec), read_states(folder), cost.count, retry)
        Controller(folder, owner, executor, tracker, progress).run(plan)
    return executor, tracker, progress


def ids(spec=None):
    return [trial.trial_id for trial in trials_of(spec or space())]


def untracked(folder):
    return Ledger(folder).missing(read_states(folder))


def rows(folder):
    return {trial_id: read_row(folder.row(trial_id)) for trial_id in read_states(folder)}
