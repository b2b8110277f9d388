"""How many bytes of tensors are alive while code runs on the meta device, where nothing is allocated."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

BLOCK = 512  # bytes; CUDA's allocator rounds every tensor up to this
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What torch's autocast does on CUDA to the functions that timm's models call; the meta device has no autocast.
_TO_LOWER = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm"}
    | {"mm", "einsum", "prelu", "scaled_dot_product_attention"}
)
_TO_FLOAT32 = frozenset(
    {"layer_norm", "group_norm", "softmax", "log_softmax", "cross_entropy", "norm", "exp", "log", "pow", "rsqrt"}
    | {"sum", "prod", "cumsum", "softplus", "binary_cross_entropy_with_logits"}
)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make, autograd's saved ones included, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave tensors that were there before out of the count."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


class MetaAutocast(TorchFunctionMode):
    """Autocast for the meta device, and attention as the fused kernels save it: without the matrix of weights."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self._lower = DTYPES[precision]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function with its floating-point tensors in the precision that it computes in."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if self._lower is not torch.float32:
            wanted = self._lower if name in _TO_LOWER else torch.float32 if name in _TO_FLOAT32 else None
            if wanted is not None:
                args, kwargs = tree_map_only(torch.Tensor, lambda tensor: _cast(tensor, wanted), (args, kwargs))
        if name == "scaled_dot_product_attention":
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> torch.Tensor:
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended: torch.Tensor = fused(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return attended


def peak_of_pass(model: nn.Module, shape: tuple[int, ...], precision: str, accumulates: bool) -> int:
    """Peak bytes of one forward and backward pass beyond the model itself: images, activations and gradients.

    Args:
        model: on the meta device, in training mode.
        shape: of a micro-batch, (N, 3, H, W).
        precision: float32, bfloat16 or float16 of autocast.
        accumulates: whether gradients of an earlier micro-batch are there already.
    """
    live = LiveBytes()
    live.hold((*model.parameters(), *model.buffers()))
    with live:
        if accumulates:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
        with MetaAutocast(precision):
            logits = model(torch.empty(shape, device="meta"))
        targets = torch.empty(shape[0], dtype=torch.long, device="meta")
        nn.functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
    return live.peak
