"""Randomness inside a model, and BatchNorm, by groups: neither depends on how a batch is split.

Every number drawn in a training step follows from (seed, step, BatchNorm group). So a batch gives the same masks in one
micro-batch or in many, on one device or on several, and a step that is done again after a restart draws them again.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def seed_of(*key: int) -> int:
    """63 bits that depend on every part of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8]) >> 1


class GroupDropPath(nn.Module):
    """Stochastic depth per sample; its mask is drawn before the forward pass: a compiled graph only reads it."""

    mask: torch.Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("mask", torch.ones(1), persistent=False)

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Branch (N, ...) with dropped samples zeroed and the others scaled by 1 / (1 - rate)."""
        if not self.training:
            return branch
        return branch * self.mask.view(-1, *[1] * (branch.ndim - 1)).to(branch.dtype)


class GroupDropout(nn.Module):
    """Dropout whose mask follows from the noise of each group."""

    def __init__(self, rate: float, noise: "Noise") -> None:
        super().__init__()
        self.rate, self._draw = rate, noise.dropout_mask

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, ...) with a share of `rate` zeroed and the others scaled by 1 / (1 - rate)."""
        if not self.training:
            return features
        masked: torch.Tensor = features * self._draw(features, self.rate)
        return masked


class Noise:
    """The random masks of one model.

    Args:
        model: its dropout and stochastic depth are replaced by ones that read from here.
        seed: of the trial.
        bn_batch: images of a group.
    """

    def __init__(self, model: nn.Module, seed: int, bn_batch: int) -> None:
        self._seed, self._bn_batch = seed, bn_batch
        self._generators: list[torch.Generator] = []
        self._paths: list[GroupDropPath] = []
        dropouts = self._replace_modules(model)
        self._replace_head_dropout(model, dropouts)

    def begin(self, step: int, first_group: int, groups: int, device: torch.device) -> None:
        """Draw for a micro-batch that holds `groups` groups of the batch, from `first_group` on."""
        seeds = [seed_of(self._seed, step, group) for group in range(first_group, first_group + groups)]
        _seed_globally(seeds[0], device)  # for a plug-in's own draws
        self._generators = [_generator(seed, device) for seed in seeds]
        if self._paths:
            self._draw_paths(seeds, device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def dropout_mask(self, features: torch.Tensor, rate: float) -> torch.Tensor:
        """A mask for features (N, ...) of the micro-batch that `begin` announced; each call draws anew."""
        shape = (len(features) // len(self._generators), *features.shape[1:])
        draws = [torch.rand(shape, generator=g, device=g.device) for g in self._generators]
        kept = torch.cat(draws).to(features.device) >= rate
        return kept.to(features.dtype) / (1 - rate)

    def _draw_paths(self, seeds: list[int], device: torch.device) -> None:
        """One draw per layer and image: on the host, since it is small and has to be the same on every device."""
        shape = (len(self._paths), self._bn_batch)
        draws = [torch.rand(shape, generator=_generator(seed, torch.device("cpu"))) for seed in seeds]
        drawn = torch.cat(draws, dim=1)
        rates = torch.tensor([path.rate for path in self._paths]).unsqueeze(1)
        masks = ((drawn >= rates) / (1 - rates)).to(device, non_blocking=True)
        for path, mask in zip(self._paths, masks, strict=True):
            if path.mask.shape == mask.shape:
                path.mask.copy_(mask)
            else:
                path.mask = mask.clone()

    def _replace_modules(self, model: nn.Module) -> list[float]:
        """Replace stochastic modules; the rates of the dropouts among them."""
        dropouts = []
        for name, module in list(model.named_modules()):
            if isinstance(module, DropPath) and module.drop_prob:
                path = GroupDropPath(float(module.drop_prob))
                self._paths.append(path)
                model.set_submodule(name, path.train(module.training))
            elif isinstance(module, nn.Dropout) and module.p:
                dropouts.append(module.p)
                model.set_submodule(name, GroupDropout(module.p, self).train(module.training))
        return dropouts

    def _replace_head_dropout(self, model: nn.Module, dropouts: list[float]) -> None:
        """Some of timm's models call the functional dropout right before the classifier: a hook takes its place."""
        rate = getattr(model, "drop_rate", 0.0)
        find_classifier: Any = getattr(model, "get_classifier", lambda: None)
        classifier = find_classifier()
        if not rate or rate in dropouts or not isinstance(classifier, nn.Linear):
            return
        model.__dict__["drop_rate"] = 0.0
        dropout = GroupDropout(rate, self)

        def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (dropout.train(module.training)(inputs[0]), *inputs[1:])

        classifier.register_forward_pre_hook(before)


def _seed_globally(seed: int, device: torch.device) -> None:
    """As torch.manual_seed, which takes a millisecond where CUDA is not in use: it notes a stack trace for later."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator on the device, or on the host for a device that has none of its own."""
    kind = device if device.type in ("cpu", "cuda") else "cpu"
    return torch.Generator(device=kind).manual_seed(seed)


def batch_norms(model: nn.Module) -> Iterator[_BatchNorm]:
    """The model's BatchNorm layers, of any dimension and subclass."""
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def group_batch_norm(model: nn.Module, bn_batch: int) -> None:
    """Let every BatchNorm take its statistics over groups of `bn_batch` images, one group after the other.

    The layer's `forward` is wrapped, not the layer, so that the names in its state stay.
    """
    for module in batch_norms(model):
        module.forward = partial(_by_group, module, module.forward, bn_batch)  # type: ignore[method-assign]


def _by_group(
    module: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], bn_batch: int, features: torch.Tensor
) -> torch.Tensor:
    if not module.training or len(features) <= bn_batch:
        return forward(features)
    return torch.cat([forward(part) for part in torch.split(features, bn_batch)])
