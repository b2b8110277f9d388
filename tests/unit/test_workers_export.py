import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import timm
import torch

from workers.contract import DataConfig, TrialConfig
from workers.export import export_model, save_weights
from workers.model import build_model
from workers.recipe import Cell
from workers.recipes import resolve

torch.set_num_threads(1)
CLASSES = 7
ROW = {"trial_id": "abc", "minival_top1": 98.25, "val_loss": float("nan"), "epochs": np.int64(3), "note": None}


def config_of(family, resolution=32, plugins=(), overrides=None, **arguments):
    recipe = resolve("small", Cell(resolution=resolution, epochs=1), {"dropout": 0.2, **(overrides or {})})
    data = DataConfig("digits", "sklearn-1797", CLASSES, 1078, 0.25)
    scale = {name: arguments.pop(name, None) for name in ("width", "depth")}
    return TrialConfig("abc", family, resolution, 1, 0, recipe, data, **scale, model=arguments, plugins=plugins)


def trained(config):
    """A model whose parameters and running statistics are not those that it starts with."""
    torch.manual_seed(0)
    shape = (config.family, config.arguments, config.resolution, CLASSES)
    model = build_model(*shape, config.recipe, config.plugins).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    return model.eval()


def exported(config, folder):
    model = trained(config)
    save_weights(folder / "weights.safetensors", model.state_dict())
    export_model(config, folder / "weights.safetensors", ROW, folder / "out")
    return model


SHAPES = [
    ("resnet_rs", {"width": 0.125, "depth": 26}),
    ("resnet_rs", {"width": 0.25, "depth": 50, "stem_pool": "max"}),
    ("resnet_rs", {"width": 0.3, "depth": 26, "se": False}),
    ("resnet_rs", {"width": 1.0, "depth": 26, "resnet_d": False}),
    ("resnet_rs", {"width": 1.0, "depth": 26, "se": False, "resnet_d": False, "stem_pool": "max"}),
    ("efficientnet", {"variant": "b0"}),
    ("timm:resnet18", {}),
    ("timm:deit_tiny_patch16_224", {"resolution": 48}),
    ("timm:deit_tiny_patch16_224", {"resolution": 48, "overrides": {"test_resolution": 64}}),
]


@pytest.mark.parametrize(("family", "arguments"), SHAPES)
def test_timm_alone_loads_the_model_and_gives_the_same_logits(tmp_path, family, arguments):
    config = config_of(family, **arguments)
    model = exported(config, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    side = config.recipe.test_resolution or config.resolution
    images = torch.rand(3, 3, side, side)
    with torch.no_grad():
        expected, found = model(images), loaded.to(memory_format=torch.channels_last)(images)
    assert found.shape == (3, CLASSES)
    assert torch.equal(found, expected)


def test_a_process_without_our_code_loads_it_and_prepares_images_as_the_trial_did(tmp_path):
    config = config_of("resnet_rs", width=0.125, depth=26, overrides={"eval_crop": 0.875, "test_resolution": 48})
    model = exported(config, tmp_path)
    images = torch.rand(2, 3, 32, 32)
    np.save(tmp_path / "images.npy", images.numpy())
    program = (
        "import sys, json, numpy, timm, torch\n"
        "torch.set_num_threads(1)\n"
        "model = timm.create_model('local-dir:out', pretrained=True).eval()\n"
        "logits = model(torch.from_numpy(numpy.load('images.npy')))\n"
        "told = timm.data.resolve_model_data_config(model, use_test_size=True)\n"
        "assert not any(name.startswith('workers') for name in sys.modules)\n"
        "print(json.dumps([logits.tolist(), told]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    logits, told = json.loads(done.stdout)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-5, atol=1e-5)
    assert told == {
        "input_size": [3, 48, 48],
        "interpolation": "bicubic",
        "mean": [0.305] * 3,
        "std": [0.376] * 3,
        "crop_pct": 0.875,
        "crop_mode": "center",
    }


def test_the_row_stands_beside_the_weights_and_in_the_configuration(tmp_path):
    exported(config_of("resnet_rs", width=0.125, depth=26), tmp_path)
    expected = {"trial_id": "abc", "minival_top1": 98.25, "val_loss": None, "epochs": 3, "note": None}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["row"] == expected
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["row"]) == expected
        assert file.metadata()["trial_id"] == "abc"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


PLUGIN = """
from torch import nn
from workers.families import Family

def build(arguments, resolution, classes, recipe):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * resolution ** 2, classes))

FAMILIES = [Family("flat", {}, build)]
"""


@pytest.mark.parametrize(
    ("family", "arguments", "said"),
    [
        (
            "resnet_rs",
            {"width": 0.3, "depth": 26},
            "width 0.3 with se cannot be exported: .* has 19 channels here, and ",
        ),
        (
            "resnet_rs",
            {"width": 0.0625, "depth": 26},
            "width 0.0625 with se .* rounds them to 8; multiples of 0.125 can",
        ),
        ("resnet_rs", {"width": 0.5, "depth": 26, "resnet_d": False}, "width 0.5 without resnet_d cannot be exported"),
        ("flat", {}, "family 'flat' comes from a plug-in, which timm does not know; it cannot be exported"),
    ],
)
def test_what_timm_cannot_express_is_refused_in_one_line(tmp_path, family, arguments, said):
    (tmp_path / "own.py").write_text(PLUGIN)
    config = config_of(family, plugins=(str(tmp_path / "own.py"),), **arguments)
    with pytest.raises(ValueError, match="^" + said) as refused:
        exported(config, tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def damage(path, kind, tensors):
    if kind == "absent":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "text":
        path.write_text("weights")
    else:
        save_weights(path, tensors)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("absent", "no weights can be read"),
        ("cut", "not a whole safetensors file"),
        ("text", "not a whole safetensors file"),
        ("fewer", "tensor fc.bias is missing here and is in timm's resnetrs50: another model's weights"),
        ("more", "tensor extra is not in timm's resnetrs50: another model's weights"),
        ("other", r"fc.bias has shape \(3,\), in timm's resnetrs50 \(7,\): another model's weights"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_in_one_line_that_names_the_file(tmp_path, kind, said):
    config, path = config_of("resnet_rs", width=0.125, depth=26), tmp_path / "weights.safetensors"
    tensors = dict(trained(config).state_dict())
    save_weights(path, tensors)
    changed = {"more": {"extra": torch.zeros(1)}, "other": {"fc.bias": torch.zeros(3)}}.get(kind, {})
    kept = {name: tensor for name, tensor in tensors.items() if kind != "fewer" or name != "fc.bias"}
    damage(path, kind, kept | changed)
    with pytest.raises(ValueError, match=said) as refused:
        export_model(config, path, ROW, tmp_path / "out")
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    config = config_of("resnet_rs", width=0.125, depth=26)
    save_weights(tmp_path / "weights.safetensors", trained(config).state_dict())
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="out: cannot be written: "):
        export_model(config, tmp_path / "weights.safetensors", ROW, tmp_path / "out")


def test_weights_are_saved_as_they_are_whatever_their_layout(tmp_path):
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"a": image, "b": image[:1], "half": torch.rand(3).bfloat16(), "count": torch.tensor(5)}
    save_weights(tmp_path / "folder" / "w.safetensors", state)
    found = safetensors.torch.load_file(tmp_path / "folder" / "w.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["w.safetensors"]
