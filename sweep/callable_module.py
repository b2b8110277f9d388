"""A module that is called like its function: `sweep.pareto(table)` beside `from sweep.pareto import pareto`."""

import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """Hands a call on to the function of its own name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function says."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Make a loaded module callable."""
    sys.modules[name].__class__ = CallableModule
