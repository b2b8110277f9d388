"""What a result was made with, told without importing torch."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import workers

PACKAGES = ("torch", "torchvision", "timm", "torch_xla")  # the last one only where it is installed


def versions() -> str:
    """Versions of everything that a result depends on."""
    parts = [f"sweep {workers.__version__}"]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join([*parts, f"python {platform.python_version()}"])


def cpu_model() -> str:
    """Name of the processor, as the machine itself calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
