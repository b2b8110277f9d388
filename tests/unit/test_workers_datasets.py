import hashlib

import pytest

from workers.datasets import (
    DATASETS,
    TORCH_NAMES,
    class_folders,
    find_dataset,
    held_out,
    image_files,
    training_images,
)

NAMES = [f"image-{index}" for index in range(200)]
LABELS = [0] * 100 + [1] * 60 + [2] * 40


def per_class(indices, labels):
    return [sum(labels[i] == label for i in indices) for label in sorted(set(labels))]


def test_each_class_gives_the_same_share():
    kept, out = held_out(NAMES, LABELS, 0.25)
    assert per_class(out, LABELS) == [25, 15, 10]
    assert per_class(kept, LABELS) == [75, 45, 30]
    assert sorted(kept + out) == list(range(200))


def test_who_is_held_out_follows_from_the_names_alone():
    order = sorted(range(200), key=lambda i: hashlib.sha256(f"shuffle{i}".encode()).digest())
    names, labels = [NAMES[i] for i in order], [LABELS[i] for i in order]
    kept, out = held_out(NAMES, LABELS, 0.25)
    kept_again, out_again = held_out(names, labels, 0.25)
    assert [NAMES[i] for i in out] == [names[i] for i in out_again]
    assert [NAMES[i] for i in kept] == [names[i] for i in kept_again]


def test_other_names_are_split_otherwise():
    assert held_out(NAMES, LABELS, 0.25) != held_out([name + "x" for name in NAMES], LABELS, 0.25)


def test_a_prefix_of_either_part_is_a_mixture_of_the_classes():
    kept, out = held_out(NAMES, LABELS, 0.5)
    for part in (kept, out):
        first = per_class(part[:40], LABELS)
        assert 14 <= first[0] <= 26  # 20 expected, if the order were random
        assert first[2] >= 3  # 8 expected


def test_a_larger_share_holds_out_the_same_images_and_more():
    assert set(held_out(NAMES, LABELS, 0.1)[1]) < set(held_out(NAMES, LABELS, 0.3)[1])


@pytest.mark.parametrize(("share", "expected"), [(0.0, [0, 0, 0]), (0.001, [1, 1, 1]), (0.1, [10, 6, 4])])
def test_at_least_one_image_of_a_class_is_held_out_unless_none_is(share, expected):
    assert per_class(held_out(NAMES, LABELS, share)[1], LABELS) == expected


def test_training_images_are_what_is_not_held_out():
    assert training_images(DATASETS["digits"], 0.25) == round(1438 * 0.75)
    assert training_images(DATASETS["imagenet"], 0.02) == round(1_281_167 * 0.98)
    assert training_images(DATASETS["folder"], 0.02) is None


def test_class_folders_are_in_alphabetical_order_without_files_and_hidden_folders(tmp_path):
    for name in ("b", "a", "C", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels.txt").touch()
    assert [folder.name for folder in class_folders(tmp_path)] == ["C", "a", "b"]


def test_image_files_are_found_by_suffix_in_sub_folders_too_and_in_a_stable_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("z.PNG", "a.jpeg", "notes.txt", "sub/m.webp", "sub/k"):
        (tmp_path / name).touch()
    assert [file.name for file in image_files(tmp_path)] == [
        "a.jpeg",
        "sub/m.webp",
        "z.PNG",
    ]


def test_whatever_has_an_images_suffix_is_found_with_its_size_and_unreadable_things_without(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12345")
    (tmp_path / "b.png").mkdir()
    (tmp_path / "c.png").symlink_to("nowhere")
    (tmp_path / "d.png").symlink_to("a.png")
    found = {file.name: file.bytes for file in image_files(tmp_path)}
    assert found == {"a.png": 5, "b.png": -1, "c.png": -1, "d.png": 5}


# --- data sets by their names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "images", "needs_root"),
    [("digits", 10, 1438, False), ("imagenet", 1000, 1_281_167, True), ("torch/cifar100", 100, 50_000, True),
     ("torch/inaturalist", None, None, True), ("hfds/owner/photos", None, None, False),
     ("hfds/mnist", None, None, False), ("wds/photos", None, None, True),
     ("tfds/imagenet2012:5.1.0", None, None, True)],
)  # fmt: skip
def test_built_in_data_sets_and_timms_schemes_are_found(name, classes, images, needs_root):
    facts = find_dataset(name)
    assert (facts.classes, facts.images, facts.needs_root) == (classes, images, needs_root)
    assert facts.open is None


@pytest.mark.parametrize("name", ["", "photos", "digit", "hub/x", "TORCH/mnist", "/etc/passwd"])
def test_an_unknown_data_set_is_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match="known: digits, imagenet, folder, torch/<name>, hfds/<name>, wds/"):
        find_dataset(name)


def test_an_unknown_name_of_torchvision_is_refused_with_those_that_timm_knows():
    with pytest.raises(ValueError, match="unknown data set 'torch/cifar20'; known under torch/: cifar10, cifar100"):
        find_dataset("torch/cifar20")


@pytest.mark.parametrize("name", ["..", "a/..", "a/../b", "/a", "a//b", "hf://a/b", "a/", "", ".", "a b", "a\nb", "é"])
def test_a_name_that_would_lead_out_of_its_scheme_is_refused(name):
    for scheme in ("torch", "hfds", "wds", "tfds"):
        with pytest.raises(ValueError, match="must be a plain name"):
            find_dataset(f"{scheme}/{name}")


def test_a_plug_ins_data_set_is_found_and_cannot_take_a_built_in_name(tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from workers.datasets import DatasetFacts\n"
        "DATASETS = {'mine': DatasetFacts('3', 2, 100, 0.1, needs_root=False, open=lambda config: ([], []))}\n"
    )
    assert find_dataset("mine", (str(plugin),)).version == "3"
    assert find_dataset("digits", (str(plugin),)) is DATASETS["digits"]
    with pytest.raises(ValueError, match="unknown data set 'mine'; known: digits"):
        find_dataset("mine")


def test_every_name_under_torch_is_one_that_timm_opens():
    from timm.data.dataset_factory import create_dataset

    for name in TORCH_NAMES:
        with pytest.raises((RuntimeError, OSError, TypeError, ValueError)) as told:  # AssertionError: unknown to timm
            create_dataset(f"torch/{name}", root="/nowhere", split="train")
        assert "Unknown" not in str(told.value)
