"""A place with a tiny sweep in two states, finished and interrupted, to be damaged again and again."""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from faultcheck import outcome
from faultlib import PLUGIN, UNTROUBLED, Done, Place, Zygote

from sweep.data_paths import data_paths
from sweep.index import refresh
from sweep.layout import SweepFolder
from sweep.ledger import Ledger
from sweep.space import load_space
from sweep.trials import trials_of
from workers.contract import EpochMetrics
from workers.files import seal, write_json
from workers.tether import grant
from workers.trial import run_trial

PLUGIN_WITH_DEPTH = PLUGIN.replace(
    '{"width": Argument(float, "half the pixels of a side")}',
    '{"width": Argument(float, "half the pixels of a side"), "depth": Argument(int, "layers")}',
).replace(
    "nn.Linear(3 * side * side, classes))",
    'nn.Linear(3 * side * side, classes), *(nn.Linear(classes, classes) for _ in range(arguments["depth"] - 1)))',
)

COMMON = """sweep: tiny
plugins: [plugin.py]
data: {name: slow_forty, cache: cache}
recipe: {name: small, batch_size: 16, bn_batch: 16}
resources: {cpu: 1, loader_workers: 0}
checkpoints: {keep_weights: true}
"""

EARLIER = COMMON + "family: resnet_rs\naxes: {width: [0.125], depth: [26], resolution: [16], epochs: [1]}\n"

SPACE = COMMON + (
    "family: line\naxes: {width: [1, 2, 4], depth: [1, 2], resolution: [8], epochs: [3]}\n"
    "exclude: [{width: 2, depth: 2}, {width: 4, depth: 2}, {width: 4, depth: 1}]\n"
)

RUN, RUN_EARLIER = (["run", name, "--executor", "local"] for name in ("space.yaml", "earlier.yaml"))

READING = (["status", "tiny"], ["pareto", "tiny"], ["rules", "tiny"])

NOT_OURS = ("mlflow.db",)


class Commands(Zygote):
    """A zygote that runs any command of `sweep`."""

    def command(self, place: Place, arguments: list[str]) -> Done:
        """Run one in the place's folder."""
        trace = place.folder / "trace"
        trace.unlink(missing_ok=True)
        order = {
            "arguments": arguments, "folder": str(place.folder), "root": str(place.results), "trace": str(trace),
            "environment": {"MLFLOW_TRACKING_URI": place.database}, "file_limit": 0, "limit_s": 120.0,
            **dataclasses.asdict(UNTROUBLED),
        }  # fmt: skip
        self._process.stdin.write(f"{json.dumps(order)}\n")
        code = int(self._answer())
        lines = trace.read_text().splitlines() if trace.exists() else []
        operations = [tuple(line.split(" ", 2)[1:]) for line in lines]
        return Done(code, (place.folder / "stderr").read_text(), operations)


@dataclass(frozen=True)
class Answers:
    """What the commands say of a whole sweep, and its tables."""

    said: dict[str, str]
    rows: pd.DataFrame
    curves: pd.DataFrame
    exported: str


class Bench:
    """A place in which one case after the other is tried, always under the same path: marks and spaces hold it."""

    def __init__(self, folder: Path, zygote: Commands, database: Path) -> None:
        self.zygote = zygote
        self.place = Place.make(folder / "place", database, SPACE)
        (self.place.folder / "plugin.py").write_text(PLUGIN_WITH_DEPTH)
        (self.place.folder / "earlier.yaml").write_text(EARLIER)
        self.kept = {state: folder / state for state in ("finished", "interrupted")}
        self._build()

    def _build(self) -> None:
        self.names: dict[str, str] = {}
        self.run(RUN_EARLIER)
        (earlier,) = self.ids("trials")
        self.run(RUN)
        rows = self.place.rows().set_index("trial_id")
        first, second = sorted(rows.index[(rows.status == "ok") & (rows.index != earlier)])[:2]
        excluded = rows.index[rows.status == "excluded"][0]
        self.names = {"first": first, "second": second, "earlier": earlier, "excluded": excluded}
        self.reference = {"finished": self._answers()}
        self._keep("finished")
        self._interrupt()
        self._keep("interrupted")
        self.run(RUN)
        self.reference["interrupted"] = self._answers()

    def _interrupt(self) -> None:
        """Leave what a controller leaves that is killed after the first result and in the second trial's epoch 3."""
        first, second = self.names["first"], self.names["second"]
        for name in (first, second):
            for folder, suffix in (("trials", "parquet"), ("epochs", "parquet"), ("tracking", "json")):
                (self.place.sweep / folder / f"{name}.{suffix}").unlink()
        (self.place.sweep / "curves.json").unlink()
        work = self.place.sweep / "work" / second
        shutil.rmtree(work)
        path = self.place.folder / "space.yaml"
        spec = load_space(path)
        (config,) = (trial for trial in trials_of(spec, data_paths(spec, path)) if trial.trial_id == second)
        data = dataclasses.replace(config.data, cache=str(self.place.folder / "cache"))
        run_trial(dataclasses.replace(config, data=data), work, _break_off)
        grant(work, "of the controller that was killed")
        (work / "result.json").unlink()  # whoever is killed leaves none
        write_json(work / "micro_batch.json", seal({"tried": 32, "smaller": 16}))
        Ledger(SweepFolder(self.place.sweep)).opened()

    def _keep(self, state: str) -> None:
        refresh(self.place.sweep / "trials", tolerated=0)  # small tables have no index
        shutil.copytree(self.place.folder, self.kept[state], copy_function=_linked)

    def restore(self, state: str) -> None:
        """The state as it was."""
        shutil.rmtree(self.place.folder)
        shutil.copytree(self.kept[state], self.place.folder, copy_function=_linked)

    def ids(self, folder: str) -> list[str]:
        """Trials that have a part in a folder."""
        return sorted(path.stem for path in (self.place.sweep / folder).glob("*.parquet"))

    def run(self, arguments: list[str]) -> Done:
        """A command that has to succeed."""
        done = self.zygote.command(self.place, arguments)
        assert done.code == 0, (arguments, done)
        return done

    def ask(self, arguments: list[str]) -> tuple[Done, str]:
        """A command, and what it wrote on stdout."""
        done = self.zygote.command(self.place, [*arguments, "--format", "json"])
        return done, (self.place.folder / "stdout").read_text()

    def export(self) -> tuple[Done, str]:
        """Export the earlier space's trial; the weights that came out."""
        shutil.rmtree(self.place.folder / "exported", ignore_errors=True)
        name = self.names["earlier"]
        arguments = ["export", name, "--sweep", "tiny", "--out", "exported", "--run-plugins"]
        done = self.zygote.command(self.place, arguments)
        weights = self.place.folder / "exported" / "model.safetensors"
        return done, _tensors(weights) if weights.exists() else ""

    def _answers(self) -> Answers:
        said = {arguments[0]: self.ask(arguments)[1] for arguments in READING}
        return Answers(said, noted(self.place.rows()), self.place.curves(), self.export()[1])


def _break_off(epoch: EpochMetrics) -> None:
    if epoch.epoch == 2:
        raise RuntimeError("killed")


def _linked(source: str, target: str) -> None:
    """Ours are only ever replaced, so a link is a copy that keeps its inode; what others write in place is copied."""
    if Path(source).name in NOT_OURS:
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def noted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{name: rows[name].fillna("") for name in ("notes", "finished_at")})


def filled(rows: pd.DataFrame) -> pd.DataFrame:
    """Outcome columns that have values: a row that is gone may have been the only one to have some."""
    return outcome(rows).dropna(axis="columns", how="all")


def _tensors(path: Path) -> str:
    import safetensors.torch

    return str({name: hash(tensor.numpy().tobytes()) for name, tensor in safetensors.torch.load_file(path).items()})
