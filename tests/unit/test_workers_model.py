import dataclasses
import math
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
from timm.layers import DropPath, SEModule
from torch import nn

from workers.costs import count_costs
from workers.families import check_cell, find_family
from workers.model import WeightAverage, build_model
from workers.recipe import Cell
from workers.recipes import resolve
from workers.resnet_rs import BLOCKS, stage_channels, stem_channels

torch.set_num_threads(1)  # as trials do; these models are too small for more
PLAIN = resolve("small", Cell(resolution=16, epochs=1, width=0.125, depth=26), {})
OFF = {"se": False, "resnet_d": False, "stem_pool": "max"}


def shape(width=0.125, depth=26, **switches):
    return {"width": width, "depth": depth, **switches}


def resnet(width=0.125, depth=26, classes=10, recipe=None, **switches):
    return build_model("resnet_rs", shape(width, depth, **switches), 16, classes, recipe)


@cache
def model_of(width=0.125, depth=26, classes=10, **overrides):
    """Shared between tests: change nothing in it."""
    torch.manual_seed(0)
    return resnet(width, depth, classes, dataclasses.replace(PLAIN, **overrides))


def on_meta(family, arguments, resolution, classes=1000, recipe=None):
    with torch.device("meta"):
        return build_model(family, arguments, resolution, classes, recipe)


def stages(model):
    return [list(model.get_submodule(f"layer{stage}").children()) for stage in range(1, 5)]


def blocks(model):
    return [block for stage in stages(model) for block in stage]


@pytest.mark.parametrize("depth", [50, 101, 152, 200, 270, 350, 420])
def test_at_width_1_it_has_every_tensor_of_timms_own_resnet_rs(depth):
    with torch.device("meta"):
        theirs = timm.create_model(f"resnetrs{depth}")
    ours = on_meta("resnet_rs", shape(1.0, depth), 224)
    # One rounding apart: timm's own rounds the channels inside squeeze-and-excitation to multiples of 8, which
    # changes none at width 1.
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize("width", [0.03125, 0.125, 0.25, 0.375, 0.5, 1.0, 1.5, 2.0])
def test_width_scales_the_stem_and_every_stage(width):
    model = on_meta("resnet_rs", shape(width), 16)
    stem = [module.out_channels for module in model.conv1 if isinstance(module, nn.Conv2d)]
    assert stem == [int(32 * width), int(32 * width), 2 * int(32 * width)]
    for inner, stage in zip((64, 128, 256, 512), stages(model), strict=True):
        assert {block.conv2.out_channels for block in stage} == {int(inner * width)}
        assert {block.conv3.out_channels for block in stage} == {4 * int(inner * width)}
    assert model.fc.in_features == 4 * int(512 * width)


@pytest.mark.parametrize(("width", "stem", "last"), [(0.25, 8, 128), (0.375, 12, 192), (1.5, 48, 768), (0.3, 9, 153)])
def test_channels_are_rounded_down(width, stem, last):
    assert (stem_channels(width), stage_channels(width)[-1]) == (stem, last)


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_depth_counts_the_layers_of_the_blocks_stem_and_head(depth):
    # 3 convolutions a block, 2 more; the names of the papers' larger models are rounded.
    assert abs(3 * sum(BLOCKS[depth]) + 2 - depth) <= (0 if depth <= 200 else 4)


def test_every_block_squeezes_and_excites_with_a_quarter_of_its_channels():
    for block in blocks(model_of(depth=50)):
        assert isinstance(block.se, SEModule)
        assert block.se.fc1.out_channels == block.conv3.out_channels // 4
        assert block.se.fc2.out_channels == block.conv3.out_channels


def test_the_stem_has_no_max_pool_and_the_shortcuts_average():
    model = model_of()
    assert not [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    assert [isinstance(stage[0].downsample[0], nn.AvgPool2d) for stage in stages(model)] == [False, True, True, True]
    for stage in stages(model):
        assert {module.stride for module in stage[0].downsample.modules() if isinstance(module, nn.Conv2d)} == {(1, 1)}


def test_the_last_norm_of_every_block_starts_at_zero_and_all_others_at_one():
    for block in blocks(model_of()):
        assert not block.bn3.weight.any()
        assert bool((block.bn1.weight == 1).all())
        assert bool((block.bn2.weight == 1).all())


@pytest.mark.parametrize(("ema_decay", "momentum"), [(0.0, 0.1), (0.9999, 1.0)])
def test_batch_norm_keeps_a_running_average_unless_the_weights_are_averaged(ema_decay, momentum):
    norms = [module for module in model_of(ema_decay=ema_decay).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 24
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, momentum)}


def test_the_head_starts_near_zero():
    head = model_of(classes=1000).fc
    assert head.weight.mean().item() == pytest.approx(0, abs=1e-4)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not head.bias.any()


@pytest.mark.parametrize("switches", [{}, OFF], ids=["on", "off"])
def test_convolutions_start_as_tensorflows_variance_scaling(switches):
    torch.manual_seed(0)
    convolutions = [m for m in resnet(0.5, **switches).modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions:
        weight, fan_in = convolution.weight, convolution.weight[0].numel()
        if weight.numel() > 2000:
            assert weight.std().item() == pytest.approx(math.sqrt(1 / fan_in), rel=0.06)
            assert weight.mean().item() == pytest.approx(0, abs=0.1 * math.sqrt(1 / fan_in))
        # Truncated at two standard deviations of a normal that is wider by as much as truncating takes away.
        assert weight.abs().max().item() <= 2 / 0.8796 * math.sqrt(1 / fan_in)
        assert convolution.bias is None or not convolution.bias.any()


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_with_its_switches_off_it_is_the_resnet_of_2015(depth):
    with torch.device("meta"):
        theirs = timm.create_model(f"resnet{depth}")
    ours = on_meta("resnet_rs", shape(1.0, depth, **OFF), 224)
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in theirs.state_dict().items()
    }
    assert [(m.stride, m.padding) for m in ours.modules() if isinstance(m, nn.Conv2d)] == [
        (m.stride, m.padding) for m in theirs.modules() if isinstance(m, nn.Conv2d)
    ]


@pytest.mark.parametrize(
    ("switch", "theirs"), [({"se": False, "stem_pool": "max"}, "resnet50d"), ({"se": False}, None), ({}, "resnetrs50")]
)
def test_each_switch_changes_its_own_part(switch, theirs):
    ours = on_meta("resnet_rs", shape(1.0, 50, **switch), 224)
    assert bool([m for m in ours.modules() if isinstance(m, SEModule)]) == switch.get("se", True)
    assert isinstance(ours.maxpool, nn.MaxPool2d) == ("stem_pool" in switch)
    if theirs:
        with torch.device("meta"):
            model = timm.create_model(theirs)
        assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


@pytest.mark.parametrize("width", [0.25, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("stem_pool", ["conv", "max"])
def test_the_plain_stem_scales_too_and_strides_in_its_shortcut(width, stem_pool):
    model = on_meta("resnet_rs", shape(width, resnet_d=False, stem_pool=stem_pool), 64)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((7, 7), (2, 2), (3, 3))
    assert model.conv1.out_channels == model.layer1[0].conv1.in_channels == 2 * int(32 * width)
    assert [stage[0].downsample[0].stride for stage in stages(model)] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert {stage[0].downsample[0].kernel_size for stage in stages(model)} == {(1, 1)}
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)


def test_all_switches_train():
    for switches in ({name: OFF[name] for name in names} for names in (["se"], ["resnet_d"], ["stem_pool"], OFF)):
        torch.manual_seed(0)
        model = resnet(0.03125, recipe=PLAIN, **switches).train()
        model(torch.rand(4, 3, 32, 32)).square().sum().backward()
        # Behind a gamma of zero no gradient comes through; the rest gets one.
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert bool(model.fc.weight.grad.any())


def test_stochastic_depth_grows_with_the_stage_and_is_the_same_within_it():
    model = model_of(depth=50, stochastic_depth=0.2)
    for number, stage in enumerate(stages(model), start=2):
        assert [block.drop_path.drop_prob for block in stage] == pytest.approx([0.2 * number / 5] * len(stage))


def test_stochastic_depth_drops_whole_residuals_of_single_images_in_training_only():
    model = resnet(recipe=dataclasses.replace(PLAIN, stochastic_depth=0.5))
    block = model.layer4[1]
    block.bn3.weight.data.fill_(1.0)
    for norm in (block.bn1, block.bn2, block.bn3):
        norm.eval()  # so that images do not see each other
    torch.manual_seed(0)
    images = torch.rand(400, block.conv1.in_channels, 1, 1)
    with torch.no_grad():
        passed = (block(images) == images).flatten(1).all(1)
        block.eval()
        passed_in_evaluation = (block(images) == images).flatten(1).all(1)
    assert passed.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not passed_in_evaluation.any()


def test_without_a_rate_nothing_drops():
    assert {type(block.drop_path) for block in blocks(model_of())} <= {nn.Identity, type(None)}


def test_dropout_is_before_the_head_and_in_training_only():
    def twice(rate, training):
        model = resnet(recipe=dataclasses.replace(PLAIN, dropout=rate)).eval()
        model.training = training  # the norms stay in evaluation, so dropout alone can make a difference
        torch.manual_seed(0)
        images = torch.rand(4, 3, 16, 16)
        with torch.no_grad():
            return model(images), model(images)

    assert not torch.equal(*twice(0.5, training=True))
    assert torch.equal(*twice(0.5, training=False))
    assert torch.equal(*twice(0.0, training=True))


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_every_depth_computes_at_the_smallest_resolutions(depth):
    model = resnet(0.03125, depth, 7).train()
    for resolution in (16, 32):
        with torch.no_grad():
            logits = model(torch.rand(2, 3, resolution, resolution))
        assert logits.shape == (2, 7)
        assert bool(logits.isfinite().all())


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown family 'vit'"):
        build_model("vit", {}, 16, 10)


@pytest.mark.parametrize(("variant", "dropped"), [("b0", 15), ("b3", 25)])
def test_efficientnets_norms_padding_and_stochastic_depth_are_the_authors(variant, dropped):
    recipe = dataclasses.replace(PLAIN, stochastic_depth=0.2, dropout=0.3, ema_decay=0.9999)
    model = on_meta("efficientnet", {"variant": variant}, 224, recipe=recipe)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    # The authors keep a running average beside the average over weights, unlike in ResNet-RS.
    assert {(norm.eps, round(norm.momentum, 6)) for norm in norms} == {(1e-3, 0.01)}
    assert type(model.conv_stem).__name__ == "Conv2dSame"
    assert model.drop_rate == 0.3
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    total = sum(len(stage) for stage in model.blocks)
    assert (len(rates), total) == (dropped, dropped + 1)
    assert rates == pytest.approx([0.2 * block / total for block in range(1, total)])


@pytest.mark.parametrize("resolution", [16, 33, 192])
def test_efficientnet_runs_at_any_resolution(resolution):
    model = on_meta("efficientnet", {"variant": "b1"}, resolution)
    assert model(torch.empty(2, 3, resolution, resolution, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("architecture", ["deit_small_patch16_224", "regnety_040", "resnet50"])
@pytest.mark.parametrize("resolution", [160, 224])
def test_timms_architectures_build_at_the_papers_resolutions(architecture, resolution):
    recipe = dataclasses.replace(PLAIN, stochastic_depth=0.05, dropout=0.1)
    check_cell(find_family(f"timm:{architecture}"), {}, resolution)
    model = on_meta(f"timm:{architecture}", {}, resolution, recipe=recipe).train()
    assert model(torch.empty(2, 3, resolution, resolution, device="meta")).shape == (2, 1000)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(0.05)
    assert rates == sorted(rates)


@pytest.mark.parametrize("architecture", ["resnet18", "deit_tiny_patch16_224"])
def test_timms_architectures_train_here_without_weights_from_elsewhere(architecture):
    torch.manual_seed(0)
    model = build_model(f"timm:{architecture}", {}, 32, 10, PLAIN).train()
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("architecture", "resolution", "said"),
    [
        ("resnet51", 64, "family 'timm:resnet51': timm has no architecture 'resnet51'; close to it: resnet"),
        ("efficientformer_l1", 160, "resolution 160 does not suit timm's efficientformer_l1: "),
        ("vgg11", 8, "resolution 8 does not suit timm's vgg11: "),
        ("gemma4_vit_167m_enc", 768, "family 'timm:gemma4_vit_167m_enc' is no classifier"),
    ],
)
def test_what_timm_cannot_build_is_refused_in_one_line(architecture, resolution, said):
    with pytest.raises(ValueError, match=r"^" + said) as refused:
        check_cell(find_family(f"timm:{architecture}"), {}, resolution)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("architecture", ["deit_small_patch16_224", "resnet50", "regnety_040"])
def test_a_model_trained_at_160_can_be_tested_at_224(architecture):
    model = on_meta(f"timm:{architecture}", {}, 160, recipe=dataclasses.replace(PLAIN, test_resolution=224))
    for side in (160, 224):
        assert model.eval()(torch.empty(2, 3, side, side, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("architecture", ["gmlp_s16_224", "efficientformer_l1"])
def test_a_test_resolution_is_refused_where_the_architecture_reads_one_size(architecture):
    with pytest.raises(ValueError, match=rf"^test_resolution 256 does not suit timm's {architecture}: "):
        on_meta(f"timm:{architecture}", {}, 224, recipe=dataclasses.replace(PLAIN, test_resolution=256))


def test_stochastic_depth_is_refused_where_the_architecture_has_none():
    with pytest.raises(ValueError, match=r"^stochastic_depth 0.1: timm's vgg11 has none; right would be 0"):
        on_meta("timm:vgg11", {}, 224, recipe=dataclasses.replace(PLAIN, stochastic_depth=0.1))


class Point(nn.Module):
    """One weight, one running statistic and one whole number, as a model with BatchNorm has them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def set_to(self, value):
        with torch.no_grad():
            self.weight.fill_(value)
            self.running_mean.fill_(10 * value)
            self.num_batches_tracked.fill_(int(value))


@pytest.mark.parametrize("decay", [0.25, 0.9999])
def test_the_averages_decay_follows_the_ramp_up_to_its_limit(decay):
    model = Point()
    model.set_to(1.0)
    average = WeightAverage(model, decay)
    expected = 1.0
    for step, value in enumerate([2.0, 3.0, 5.0, 8.0, 13.0], start=1):
        model.set_to(value)
        average.update()
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
        assert [tensor.item() for tensor in average.tensors] == pytest.approx([expected, 10 * expected])
    assert model.weight.item() == 13.0


def test_swapping_gives_the_model_the_average_and_swapping_again_restores_both():
    model = Point()
    average = WeightAverage(model, 0.9)
    model.set_to(4.0)
    average.update()
    mean, mean_statistic = (tensor.clone() for tensor in average.tensors)
    average.swap()
    assert (model.weight, model.running_mean) == (mean, mean_statistic)
    assert model.weight.item() != 4.0
    assert model.num_batches_tracked.item() == 4
    average.swap()
    assert (model.weight.item(), model.running_mean.item()) == (4.0, 40.0)
    assert average.tensors == [mean, mean_statistic]


def test_a_restored_average_goes_on_as_the_first_would_have():
    first, second = Point(), Point()
    averages = [WeightAverage(first, 0.9), WeightAverage(second, 0.9)]
    for value in (1.0, 2.0, 3.0):
        first.set_to(value)
        averages[0].update()
    averages[1].load_state_dict(averages[0].state_dict())
    for model, average in zip((first, second), averages, strict=True):
        model.set_to(7.0)
        average.update()
    assert averages[0].steps == averages[1].steps == 4
    assert averages[0].tensors == averages[1].tensors


@pytest.mark.parametrize("state", [{"steps": "1", "mean": []}, {"steps": 1, "mean": None}])
def test_what_is_not_the_state_of_an_average_is_refused(state):
    with pytest.raises(TypeError, match="not the state of a weight average"):
        WeightAverage(Point(), 0.9).load_state_dict(state)


def test_more_depth_or_width_is_more_parameters():
    def params(width, depth):
        return count_costs("resnet_rs", shape(width, depth), 16, 10).params

    by_depth, by_width = [params(0.125, depth) for depth in sorted(BLOCKS)], [params(w / 8, 26) for w in range(1, 9)]
    assert all(a < b for counts in (by_depth, by_width) for a, b in pairwise(counts))
