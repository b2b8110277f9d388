"""Scaling sweeps of image classifiers: declare a grid, run it for its full length, read what it says."""

from workers import __version__

__all__ = ["__version__"]
