"""What takes more than one key of a space to see: names, duplicates, models, recipes and batches that cannot be."""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sweep.data_checks import batch_problem
from sweep.errors import SpaceError
from sweep.layout import NOT_SWEEPS
from sweep.yaml_file import Loc, YamlFile, one_line
from workers.families import Family, check_cell, check_precision, check_recipe, find_family, resolve_arguments
from workers.recipe import Cell, Recipe
from workers.recipes import resolve

if TYPE_CHECKING:
    from sweep.space import CellSpec, SweepSpec

MAX_TRIALS = 1_000_000  # more is a slip of the pen: each is a full-length training run
_OF_EVERY_FAMILY = ("resolution", "epochs", "lr_scale")


def check_space(file: YamlFile, spec: "SweepSpec") -> None:
    """Refuse a space that could not be run as it is.

    Raises:
        SpaceError: one line per problem, each with its place in the file.
    """
    if spec.sweep in NOT_SWEEPS:
        raise SpaceError(f"{file.place(('sweep',))}: {spec.sweep!r} is a folder of sweeps; choose another name")
    if not spec.axes and not spec.cells:
        raise SpaceError(f"{file.place(())}: axes: this key is missing (or `cells`, a list of cells)")
    lists = spec.axes.lists if spec.axes else {}
    if math.prod(len(values) for values in lists.values()) * len(spec.seeds) > MAX_TRIALS:
        raise SpaceError(f"{file.place(('axes',))}: the grid has more than {MAX_TRIALS} trials")
    for name, values in lists.items():
        _refuse_twice(file, ("axes", name), values)
    _refuse_twice(file, ("seeds",), spec.seeds)
    family = _family(file, spec)
    _refuse(_name_problems(file, spec, family))
    shapes = _Shapes(family)
    _refuse(_cell_problem(file, spec, shapes, cell) for cell in spec.all_cells())
    _refuse_repeated_cells(file, spec, family)


def _refuse(problems: Iterable[str | None]) -> None:
    """One error for all problems, each once."""
    found = dict.fromkeys(problem for problem in problems if problem is not None)
    if found:
        raise SpaceError("\n".join(found))


def _refuse_twice(file: YamlFile, loc: Loc, values: Sequence[Any]) -> None:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            text = one_line(str(value))
            raise SpaceError(f"{file.place((*loc, index))}: {text} stands twice; each cell may be given once")
        seen.add(value)


def _family(file: YamlFile, spec: "SweepSpec") -> Family:
    try:
        return find_family(spec.family, tuple(spec.plugins))
    except ValueError as error:
        raise SpaceError(f"{file.place(('family',))}: {one_line(str(error))}") from None


def _name_problems(file: YamlFile, spec: "SweepSpec", family: Family) -> list[str]:
    """Arguments that the family has not got, that are given twice, and that are missing."""
    known = (*family.arguments, *_OF_EVERY_FAMILY)
    has = f"{family.name} has {', '.join(known)}"
    problems = [
        f"{file.place(('model', name))}: unknown argument; {family.name} has {', '.join(family.arguments) or 'none'}"
        for name in spec.model
        if name not in family.arguments
    ]
    if "lr_scale" in spec.recipe.overrides:
        place = file.place(("recipe", "lr_scale"))
        problems.append(f"{place}: is an axis, `axes: {{lr_scale: [0.5, 1, 2]}}`; another rate is a `learning_rate`")
    for loc, names in _named(spec):
        problems += [f"{file.place((*loc, name))}: unknown axis; {has}" for name in names if name not in known]
        if loc[0] == "exclude":
            continue
        problems += [
            f"{file.place((*loc, name))}: {name} stands under `model` too; give it in one place"
            for name in names
            if name in spec.model and name in known
        ]
        problems += [
            f"{file.place((*loc, name))}: this key is missing (it may stand under `model`)"
            for name, argument in family.arguments.items()
            if argument.default is None and name not in names and name not in spec.model
        ]
    return problems


def _named(spec: "SweepSpec") -> list[tuple[Loc, list[str]]]:
    """The names that axes, listed cells and exclusions use, each with its place."""
    named: list[tuple[Loc, list[str]]] = [(("axes",), list(spec.axes.lists))] if spec.axes else []
    named += [(("cells", index), [*cell.arguments, *cell.overrides]) for index, cell in enumerate(spec.cells)]
    return named + [(("exclude", index), list(rule.values)) for index, rule in enumerate(spec.exclude)]


def _refuse_repeated_cells(file: YamlFile, spec: "SweepSpec", family: Family) -> None:
    """The axes' values are distinct, so a cell can stand twice only through the list."""

    def identity(cell: "CellSpec") -> Hashable:
        arguments = resolve_arguments(family, {**spec.model, **cell.arguments})
        return (*sorted(arguments.items()), cell.resolution, cell.epochs, cell.lr_scale)

    listed = len(spec.cells)
    seen = {identity(cell) for cell in spec.all_cells()[:-listed]} if listed and spec.axes else set()
    for index, cell in enumerate(spec.cells):
        if identity(cell) in seen:
            raise SpaceError(f"{file.place(('cells', index))}: this cell stands twice; each may be given once")
        seen.add(identity(cell))


class _Shapes:
    """Refuses shapes that cannot be built; each is tried once, since for some families that builds the model."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._known: dict[Hashable, ValueError | None] = {}

    def check(self, arguments: dict[str, Any], resolution: int) -> None:
        """See `workers.families.check_cell`."""
        key = (*sorted(arguments.items()), resolution)
        self._once(key, lambda: check_cell(self.family, arguments, resolution))

    def check_recipe(self, arguments: dict[str, Any], resolution: int, recipe: Recipe) -> None:
        """See `workers.families.check_recipe`."""
        asked = (recipe.test_resolution, recipe.dropout, recipe.stochastic_depth)
        key = (*sorted(arguments.items()), resolution, asked)
        self._once(key, lambda: check_recipe(self.family, arguments, resolution, recipe))

    def _once(self, key: Hashable, check: Callable[[], None]) -> None:
        if key not in self._known:
            self._known[key] = None
            try:
                check()
            except ValueError as error:
                self._known[key] = error
        if problem := self._known[key]:
            raise problem


def _cell_problem(file: YamlFile, spec: "SweepSpec", shapes: _Shapes, cell: "CellSpec") -> str | None:
    try:
        arguments = resolve_arguments(shapes.family, {**spec.model, **cell.arguments})
        shapes.check(arguments, cell.resolution)
    except ValueError as error:
        return f"{_place_of(file, spec, cell, str(error).split()[0])}: {one_line(str(error))}"
    scale = {name: arguments[name] for name in ("width", "depth") if name in arguments}
    try:
        overrides = {**spec.recipe.overrides, **cell.overrides}
        recipe = resolve(spec.recipe.name, Cell(cell.resolution, cell.epochs, **scale), overrides)
    except (ValueError, TypeError, OverflowError) as error:
        words = str(error).partition(";")[0].replace("'", " ").split()
        named = [field for field in spec.recipe.overrides if field in words]
        return f"{file.place(('recipe', *named[:1]))}: {one_line(str(error))}"
    try:
        shapes.check_recipe(arguments, cell.resolution, recipe)
    except ValueError as error:
        named = [field for field in spec.recipe.overrides if re.match(rf"{field}\b", str(error))]
        return f"{file.place(('recipe', *named))}: {one_line(str(error))}"
    try:
        check_precision(spec.resources.kind, spec.resources.precision or "", cell.resolution)
    except ValueError as error:
        return f"{file.place(('resources', 'precision'))}: {one_line(str(error))}"
    return batch_problem(file, spec, recipe) or _batch_problem(file, spec, recipe)


def _batch_problem(file: YamlFile, spec: "SweepSpec", recipe: Recipe) -> str | None:
    """A batch is shared by whole BatchNorm groups, and each device's share is split into equal parts of them."""
    devices, micro = spec.resources.devices, spec.resources.micro_batch
    groups = recipe.batch_size // recipe.bn_batch
    if groups % devices:
        parts = f"batch_size {recipe.batch_size} is {groups} groups of bn_batch {recipe.bn_batch}"
        return f"{file.place(('resources', 'devices'))}: {parts}, which {devices} devices cannot share evenly"
    own = groups // devices
    sizes = [recipe.bn_batch * count for count in range(1, own + 1) if own % count == 0]
    if micro is not None and micro not in sizes:
        right = ", ".join(map(str, sizes))
        return f"{file.place(('resources', 'micro_batch'))}: {micro} does not divide a device's share; one of {right}"
    return None


def _place_of(file: YamlFile, spec: "SweepSpec", cell: "CellSpec", field: str) -> str:
    """Where the file gives a cell's value: in an axis if the grid has it, else under `model` or in the list."""
    value = getattr(cell, field) if field in _OF_EVERY_FAMILY else cell.arguments.get(field)
    axis = spec.axes.lists.get(field, []) if spec.axes else []
    if field in spec.model:
        return file.place(("model", field))
    if value in axis:
        return file.place(("axes", field, axis.index(value)))
    if value is not None and cell in spec.cells:
        return file.place(("cells", spec.cells.index(cell), field))
    return file.place(("family",))
