"""What people see while a sweep runs: a live display on a terminal, plain lines elsewhere. Everything on stderr."""

import time
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.naming import label
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2.5 h`, `4.0 d`."""
    for unit, length in (("d", 86400.0), ("h", 3600.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class _Tally:
    """Counts trials and epochs and predicts the time left from the work done so far."""

    def __init__(self) -> None:
        self.total = 0
        self.ended: Counter[str] = Counter()
        self.running: dict[str, TrialConfig] = {}
        self.epochs = 0
        self._work: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._finished_work = 0.0
        self._started = time.monotonic()

    def begin(self, trials: list[TrialConfig], work: dict[str, float]) -> None:
        self.total, self._work = len(trials), work
        self._started = time.monotonic()

    def epoch(self, config: TrialConfig) -> None:
        self.epochs += 1
        share = self._work.get(config.trial_id, 0.0) / config.epochs
        self._done[config.trial_id] = self._done.get(config.trial_id, 0.0) + share

    def end(self, config: TrialConfig, result: TrialResult) -> None:
        self.running.pop(config.trial_id, None)
        self.ended[result.status.value] += 1
        self._work.pop(config.trial_id, None)
        self._finished_work += self._done.pop(config.trial_id, 0.0)

    @property
    def failed(self) -> int:
        return sum(self.ended.values()) - self.ended[TrialStatus.OK.value]

    @property
    def epochs_per_second(self) -> float:
        return self.epochs / max(time.monotonic() - self._started, 1e-9)

    def seconds_left(self) -> float | None:
        """Work left over the rate so far; None before the first epoch is done."""
        done = self._finished_work + sum(self._done.values())
        left = sum(self._work.values()) - sum(self._done.values())
        elapsed = time.monotonic() - self._started
        return left * elapsed / done if done else None

    def position(self) -> str:
        """Trials ended of all, ` 7/36`."""
        return f"{sum(self.ended.values()):>{len(str(self.total))}}/{self.total}"

    def left_in_words(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f", {duration(left)} left"

    def summary(self) -> str:
        left = self.seconds_left()
        parts = [
            f"{self.ended[TrialStatus.OK.value]}/{self.total} done",
            f"{len(self.running)} running",
            f"{self.failed} failed",
            f"{self.epochs_per_second:.2f} epochs/s",
            "time left unknown yet" if left is None else f"{duration(left)} left",
        ]
        return " · ".join(parts)


class PlainProgress:
    """One line per event that matters; see `sweep.controller.Progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally = _Tally()

    def __enter__(self) -> "PlainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to take down."""

    def measuring(self, config: TrialConfig, index: int, total: int) -> None:
        """Only the first, so that a log stays short."""
        if index == 1:
            self._line(f"measuring shapes before training, one at a time: {_count(total, 'measurement')}")

    def running(self, trials: list[TrialConfig], work: dict[str, float]) -> None:
        """Training begins."""
        self._tally.begin(trials, work)
        self._line(f"training {_count(len(trials), 'trial')}, longest first")

    def started(self, config: TrialConfig) -> None:
        """Counted only."""
        self._tally.running[config.trial_id] = config

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """Counted only."""
        self._tally.epoch(config)

    def again(self, config: TrialConfig, result: TrialResult) -> None:
        """One line."""
        self._tally.running.pop(config.trial_id, None)
        self._line(f"again, from its last checkpoint: {outcome(config, result)}")

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """One line per trial."""
        self._tally.end(config, result)
        self._line(f"[{self._tally.position()}] {outcome(config, result)}{self._tally.left_in_words()}")

    def note(self, text: str) -> None:
        """One line."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


class LiveProgress(PlainProgress):
    """The last results, what is running, and one line with the counts, redrawn in place."""

    SHOWN = 6  # last results on screen

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last: list[str] = []
        self._epoch_of: dict[str, EpochMetrics] = {}
        self._headline = "starting"
        self._live = Live(
            console=console, refresh_per_second=4, get_renderable=self._screen, transient=True, redirect_stdout=False
        )

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the final counts on the screen."""
        self._live.stop()
        if self._tally.total:
            self._line(self._tally.summary())

    def measuring(self, config: TrialConfig, index: int, total: int) -> None:
        """Shown as the headline."""
        self._headline = f"measuring shapes alone on the device: {index}/{total}, {label(vars(config))}"

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """Shown beside the running trial."""
        super().epoch(config, metrics)
        self._epoch_of[config.trial_id] = metrics

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """Joins the last results; failures also stay in the scroll-back."""
        self._tally.end(config, result)
        self._last = [*self._last, outcome(config, result)][-self.SHOWN :]
        if result.status is not TrialStatus.OK:
            self._line(self._last[-1])

    def _screen(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        for text in self._last:
            grid.add_row(Text(text, style="dim", overflow="ellipsis", no_wrap=True))
        for config in list(self._tally.running.values()):
            grid.add_row(Text(self._running_line(config), overflow="ellipsis", no_wrap=True))
        grid.add_row(Text(self._tally.summary() if self._tally.total else self._headline, style="bold"))
        return grid

    def _running_line(self, config: TrialConfig) -> str:
        metrics = self._epoch_of.get(config.trial_id)
        done = f"epoch {metrics.epoch}/{config.epochs}, minival {metrics.minival_top1:.1f} %" if metrics else "started"
        return f"{label(vars(config)):<24} {done}"


def make_progress(console: Console) -> PlainProgress:
    """A live display where the console is a terminal, plain lines where it is not."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def outcome(config: TrialConfig, result: TrialResult) -> str:
    """How a trial ended, in one line."""
    name = f"{label(vars(config)):<24}"
    if result.status is not TrialStatus.OK:
        return f"{result.status.value} {name} {result.error}"
    hours = result.train_device_hours or 0.0
    minival = result.history[-1].minival_top1
    return f"ok {name} minival {minival:5.1f} %  {duration(3600 * hours)}"
