import os
import shutil

import pytest

from sweep.errors import RefusedError, TableError
from sweep.kept_space import read_kept
from sweep.layout import SweepFolder, find_table, rows_of


def make(results, name, changed_at, rows=True):
    folder = results / name
    (folder / "trials" if rows else folder).mkdir(parents=True)
    if not rows:
        (folder / "space.yaml").write_text("sweep: a\n")
    os.utime(folder / ("trials" if rows else "space.yaml"), (changed_at, changed_at))
    return folder


@pytest.fixture
def results(tmp_path):
    made = tmp_path / "results"
    make(made, "older", 1000)
    make(made, "newer", 3000)
    make(made, "planned_only", 2000, rows=False)
    make(made, "published/study", 9000)
    make(made, "simulated/grid", 9000)
    (made / "newer" / "lone.parquet").write_bytes(b"x")
    return made


def test_a_table_is_found_by_name_path_and_file(results, monkeypatch):
    assert find_table("older", results) == results / "older"
    assert find_table("published/study", results) == results / "published/study"
    assert find_table(str(results / "older"), results) == results / "older"
    assert find_table("planned_only", results) == results / "planned_only"
    assert find_table(str(results / "newer/lone.parquet"), results) == results / "newer/lone.parquet"
    monkeypatch.chdir(results)
    assert find_table("newer/lone.parquet", results).is_file()
    assert find_table("older", results / "nowhere").is_dir()


def test_without_a_name_it_is_the_sweep_that_was_written_to_last_and_no_collection(results):
    make(results, "reference", 9000)  # a stray table in a folder of sweeps
    assert find_table(None, results) == results / "newer"
    os.utime(results / "planned_only/space.yaml", (4000, 4000))
    assert find_table(None, results) == results / "planned_only"
    (results / "older/trials/x.parquet").write_bytes(b"")  # a new row is news
    assert find_table(None, results) == results / "older"


def test_an_imported_table_is_never_the_newest_but_can_be_named(results):
    imported = make(results, "timm", 9000)
    (imported / "imported.json").write_text("{}")
    assert find_table(None, results) == results / "newer"
    assert find_table("timm", results) == imported
    for other in results.glob("*"):
        if other != imported:
            shutil.rmtree(other)
    with pytest.raises(TableError, match="sweep run"):
        find_table(None, results)


def test_an_unknown_name_lists_names_that_can_be_given(results):
    with pytest.raises(TableError) as caught:
        find_table("oldr", results)
    message = str(caught.value)
    assert "\n" not in message
    assert "no sweep 'oldr'" in message
    listed = message.partition("sweeps there: ")[2].split(", ")
    assert listed == ["newer", "older", "planned_only", "published/study", "simulated/grid"]
    assert all(find_table(name, results) == results / name for name in listed)


def test_where_nothing_is_yet_the_message_says_how_to_make_it(tmp_path):
    with pytest.raises(TableError, match="sweep run"):
        find_table(None, tmp_path / "results")
    with pytest.raises(TableError, match="none yet"):
        find_table("a", tmp_path / "results")
    make(tmp_path / "results", "published/study", 1)
    with pytest.raises(TableError, match="sweep run"):
        find_table(None, tmp_path / "results")


def test_rows_are_in_the_folder_or_the_file_itself(results):
    assert rows_of(results / "newer") == results / "newer/trials"
    assert rows_of(results / "newer/lone.parquet") == results / "newer/lone.parquet"


def test_every_version_of_the_space_is_kept(tmp_path):
    folder = SweepFolder(tmp_path / "a")
    for text in ("one\n", "one\n", "two\n", "three\n", "two\n"):
        folder.keep_space(text)
        assert read_kept(folder.space).partition("\n")[2] == text
    kept = sorted(read_kept(path).partition("\n")[2] for path in folder.path.iterdir())
    assert kept == ["one\n", "three\n", "two\n", "two\n"]


def test_a_space_that_was_changed_is_refused_by_name_and_put_aside_by_the_next_run(tmp_path):
    folder = SweepFolder(tmp_path / "a")
    folder.keep_space("one\n")
    whole = folder.space.read_bytes()
    for changed in (whole[:-1], whole + b"x", whole.replace(b"one", b"ono"), b"\xff"):
        folder.space.write_bytes(changed)
        with pytest.raises(RefusedError, match=r"space\.yaml: .*run the sweep again with its own YAML"):
            read_kept(folder.space)
    folder.keep_space("one\n")
    assert folder.space.read_bytes() == whole
    assert folder.spaces == [folder.space]


def test_paths_are_those_of_the_design(tmp_path):
    folder = SweepFolder(tmp_path / "a")
    paths = (
        folder.row("x"), folder.epochs("x"), folder.work("x"), folder.shape("s"), folder.tracked("x"), folder.lock,
        folder.space, folder.report, folder.owner,
    )  # fmt: skip
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "a/trials/x.parquet", "a/epochs/x.parquet", "a/work/x", "a/shapes/s.parquet", "a/tracking/x.json", "a/lock",
        "a/space.yaml", "a/report", "a/owner.json",
    ]  # fmt: skip
    assert folder.name == "a"
    assert not folder.path.exists()
