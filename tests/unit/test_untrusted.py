"""What decides where we write: names from a results folder, and links in it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.errors import RefusedError
from sweep.layout import SweepFolder
from sweep.untrusted import inside

BY_ID = ("row", "epochs", "work", "shape", "tracked")
FIXED = ("space", "planned", "data", "trials", "shapes", "report", "lock", "owner")
HOSTILE = ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "a\nb", "x" * 300, "~", "-x", "a b", "é", "\x1b[2J"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("method", BY_ID)
def test_an_id_that_is_no_name_of_ours_gives_no_path(tmp_path, method, name):
    with pytest.raises(RefusedError) as refused:
        getattr(SweepFolder(tmp_path), method)(name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < len(str(tmp_path)) + 200


@given(st.text(max_size=20))
def test_a_path_is_a_child_or_refused(name):
    try:
        path = inside(Path("/results/mine"), name)
    except RefusedError:
        return
    assert path.parent == Path("/results/mine")
    assert path.resolve() == path


@pytest.mark.parametrize("method", BY_ID)
def test_a_link_in_the_way_is_refused(tmp_path, method):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = SweepFolder(tmp_path / "mine")
    path = getattr(folder, method)("abc")
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    with pytest.raises(RefusedError, match="is a link to"):
        getattr(folder, method)("abc")
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside)
    with pytest.raises(RefusedError, match="is a link to"):
        getattr(folder, method)("abc")


@pytest.mark.parametrize("name", FIXED)
def test_a_link_in_place_of_a_file_of_ours_is_refused(tmp_path, name):
    folder = SweepFolder(tmp_path / "mine")
    folder.path.mkdir()
    getattr(folder, name).symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="is a link to"):
        getattr(folder, name)


def test_a_work_folder_with_a_link_in_it_is_refused(tmp_path):
    work = SweepFolder(tmp_path).work("abc")
    work.mkdir(parents=True)
    assert SweepFolder(tmp_path).work("abc") == work
    (work / "hung.txt").symlink_to(tmp_path)
    with pytest.raises(RefusedError, match=r"hung\.txt: is a link"):
        SweepFolder(tmp_path).work("abc")


def test_the_sweeps_own_folder_may_be_a_link(tmp_path):
    """The person who names it made it; it is what stands inside that may be somebody else's."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "disk")
    assert SweepFolder(tmp_path / "mine").row("abc").parent.name == "trials"
