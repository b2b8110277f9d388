"""What a result was made with, told without importing torch."""

import platform
from importlib.metadata import version
from pathlib import Path

import workers

PACKAGES = ("torch", "torchvision", "timm")


def versions() -> str:
    """Versions of everything that a result depends on."""
    parts = [f"sweep {workers.__version__}", *(f"{name} {version(name)}" for name in PACKAGES)]
    return ", ".join([*parts, f"python {platform.python_version()}"])


def cpu_model() -> str:
    """Name of the processor, as the machine itself calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
