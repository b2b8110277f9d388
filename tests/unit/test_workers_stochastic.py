import pytest
import torch
from timm.layers import DropPath
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from workers.stochastic import GroupDropout, GroupDropPath, Noise, batch_norms, group_batch_norm, seed_of

CPU = torch.device("cpu")
GROUP = 4


class Small(nn.Module):
    """Both kinds of random layer behind one another."""

    def __init__(self, path=0.5, dropout=0.5):
        super().__init__()
        self.first, self.second, self.drop = DropPath(path), DropPath(path / 2), nn.Dropout(dropout)

    def forward(self, features):
        return self.second(self.first(features)), self.drop(features)


def drawn(splits, step=0, seed=0, **rates):
    """What a batch of ones becomes, split into micro-batches of so many groups."""
    model = Small(**rates).train()
    noise, outputs, group = Noise(model, seed, GROUP), [], 0
    for groups in splits:
        noise.begin(step, group, groups, CPU)
        outputs.append(model(torch.ones(groups * GROUP, 3, 2)))
        group += groups
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)]


@pytest.mark.parametrize("splits", [(1, 1, 1, 1), (2, 2), (1, 3), (3, 1)])
def test_masks_do_not_depend_on_how_a_batch_is_split(splits):
    for split, whole in zip(drawn(splits), drawn((4,)), strict=True):
        assert torch.equal(split, whole)


def test_masks_differ_between_groups_steps_and_seeds():
    path, dropout = drawn((4,))
    for other in (drawn((4,), step=1), drawn((4,), seed=1)):
        assert not torch.equal(path, other[0])
        assert not torch.equal(dropout, other[1])
    assert len({tuple(part.flatten().tolist()) for part in dropout.split(GROUP)}) == 4


def test_a_share_of_the_rate_is_dropped_and_the_rest_makes_up_for_it():
    path, dropout = drawn((500,), path=0.2, dropout=0.25)
    assert dropout.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropout.mean() == pytest.approx(1.0, abs=0.02)
    samples = path.flatten(1)
    assert all(len(sample.unique()) == 1 for sample in samples[:50])  # a sample is dropped whole
    assert (samples[:, 0] == 0).float().mean() == pytest.approx(1 - 0.8 * 0.9, abs=0.04)
    assert path.mean() == pytest.approx(1.0, abs=0.05)


def test_evaluation_drops_nothing():
    model = Small().eval()
    Noise(model, 0, GROUP)
    assert all(torch.equal(output, torch.ones(GROUP, 3, 2)) for output in model(torch.ones(GROUP, 3, 2)))


def test_drawing_again_after_any_other_draws_gives_the_same():
    first = drawn((4,))
    torch.rand(1000)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn((4,)), strict=True))


def small_resnet(**options):
    return ResNet(Bottleneck, (1, 1, 1, 1), num_classes=5, channels=(4, 4, 4, 8), stem_width=4, **options)


def test_the_functional_dropout_before_a_classifier_is_replaced_and_names_in_the_state_stay():
    plain, model = small_resnet(), small_resnet(drop_rate=0.5)
    noise = Noise(model, 0, GROUP)
    assert model.drop_rate == 0
    assert list(model.state_dict()) == list(plain.state_dict())
    features = torch.ones(GROUP, 32)
    model.fc.train()
    noise.begin(0, 0, 1, CPU)
    first = model.fc(features)
    noise.begin(0, 0, 1, CPU)
    assert torch.equal(first, model.fc(features))
    noise.begin(1, 0, 1, CPU)
    assert not torch.equal(first, model.fc(features))
    model.fc.eval()
    assert torch.equal(model.fc(features)[0], model.fc(features)[1])


def test_stochastic_layers_of_a_timm_model_are_all_replaced():
    model = small_resnet(drop_path_rate=0.3, drop_rate=0.5)
    Noise(model, 0, GROUP)
    kinds = [type(module) for module in model.modules()]
    assert DropPath not in kinds
    assert nn.Dropout not in kinds
    assert kinds.count(GroupDropPath) == 3  # timm's first block has rate 0
    assert GroupDropout not in kinds  # the head's is a hook


def normed(split, groups=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(4)).double()
    group_batch_norm(model, GROUP)
    images = torch.randn(groups * GROUP, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = [model(part) for part in images.split(split * GROUP)]
    torch.cat(outputs).square().mean().backward()
    return model, torch.cat(outputs)


@pytest.mark.parametrize("split", [1, 2])
def test_batch_norm_over_groups_is_the_same_however_a_batch_is_split(split):
    model, output = normed(split)
    whole, expected = normed(3)
    assert torch.equal(output, expected)
    for (name, value), other in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    for parameter, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-12, atol=1e-12)


def test_batch_norm_over_groups_differs_from_that_over_the_batch_and_keeps_its_names():
    model, output = normed(3)
    reference = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    assert list(model.state_dict()) == list(reference.state_dict())
    assert all(int(layer.num_batches_tracked) == 3 for layer in batch_norms(model))
    assert output[:GROUP].detach().mean(dim=(0, 2, 3)).abs().max() < 1e-9


def test_a_seed_depends_on_every_part_of_its_key():
    keys = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)
