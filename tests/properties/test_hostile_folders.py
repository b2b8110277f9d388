"""Whatever lies in a sweep's folder, a command answers or refuses it, runs none of it and writes nowhere else."""

import hashlib
import json
import pickle
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from hostile import empty_folder, refuses_or_answers, sweep, tree, tried
from hypothesis import given
from hypothesis import strategies as st

from workers import checkpoint

SPACE = """\
sweep: mine
data: {name: digits}
recipe: {name: small, batch_size: 256, bn_batch: 128}
axes: {width: [0.125], depth: [26], resolution: [16], epochs: [1]}
checkpoints: {keep_weights: true}
"""
READ = ("trials/*", "planned.parquet", "space.yaml", "data.json", "index.bin", "shapes/*", "epochs/*", "work/*/*")
COMMANDS = ("status", "pareto", "rules", "status", "pareto", "rules", "plan", "export")


class Bomb:
    """Makes a file wherever it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


@pytest.fixture(scope="module")
def finished():
    """A finished sweep of one trial, to be copied."""
    with pytest.MonkeyPatch.context() as patch, empty_folder() as folder:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "a.yaml").write_text(SPACE)
        answer = sweep("run", "a.yaml", "--executor", "local")
        assert answer.code == 0, answer.err
        kept = folder.with_name(folder.name + "-kept")
        shutil.copytree(folder, kept)
    yield kept
    shutil.rmtree(kept)


def copied(finished, folder):
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    return folder / "results/mine", outside


CONTENTS = st.sampled_from(
    [
        b"", b"null", b"[]", b"{}", b"1", b'"x"', b'{"trial_id": "../../x", "status": "ok"}', b"[" * 100_000,
        b"\xff\xfe",
        b"NaN", b'{"sha256": 1}', b'{"epochs": 1e999}', b"9" * 5000, pickle.dumps(Bomb()), b"PAR1PAR1", b"\0" * 64,
        b'{"sweep": "mine", "trials": null}', b"sweep: ../x\n", b"sweep: mine\nplugins: [../../evil.py]\n",
    ]
) | st.binary(max_size=64)  # fmt: skip


@st.composite
def damages(draw):
    """What is done to one file: other contents, some other bytes, an end that is missing, or a folder in its place."""
    kind = draw(st.sampled_from(["contents", "contents", "bytes", "bytes", "cut", "folder", "gone"]))
    return kind, draw(CONTENTS), draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8))


def damage(path, kind, contents, where, noise):
    old = path.read_bytes()
    place = int(where * len(old))
    if kind in ("folder", "gone"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        changed = old[:place] + noise + old[place + 8 :]
        path.write_bytes({"contents": contents, "cut": old[:place], "bytes": changed}[kind])


@tried(180)
@given(st.data(), damages(), st.sampled_from(COMMANDS))
def test_a_folder_with_one_file_damaged(finished, data, harm, command):
    with empty_folder() as folder:
        mine, _ = copied(finished, folder)
        (trial,) = (path.stem for path in (mine / "trials").glob("*.parquet"))
        damage(data.draw(st.sampled_from(sorted(path for name in READ for path in mine.glob(name)))), *harm)
        if command == "export":
            answer = sweep("export", trial, "--sweep", "mine", "--out", "exported")
            assert answer.code in (0, 2, 3), answer
            assert (folder / "exported").exists() == (answer.code == 0)
        else:
            refuses_or_answers(folder, command, "a.yaml" if command == "plan" else "mine")
        assert not (folder / "unpickled").exists()


@tried(25)
@given(st.data(), damages())
def test_a_finished_sweep_with_one_file_damaged_is_run_again(finished, data, harm):
    with empty_folder() as folder:
        mine, outside = copied(finished, folder)
        kept = tree(outside)
        names = (
            "trials/*",
            "tracking/*",
            "data.json",
            "owner.json",
            "lock",
            "planned.parquet",
            "work/*/*",
            "index.bin",
        )
        files = sorted(path for name in names for path in mine.glob(name) if path.is_file())
        damage(data.draw(st.sampled_from(files)), *harm)
        answer = sweep("run", "a.yaml", "--executor", "local")
        assert answer.code in (0, 3), answer
        assert tree(outside) == kept
        assert not (folder / "unpickled").exists()


OURS = ("trials", "epochs", "work", "shapes", "tracking", "report", "lock", "owner.json", "data.json", "space.yaml")


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_written_through_a_link(finished, name):
    with empty_folder() as folder:
        mine, outside = copied(finished, folder)
        kept = tree(outside)
        shutil.rmtree(mine / "trials")  # its result is still there, so the trial is not trained again
        path = mine / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(outside / "file" if name == "lock" or "." in name else outside)
        answer = sweep("run", "a.yaml", "--executor", "local")
        assert tree(outside) == kept
        assert answer.code == 3, answer
        assert f"{name}: is a link to" in answer.err


@pytest.mark.parametrize(("command", "name"), [("report", "report"), ("sync", "lock"), ("sync", "tracking")])
def test_other_commands_write_nothing_through_a_link(finished, command, name):
    with empty_folder() as folder:
        mine, outside = copied(finished, folder)
        kept = tree(outside)
        path = mine / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
        path.symlink_to(outside / "file" if name == "lock" else outside)
        answer = sweep(command, "mine")
        assert tree(outside) == kept
        assert answer.code in (2, 3), answer


def test_a_link_in_a_work_folder_is_refused(finished):
    with empty_folder() as folder:
        mine, outside = copied(finished, folder)
        (row,) = (mine / "trials").glob("*.parquet")
        row.unlink()
        for name in ("lock", "result.json", "attempts.json", "alive.json", "lease.json"):
            path = mine / "work" / row.stem / name
            path.unlink(missing_ok=True)
            path.symlink_to(outside / "file")
        assert sweep("run", "a.yaml", "--executor", "local").code == 3
        assert (outside / "file").read_text() == "mine"


def test_a_row_may_not_name_another_place(finished):
    """The id inside a row decides where its mark is written."""
    with empty_folder() as folder:
        mine, _ = copied(finished, folder)
        (row,) = (mine / "trials").glob("*.parquet")
        table = pq.read_table(row)
        index = table.column_names.index("trial_id")
        pq.write_table(table.set_column(index, table.schema.field(index), [["../../../../moved"]]), row)
        before = tree(folder)
        assert sweep("sync", "mine").code == 3
        assert {path for path in tree(folder) if "moved" in path} == set()
        assert before.keys() <= tree(folder).keys()


SAVED = {"model": {"w": torch.zeros(3)}, "epoch": 1}


@tried(320)
@given(damages(), st.sampled_from([".pt", ".json"]), st.sampled_from(["", "pickle", "zip"]))
def test_a_damaged_checkpoint_is_passed_over_and_runs_nothing(harm, suffix, forged):
    with empty_folder() as folder:
        checkpoint.save(folder, checkpoint.Mark(1, 0), SAVED)
        checkpoint.save(folder, checkpoint.Mark(2, 0), {**SAVED, "epoch": 2})
        newest = folder / "checkpoint-00002-0000000.pt"
        if forged:  # its manifest fits: whoever can write the one can write the other
            if forged == "pickle":
                newest.write_bytes(pickle.dumps(Bomb()))
            else:
                torch.save(Bomb(), newest)
            forge_manifest(newest)
        else:
            damage(newest.with_suffix(suffix), *harm)
        said = []
        state = checkpoint.load_latest(folder, said.append)
        assert state is not None
        assert state["epoch"] == 1 or not said
        assert all(line.isprintable() for line in said)
        assert not (folder / "unpickled").exists()


def forge_manifest(path):
    manifest = path.with_suffix(".json")
    old = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**old, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
