"""Every file that a sweep keeps, damaged in every way: what becomes of it. `make fault-matrix` prints the table.

Two states of a tiny sweep are damaged, one file at a time: one that came to its end, and one whose controller was
killed, with a result that has no row and a trial that has checkpoints. Then commands are run, as a person would, and
where one refuses, what its line says is done.
"""

import os
import random
import re
import shutil
import sqlite3
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue

import pandas as pd
import pyarrow as pa
from damage_bench import READING, RUN, RUN_EARLIER, Bench, Commands, filled, noted
from faultcheck import different, outcome
from faultlib import Done, compile_shim, empty_database


class Damage(StrEnum):
    """What is done to a file."""

    EMPTY = "cut to 0 %"
    QUARTER = "cut to 25 %"
    HALF = "cut to 50 %"
    MOST = "cut to 75 %"
    LONGER = "longer"
    FLIP = "bit turned"
    DELETED = "deleted"


class Outcome(StrEnum):
    """What becomes of it; of several the last one counts."""

    UNHARMED = "unharmed"
    REBUILT = "rebuilt"
    SAID = "left out, said so"
    TRAINED = "trained again, said so"
    REFUSED = "refused, exit 3"
    LOSS = "SILENT LOSS"


@dataclass(frozen=True)
class Case:
    """One damage to one file of one state."""

    state: str
    file: str  # name of a FILES entry
    damage: Damage
    seed: int = 0  # of where the bit turns

    def __str__(self) -> str:
        return f"{self.state}: {self.file}, {self.damage}" + (f" (seed {self.seed})" if self.seed else "")


@dataclass(frozen=True)
class Found:
    """What became of one case."""

    case: Case
    outcome: Outcome
    why: str = ""


# Files as the table calls them: patterns below the place's folder, in which {…} names a trial of the state.
FINISHED = {
    "a trial's row": "results/tiny/trials/{first}.parquet",
    "row of an earlier space": "results/tiny/trials/{earlier}.parquet",
    "row of an excluded cell": "results/tiny/trials/{excluded}.parquet",
    "learning curve": "results/tiny/epochs/{first}.parquet",
    "shape": "results/tiny/shapes/*.parquet",
    "planned.parquet": "results/tiny/planned.parquet",
    "index.bin": "results/tiny/index.bin",
    "curves.json": "results/tiny/curves.json",
    "space.yaml": "results/tiny/space.yaml",
    "space-<hash>.yaml": "results/tiny/space-*.yaml",
    "owner.json": "results/tiny/owner.json",
    "lock": "results/tiny/lock",
    "data.json": "results/tiny/data.json",
    "tracking/<id>.json": "results/tiny/tracking/{first}.json",
    "work: result.json": "results/tiny/work/{first}/result.json",
    "work: attempts.json": "results/tiny/work/{first}/attempts.json",
    "work: lease.json": "results/tiny/work/{first}/lease.json",
    "work: alive.json": "results/tiny/work/{first}/alive.json",
    "work: lock": "results/tiny/work/{first}/lock",
    "weights.safetensors": "results/tiny/work/{earlier}/weights.safetensors",
    "report: pareto.json": "results/tiny/report/pareto.json",
    "report: rules.json": "results/tiny/report/rules.json",
    "report: page": "results/tiny/report/report.html",
    "report: figure": "results/tiny/report/front-3.png",
    "cache: pixels": "cache/*train*/00000.bin",
    "cache: facts": "cache/*train*/00000.json",
    "cache: manifest.json": "cache/*train*/manifest.json",
    "mlflow.db": "mlflow.db",
}

INTERRUPTED = {
    **{name: FINISHED[name] for name in (
        "shape", "planned.parquet", "index.bin", "space.yaml", "owner.json", "lock", "data.json", "cache: pixels",
        "cache: facts", "cache: manifest.json", "mlflow.db",
    )},
    "tracking/open": "results/tiny/tracking/open",
    "without a row: result.json": "results/tiny/work/{first}/result.json",
    "without a row: attempts.json": "results/tiny/work/{first}/attempts.json",
    "without a row: alive.json": "results/tiny/work/{first}/alive.json",
    "running: attempts.json": "results/tiny/work/{second}/attempts.json",
    "running: lease.json": "results/tiny/work/{second}/lease.json",
    "running: alive.json": "results/tiny/work/{second}/alive.json",
    "running: micro_batch.json": "results/tiny/work/{second}/micro_batch.json",
    "running: last checkpoint": "results/tiny/work/{second}/checkpoint-00002-*.pt",
    "running: its manifest": "results/tiny/work/{second}/checkpoint-00002-*.json",
    "running: checkpoint before": "results/tiny/work/{second}/checkpoint-00001-*.pt",
    "running: its manifest, before": "results/tiny/work/{second}/checkpoint-00001-*.json",
}  # fmt: skip

FILES = {"finished": FINISHED, "interrupted": INTERRUPTED}


def cases(damages: tuple[Damage, ...] = tuple(Damage), flips: int = 3, seed: int = 1) -> list[Case]:
    """All of them; `flips` bits are turned one after the other, each in a copy of its own."""
    return [
        Case(state, file, damage, seed + turn if damage is Damage.FLIP else 0)
        for state, files in FILES.items()
        for file in files
        for damage in damages
        for turn in range(flips if damage is Damage.FLIP else 1)
    ]


def harm(path: Path, damage: Damage, seed: int) -> None:
    """Damage a file; under a new inode, since the kept copy of the state shares the old one."""
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage is Damage.DELETED:
        return
    if damage is Damage.FLIP:
        if data:
            data[random.Random(seed).randrange(len(data))] ^= 1 << random.Random(-seed).randrange(8)
    elif damage is Damage.LONGER:
        data += b"\0more"
    else:
        share = {Damage.EMPTY: 0.0, Damage.QUARTER: 0.25, Damage.HALF: 0.5, Damage.MOST: 0.75}[damage]
        data = data[: int(share * len(data))]
    path.write_bytes(data)


class Trial:
    """One case on a bench: damage, commands, what they say, and what is there in the end."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.bench, self.case, self.place = bench, case, bench.place
        self.reference = bench.reference[case.state]
        self.outcomes = [Outcome.UNHARMED]
        self.said: list[str] = []
        self.wrong: list[str] = []
        bench.restore(case.state)
        pattern = FILES[case.state][case.file].format(**bench.names)
        self.path = sorted(self.place.folder.glob(pattern))[0]
        harm(self.path, case.damage, case.seed)
        self.left = self.path.read_bytes() if self.path.exists() else None

    def result(self) -> Found:
        """Try it."""
        if self.case.state == "finished":
            for arguments in READING:
                self._judge(arguments[0], *self.bench.ask(arguments), self.reference.said[arguments[0]])
            if self._matters_to_export:
                self._judge("export", *self.bench.export(), self.reference.exported)
        refusals = list(self.said) if Outcome.REFUSED in self.outcomes else []
        self._run(refusals)
        self._look()
        if self.wrong:
            self.outcomes.append(Outcome.LOSS)
        return Found(self.case, max(self.outcomes, key=list(Outcome).index), "; ".join(self.wrong))

    @property
    def _matters_to_export(self) -> bool:
        return any(word in self.case.file for word in ("weights", "space", "row", "planned", "index"))

    def _judge(self, name: str, done: Done, out: str, expected: str) -> None:
        """What a command that reads made of it."""
        if done.code == 0 and out == expected:
            return
        if done.code == 3 and self._is_one_line(done):
            self.outcomes.append(Outcome.REFUSED)
            self.said.append(done.stderr)
        elif done.code == 0 and out and (done.stderr.strip() or name == "status"):  # status counts what there is
            self.outcomes.append(Outcome.SAID)
        elif done.code == 2 and name == "export" and "row" in self.case.file and self._is_one_line(done):
            self.outcomes.append(Outcome.SAID)  # there is no such trial
        else:
            self.wrong.append(f"{name} ended with {done.code} {done.stderr[-300:]!r}, and another answer")

    def _is_one_line(self, done: Done) -> bool:
        lines = done.stderr.strip().splitlines()
        named = self.path.name in "".join(lines[-1:]) or self.case.damage is Damage.DELETED
        return not done.traceback and bool(lines) and named

    def _run(self, refusals: list[str]) -> None:
        """`sweep run`, after doing what the commands asked for, and again where it refuses itself."""
        if not refusals:
            done = self.bench.zygote.command(self.place, RUN)
            self.said.append(done.stderr)
            if done.code != 3:
                self._check_end(done)
                return
            self.outcomes.append(Outcome.REFUSED)
            if not self._is_one_line(done):
                self.wrong.append(f"refused with {done.stderr!r}")
            refusals = [done.stderr]
        for line in dict.fromkeys(refusals):
            self._follow(line)
        earlier = self.bench.names["earlier"]
        asked = any("of that time" in line or (earlier in line and "that plans it" in line) for line in refusals)
        self._run_whole((RUN_EARLIER, RUN) if asked else (RUN,))
        self._whole_again()

    def _run_whole(self, commands: tuple[list[str], ...]) -> None:
        """Runs that have to succeed."""
        for arguments in commands:
            done = self.bench.zygote.command(self.place, arguments)
            self.said.append(done.stderr)
            self._check_end(done)

    def _follow(self, line: str) -> None:
        """Move away what the line says."""
        moved = self.place.folder / "moved"
        moved.mkdir(exist_ok=True)
        named = re.search(r"move (\S+?)( and (\S+))? away", line)
        for name in (named[1], named[3]) if named else ():
            path = self.path if name == "it" else self.place.folder / name if name else None
            if path and path.exists():
                path.rename(moved / f"{len(list(moved.iterdir()))}")

    def _check_end(self, done: Done) -> None:
        if done.code != 0 or done.traceback:
            self.wrong.append(f"run ended with {done.code}: {done.stderr[-300:]!r}")

    def _whole_again(self) -> None:
        """After what a refusal asked for, every command answers as before."""
        if any(self.bench.names["earlier"] in line and "YAML of that time" in line for line in self.said):
            self._run_whole((RUN_EARLIER, RUN))  # the run said so
        for arguments in READING:
            done, out = self.bench.ask(arguments)
            if done.code != 0 or (self.case.state == "finished" and out != self.reference.said[arguments[0]]):
                self.wrong.append(f"after the way out {arguments[0]} ends with {done.code} {done.stderr[-200:]!r}")
        if self._matters_to_export and self.case.state == "finished":
            done, weights = self.bench.export()
            if weights != self.reference.exported:
                self.wrong.append(f"after the way out export ends with {done.code} {done.stderr[-200:]!r}")

    def _look(self) -> None:
        """What is there in the end."""
        lost = self._lost_rows()
        rows, curves = noted(self.place.rows()), self._curves()
        expected = self.reference.rows[~self.reference.rows["trial_id"].isin(lost)].reset_index(drop=True)
        found = rows[~rows["trial_id"].isin(lost)].reset_index(drop=True)
        self.wrong += different("rows", filled(expected), filled(found))
        if curves is not None:
            self.wrong += different("curves", outcome(self.reference.curves), outcome(curves))
        if not self.wrong:
            self._look_for_training(expected.set_index("trial_id"), found.set_index("trial_id"))
            self._look_for_notes(expected.set_index("trial_id"), found.set_index("trial_id"))
        now = self.path.read_bytes() if self.path.exists() else None
        if now != self.left:
            self.outcomes.append(Outcome.REBUILT)
        self._look_at_report()
        self._look_at_mlflow()

    def _lost_rows(self) -> set[str]:
        """The earlier space's trial, where a line says that it is not in the table any more."""
        name = self.bench.names["earlier"]
        said = any(name in line and "of that time" in line for line in self.said)
        if name not in self.bench.ids("trials") and (said or self.case.damage is Damage.DELETED):
            self.outcomes.append(Outcome.SAID)
            return {name}
        return set()

    def _curves(self) -> pd.DataFrame | None:
        try:
            return self.place.curves()
        except (OSError, pa.ArrowException) as error:
            self.wrong.append(f"a curve is damaged still: {error}")
            return None

    def _look_for_training(self, expected: pd.DataFrame, found: pd.DataFrame) -> None:
        for name in expected.index:
            more = found.epochs_repeated[name] > expected.epochs_repeated[name] + 1e-6
            again = self.case.state == "finished" and found.finished_at[name] != expected.finished_at[name]
            if more or again:
                self.outcomes.append(Outcome.TRAINED)
                noted = found.notes[name]
                if "training" not in "".join(self.said) or (more and noted == expected.notes[name]):
                    self.wrong.append(f"{name} was trained again without a word (notes: {noted!r})")

    def _look_for_notes(self, expected: pd.DataFrame, found: pd.DataFrame) -> None:
        for name in expected.index:
            before, now = expected.notes[name], found.notes[name]
            lost = [note for note in before.split("; ") if note and note not in now]
            if self.case.file == "running: micro_batch.json":  # what does not fit is found, and noted, once more
                lost = [note for note in lost if "out of memory" not in note]
            fewer = found.attempts[name] < expected.attempts[name] and self.case.state == "interrupted"
            if (lost or fewer) and "attempts.json was missing or damaged" not in now:
                self.wrong.append(f"{name}: lost of its record: {lost or 'attempts'}")

    def _look_at_report(self) -> None:
        """Figures and JSON for people are made anew by `sweep report`."""
        if "report" in self.case.file:
            self._check_end(self.bench.zygote.command(self.place, ["report", "tiny"]))
            kept = (self.bench.kept["finished"] / self.path.relative_to(self.place.folder)).read_bytes()
            if not self.path.exists() or (self.path.suffix == ".json" and self.path.read_bytes() != kept):
                self.wrong.append("`sweep report` does not make it again")
            self.outcomes.append(Outcome.REBUILT)

    def _look_at_mlflow(self) -> None:
        """Not ours to mend: without it, `sweep sync` records everything anew."""
        if self.case.file != "mlflow.db":
            return
        for path in self.place.folder.glob("mlflow.db*"):
            path.unlink()
        self._check_end(self.bench.zygote.command(self.place, ["sync", "tiny"]))
        trials = {name for name, *_ in self.place.tracked()} - {"parent"}
        rows = self.place.rows()
        if trials != set(rows.trial_id[rows.status != "excluded"]):
            self.wrong.append(f"MLflow has {trials} after `sweep sync`")
        self.outcomes.append(Outcome.REBUILT)


def tried(chosen: list[Case], folder: Path, benches: int = 2) -> Iterator[Found]:
    """Try cases, some side by side."""
    shim, database = compile_shim(folder), empty_database(folder)
    free: SimpleQueue[Bench] = SimpleQueue()

    def one(case: Case) -> Found:
        bench = free.get()
        try:
            return Trial(bench, case).result()
        except (AssertionError, LookupError, ValueError, OSError, sqlite3.Error, pa.ArrowException) as error:
            return Found(case, Outcome.LOSS, f"{type(error).__name__}: {error}")
        finally:
            free.put(bench)

    zygotes = [Commands(shim) for _ in range(benches)]
    try:
        with ThreadPoolExecutor(benches) as pool:
            places = [folder / f"bench-{number}" for number in range(benches)]
            for bench in pool.map(lambda pair: Bench(pair[0], pair[1], database), zip(places, zygotes, strict=True)):
                free.put(bench)
            yield from pool.map(one, chosen)
    finally:
        for zygote in zygotes:
            zygote.__exit__()


def table(found: list[Found]) -> str:
    """The matrix in 80 columns: state and file, damages that end alike, outcome."""
    lines = [f"{'file':<33}{'damage':<25}outcome", "-" * 80]
    for state, files in FILES.items():
        lines.append(f"{state}:")
        for file in files:
            ends: dict[Outcome, Counter[Damage]] = {}
            for one in found:
                if (one.case.state, one.case.file) == (state, file):
                    ends.setdefault(one.outcome, Counter())[one.case.damage] += 1
            for number, (end, damages) in enumerate(ends.items()):
                shown = "all" if len(ends) == 1 else ", ".join(damages)
                name = f"  {file if number == 0 else ''}"
                for row, part in enumerate(textwrap.wrap(shown.replace(" %", "\N{NO-BREAK SPACE}%"), 24)):
                    lines.append(f"{name if row == 0 else '':<33}{part:<25}{end if row == 0 else ''}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Print the matrix; 0 where nothing was lost without a word."""
    seed = int(os.environ.get("SWEEP_MATRIX_SEED", "1"))
    folder = Path(tempfile.mkdtemp(prefix="sweep-matrix-"))
    try:
        found = list(tried(cases(flips=int(os.environ.get("SWEEP_MATRIX_FLIPS", "5")), seed=seed), folder))
    finally:
        shutil.rmtree(folder)
    lost = [one for one in found if one.outcome is Outcome.LOSS]
    sys.stdout.write(f"{table(found)}\n\n{len(found)} cases, seed of the turned bits {seed}\n")
    sys.stdout.writelines(f"{one.case}: {one.why}\n" for one in lost)
    sys.stdout.write(f"silent losses: {len(lost)}\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
