import shutil
import sys

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


def with_classes(folder, train=("a", "b", "c"), val=("a", "b", "c")):
    for split, names in (("train", train), ("val", val)):
        for name in names:
            (folder / split / name).mkdir(parents=True)
    return folder


def test_a_variable_that_is_not_set_is_named_with_its_place(space, monkeypatch):
    monkeypatch.delenv("SOME_DIR", raising=False)
    root = space("name: folder\n  classes: 3\n  root: ${SOME_DIR}/${OTHER_DIR}")
    assert refusal(root).startswith("5: data.root: environment variable SOME_DIR is not set; set it to the folder of")
    cache = space("name: digits\n  cache: ${SOME_DIR}/x")
    assert refusal(cache).startswith("4: data.cache: environment variable SOME_DIR is not set; set it to a folder for")


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_a_folder_that_lacks_a_split_is_named(space, tmp_path, monkeypatch, lacking):
    shutil.rmtree(with_classes(tmp_path / "images") / lacking)
    path = space("name: folder\n  classes: 3\n  root: ${SOME_DIR}/images")
    monkeypatch.setenv("SOME_DIR", str(tmp_path))
    assert refusal(path).startswith(f"5: data.root: {tmp_path}/images/{lacking} is no folder")
    for name in "abc":
        (tmp_path / "images" / lacking / name).mkdir(parents=True)
    assert found(path) == DataPaths(str(tmp_path / "images"))


def test_relative_folders_become_absolute_for_workers_that_start_elsewhere(space, tmp_path, monkeypatch):
    with_classes(tmp_path / "images")
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


def test_another_number_of_class_folders_than_promised_is_told_with_the_place_of_the_promise(space, tmp_path):
    root = with_classes(tmp_path / "images")
    path = space(f"name: folder\n  root: {root}\n  classes: 4")
    assert refusal(path) == f"5: data.classes: {root}/train has 3 class folders, not 4"
    path = space(f"name: imagenet\n  root: {root}")
    assert refusal(path) == f"4: data.root: {root}/train has 3 class folders, not 1000"


def test_class_folders_of_one_split_alone_are_told(space, tmp_path):
    root = with_classes(tmp_path / "images", val=("a", "b", "d"))
    path = space(f"name: folder\n  root: {root}\n  classes: 3")
    assert refusal(path).startswith(f"4: data.root: {root}/train has a class folder 'c' that {root}/val has not")


def test_a_folder_that_is_hidden_or_a_file_is_no_class(space, tmp_path):
    root = with_classes(tmp_path / "images")
    (root / "train" / ".thumbnails").mkdir()
    (root / "val" / "notes.txt").write_text("")
    assert found(space(f"name: folder\n  root: {root}\n  classes: 3")) == DataPaths(str(root))


@pytest.mark.parametrize(
    ("name", "package"), [("tfds/mnist", "tensorflow_datasets"), ("wds/x", "webdataset"), ("hfds/x", "datasets")]
)
def test_a_package_that_is_missing_is_told_before_anything_runs(space, tmp_path, monkeypatch, name, package):
    path = space(f"name: {name}\n  classes: 10\n  root: {tmp_path}\n  cache: {tmp_path}")
    monkeypatch.setitem(sys.modules, package, None)
    wanted = f"3: data.name: {name} needs a package that is not installed: pip install {package.replace('_', '-')}"
    assert refusal(path) == wanted
