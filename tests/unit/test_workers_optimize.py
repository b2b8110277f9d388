import copy
import dataclasses
import io
import math
from itertools import pairwise

import pytest
import timm
import torch
from timm.layers import LayerNorm2d
from timm.optim import Lamb, param_groups_weight_decay
from torch import nn

from workers.model import build_model
from workers.optimize import learning_rate, make_optimizer, parameter_groups
from workers.recipe import Cell, Recipe
from workers.recipes import RECIPES, resolve

PLAIN = Recipe("mine", batch_size=32, bn_batch=32, learning_rate=0.4, warmup_epochs=0.0, weight_decay=0.01)


def recipe_of(**values):
    return dataclasses.replace(PLAIN, **values)


# --- learning rate --------------------------------------------------------------------------------------------------


def rate(step, steps=100, warmup=10.0, **values):
    """Steps as epochs of one step each."""
    return learning_rate(recipe_of(warmup_epochs=warmup, **values), step, 1, steps)


def test_the_rate_warms_up_linearly_to_its_peak_and_falls_as_a_cosine():
    assert rate(0) == pytest.approx(0.04)
    assert rate(4) == pytest.approx(0.2)
    assert rate(9) == rate(10) == 0.4
    assert rate(55) == pytest.approx(0.2)
    assert rate(32) == pytest.approx(0.2 * (1 + math.cos(math.pi * 22 / 90)))
    assert rate(100) == 0.0


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_without_warm_up_the_first_step_has_the_peak(schedule):
    assert rate(0, warmup=0.0, schedule=schedule) == 0.4


@pytest.mark.parametrize("warmup", [0, 1, 3.3, 9.9, 10, 50.5])
@pytest.mark.parametrize("steps", [100, 101, 1000])
def test_the_cosine_rises_then_falls_reaches_its_peak_and_ends_near_0(steps, warmup):
    rates = [rate(step, steps, warmup) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == 0.4
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert 0 < rates[-1] < 0.4 * 3e-3
    assert abs(top - warmup) <= 1


def test_a_run_shorter_than_its_warm_up_only_rises():
    rates = [rate(step, 10, 50) for step in range(10)]
    assert rates == pytest.approx([0.4 * (step + 1) / 50 for step in range(10)])


def test_a_trials_schedule_counts_its_warm_up_in_epochs():
    rates = [learning_rate(recipe_of(warmup_epochs=2.0), step, 4, 20) for step in (0, 7, 8, 79)]
    assert rates == pytest.approx([0.05, 0.4, 0.4, 0.2 * (1 + math.cos(math.pi * 71 / 72))])


def test_the_step_schedule_of_90_epochs_falls_after_30_60_and_80():
    recipe = resolve("resnet_2015", Cell(224, 90, 1.0, 50), {})
    by_epoch = {epoch: learning_rate(recipe, epoch * 1251, 1251, 90) for epoch in (5, 29, 30, 59, 60, 79, 80, 89)}
    wanted = {5: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 79: 0.01, 80: 0.001, 89: 0.001}
    assert by_epoch == pytest.approx({epoch: 0.4 * share for epoch, share in wanted.items()}, rel=1e-12)
    assert learning_rate(recipe, 30 * 1251 - 1, 1251, 90) == 0.4
    assert learning_rate(recipe, 0, 1251, 90) == pytest.approx(0.4 / (5 * 1251))


@pytest.mark.parametrize("epochs", [9, 18, 45, 90, 350])
def test_the_step_schedule_keeps_its_shares_in_other_budgets(epochs):
    rates = [rate(step, 10 * epochs, 0.0, schedule="step") for step in range(10 * epochs)]
    falls = [step for step, (a, b) in enumerate(pairwise(rates), start=1) if b < a]
    assert falls == [math.ceil(10 * epochs * share / 9) for share in (3, 6, 8)]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 3, 10, 90])
def test_every_recipe_reaches_its_peak_and_ends_lower_in_any_budget(name, epochs):
    recipe = resolve(name, Cell(224, epochs, 1.0, 50), {})
    rates = [learning_rate(recipe, step, 100, epochs) for step in range(100 * epochs)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=1e-3)
    assert min(rates) > 0
    assert rates[-1] < 0.011 * max(rates)


# --- parameter groups -----------------------------------------------------------------------------------------------


def model_of(name):
    if name == "resnet_rs":
        return build_model("resnet_rs", {"width": 0.125, "depth": 26}, 32, 10)
    with torch.device("meta"):
        return timm.create_model(name, num_classes=10)


MODELS = ["resnet_rs", "efficientnet_b0", "deit_small_patch16_224", "convnext_atto"]


def split(model, recipe):
    """Names with and without decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {0.0: set(), recipe.weight_decay: set()}
    for group in parameter_groups(model, recipe):
        found[group["weight_decay"]] |= {names[id(parameter)] for parameter in group["params"]}
    return found[recipe.weight_decay], found[0.0]


@pytest.mark.parametrize("decay_biases", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_one_group(name, decay_biases):
    model = model_of(name)
    listed = [
        id(parameter)
        for group in parameter_groups(model, recipe_of(decay_biases=decay_biases))
        for parameter in group["params"]
    ]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_without_biases_the_groups_are_timms(name):
    model = model_of(name)
    named = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    free, decayed = param_groups_weight_decay(model, 0.01, no_weight_decay_list=named)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = [{names[id(parameter)] for parameter in group["params"]} for group in (decayed, free)]
    assert list(split(model, recipe_of())) == wanted


@pytest.mark.parametrize("name", MODELS)
def test_with_biases_those_of_linear_layers_and_convolutions_join_and_no_norms(name):
    model = model_of(name)
    decayed, _ = split(model, recipe_of())
    with_biases, _ = split(model, recipe_of(decay_biases=True))
    joined = {
        f"{path}.bias"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None
    }
    assert joined
    assert with_biases == decayed | joined


def test_resnet_rs_decays_all_but_batch_norm():
    """As its released code: the biases of squeeze-and-excitation and of the head decay too."""
    model = model_of("resnet_rs")
    _, free = split(model, resolve("resnet_rs", Cell(32, 350, 0.125, 26), {}))
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.rpartition(".")[0] for name in free} == norms


def test_a_vision_transformers_token_and_positions_are_spared():
    _, free = split(model_of("deit_small_patch16_224"), recipe_of(decay_biases=True))
    assert {"cls_token", "pos_embed"} <= free


class Odd(nn.Module):
    """Norms that are not BatchNorm, a layer scale, a norm of two dimensions, one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))
        self.q_bias = nn.Parameter(torch.zeros(4))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4), LayerNorm2d(4), nn.RMSNorm(4), nn.LayerNorm((2, 2))])


def test_any_norm_and_any_lone_scale_is_spared():
    decayed, free = split(Odd(), recipe_of(decay_biases=True))
    assert decayed == {"first.weight", "first.bias"}
    assert {"gamma", "q_bias", "norms.0.bias", "norms.3.weight"} <= free


def test_a_group_that_would_be_empty_is_left_out():
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), recipe_of())) == 1


# --- optimiser ------------------------------------------------------------------------------------------------------


def steps(model, optimizer, count, first=0):
    """Train on data that follows from the step."""
    for step in range(first, first + count):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(8, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [parameter.detach().clone() for parameter in model.parameters()]


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))


def test_sgd_is_the_recipes():
    recipe = recipe_of(momentum=0.8, nesterov=False, learning_rate=0.3)
    for group in make_optimizer(nn.Linear(2, 2), recipe).param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"], group["dampening"]) == (0.3, 0.8, False, 0)
        assert group["fused"]


def test_a_step_of_sgd_is_torchs_plain_one_fused_or_not():
    reference = small_model()
    weights = [reference[0].weight, reference[2].weight]
    others = [parameter for parameter in reference.parameters() if parameter.ndim == 1]
    plain = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=0.4, momentum=0.9, nesterov=True, foreach=False,
    )  # fmt: skip
    wanted = steps(reference, plain, 3)
    for fused in (True, False):
        model = small_model()
        torch.testing.assert_close(steps(model, make_optimizer(model, PLAIN, fused), 3), wanted)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_of_lamb_is_timms_with_its_defaults(fused):
    recipe = recipe_of(optimizer="lamb", learning_rate=0.005)
    reference, model = small_model(), small_model()
    timms = Lamb(param_groups_weight_decay(reference, 0.01)[::-1], lr=0.005)
    optimizer = make_optimizer(model, recipe, fused)
    assert optimizer.defaults == timms.defaults
    assert optimizer.defaults["max_grad_norm"] == 1.0
    assert all(map(torch.equal, steps(model, optimizer, 4), steps(reference, timms, 4)))


@pytest.mark.parametrize("name", ["sgd", "lamb"])
def test_state_that_was_saved_goes_on_to_the_same_weights(name):
    recipe = recipe_of(optimizer=name)
    model = small_model()
    optimizer = make_optimizer(model, recipe)
    steps(model, optimizer, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    wanted = steps(model, optimizer, 3, first=3)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = small_model()
    other.load_state_dict(saved["model"])
    resumed = make_optimizer(other, recipe)
    resumed.load_state_dict(copy.deepcopy(saved["optimizer"]))
    assert all(map(torch.equal, steps(other, resumed, 3, first=3), wanted))


@pytest.mark.parametrize("name", ["sgd", "lamb"])
def test_an_optimiser_never_reads_back_from_the_device(name):
    """On the meta device there is nothing to read, and a read raises."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    optimizer = make_optimizer(model, recipe_of(optimizer=name), fused=False)
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        model(torch.empty(8, 6, device="meta")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
