"""The device behind one small interface: where to run, in which precision, how to wait and what it is called."""

from contextlib import AbstractContextManager, nullcontext

import torch

from workers.contract import InvalidConfigError
from workers.environment import cpu_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Device:
    """A device of one kind ("cpu" or "cuda") computing in one precision.

    Raises:
        InvalidConfigError: the kind or precision is unknown, or this machine has no such device.
    """

    def __init__(self, kind: str, precision: str, threads: int | None) -> None:
        if kind not in ("cpu", "cuda"):
            raise InvalidConfigError(f"device {kind!r} is unknown; cpu or cuda")
        if kind == "cuda" and not torch.cuda.is_available():
            raise InvalidConfigError("device cuda: this machine has no CUDA device; use `resources: {cpu: 1}`")
        if precision not in DTYPES:
            raise InvalidConfigError(f"precision {precision!r} is unknown; {', '.join(DTYPES)}")
        self.kind, self.precision = kind, precision
        self.torch = torch.device(kind)
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def name(self) -> str:
        """Model of the processor, as the machine itself calls it."""
        return torch.cuda.get_device_name() if self.kind == "cuda" else cpu_model()

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which matrix products run in the device's precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.kind, DTYPES[self.precision])

    def wait(self) -> None:
        """Return when all work sent to the device is done."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
