import pytest

from sweep.data_paths import DataPaths, data_paths
from sweep.errors import DataUnavailableError
from sweep.space import load_space

SPACE = """\
sweep: a
data:
  name: digits
recipe: small
axes: {width: [0.25], depth: [26], resolution: [16], epochs: [1]}
"""


@pytest.fixture
def space(tmp_path):
    def space(data):
        path = tmp_path / "a.yaml"
        path.write_text(SPACE.replace("name: digits", data))
        return path

    return space


def found(path):
    return data_paths(load_space(path), path)


def refusal(path):
    with pytest.raises(DataUnavailableError) as caught:
        found(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}:")


def with_splits(folder):
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
    return folder


def test_a_variable_that_is_not_set_is_named_with_its_place(space, monkeypatch):
    monkeypatch.delenv("SOME_DIR", raising=False)
    root = space("name: folder\n  classes: 3\n  root: ${SOME_DIR}/${OTHER_DIR}")
    assert refusal(root).startswith("5: data.root: environment variable SOME_DIR is not set; set it to the folder of")
    cache = space("name: digits\n  cache: ${SOME_DIR}/x")
    assert refusal(cache).startswith("4: data.cache: environment variable SOME_DIR is not set; set it to a folder for")


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_a_folder_that_lacks_a_split_is_named(space, tmp_path, monkeypatch, lacking):
    for split in {"train", "val"} - {lacking}:
        (tmp_path / "images" / split).mkdir(parents=True)
    path = space("name: folder\n  classes: 3\n  root: ${SOME_DIR}/images")
    monkeypatch.setenv("SOME_DIR", str(tmp_path))
    assert refusal(path).startswith(f"5: data.root: {tmp_path}/images/{lacking} is no folder")
    (tmp_path / "images" / lacking).mkdir(parents=True)
    assert found(path) == DataPaths(str(tmp_path / "images"))


def test_relative_folders_become_absolute_for_workers_that_start_elsewhere(space, tmp_path, monkeypatch):
    with_splits(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    path = space("name: folder\n  classes: 3\n  root: images\n  cache: decoded")
    assert found(path) == DataPaths(str(tmp_path / "images"), str(tmp_path / "decoded"))


def test_digits_need_no_folder_and_a_cache_need_not_be_there_yet(space, tmp_path, monkeypatch):
    assert found(space("name: digits")) == DataPaths()
    monkeypatch.setenv("CACHE", str(tmp_path / "not/there"))
    assert found(space("name: digits\n  cache: ${CACHE}")) == DataPaths(None, str(tmp_path / "not/there"))


def test_the_folder_of_another_data_set_needs_no_class_folders_but_has_to_be_there(space, tmp_path):
    path = space(f"name: torch/cifar10\n  root: {tmp_path}/images")
    assert refusal(path).startswith(f"4: data.root: {tmp_path}/images is no folder; set it to the folder of torch/cif")
    (tmp_path / "images").mkdir()
    assert found(path) == DataPaths(str(tmp_path / "images"))
