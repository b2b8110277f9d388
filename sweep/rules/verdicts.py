"""Every rule asked of every study, each answer with the coverage of the cells that it rests on."""

from collections import Counter
from itertools import combinations
from typing import Any

from sweep.rules.cells import Key, Study
from sweep.rules.coverage import Fates, Group, arms_of, described, group_of, lines_of, neighbours_of, planned_base
from sweep.rules.depth_width import by_budget, compare
from sweep.rules.regime import regimes
from sweep.rules.resolution import exponent_and_path
from sweep.rules.steps import steps
from sweep.rules.transfer import transfer

Entry = dict[str, Any]
Entries = dict[Group, list[Entry]]


def depth_or_width(studies: list[Study], fates: Fates) -> Entries:
    """Entries of every family, budget and resolution that was planned or has evidence."""
    found = {group_of(study): study for study in studies}
    groups = sorted(fates.counts.keys() | found.keys(), key=lambda g: (g[0] or "", g[1], g[2] or 0))
    entries = {}
    for group in groups:
        study = found.get(group) or _empty(group)
        gaps = fates.missing(group)
        sizes = sorted(gaps.keys() | set(study.resolutions()))
        compared = [compare(study, size, gaps.get(size, {})) for size in sizes]
        entries[group] = [_grounded(entry, group, fates) for entry in compared]
    return entries


def _grounded(entry: Entry, group: Group, fates: Fates) -> Entry:
    """A depth-or-width entry with its coverage; flagged where its base is not the planned one."""
    planned, used = planned_base(entry, fates.cells(group)), entry["base"]
    basis = fates.basis(group, arms_of(entry, fates.cells(group)))
    if used is None or planned is None or planned == (used["depth"], used["width"]):
        return entry | basis
    words = f"the planned base is depth {planned[0]}, width {planned[1]:g}"
    return entry | basis | {"flag": "; ".join(filter(None, (entry["flag"], words)))}


def budgets(entries: Entries, fates: Fates) -> list[Entry]:
    """The verdict of every budget from its resolutions."""
    found = []
    for group, own in entries.items():
        cells: list[Key] = [key for entry in own for key in arms_of(entry, fates.cells(group))]
        found.append(by_budget(own, _empty(group)) | fates.basis(group, cells))
    return found


def _empty(group: Group) -> Study:
    """A study without evidence."""
    family, variant, budget = group
    return Study(family, budget, {}, float("inf"), variant)


def resolution_steps(studies: list[Study], fates: Fates) -> list[Entry]:
    """The steps in resolution of all studies."""
    found = []
    for study in studies:
        group = group_of(study)
        lines = lines_of(fates.cells(group))
        found += [step | fates.basis(group, neighbours_of(step, lines)) for step in steps(study)]
    return found


def exponents_and_paths(studies: list[Study], fates: Fates, cost: str) -> tuple[list[Entry], list[Entry]]:
    """The resolution exponent of every study, and the points of its path."""
    found = [(exponent_and_path(study, cost), fates.basis(group_of(study))) for study in studies]
    return [entry | basis for (entry, _), basis in found], [point for (_, path), _ in found for point in path]


def regimes_of(studies: list[Study], trained: list[Study], fates: Fates) -> list[Entry]:
    """Overfitting; `trained` are the same studies with train top-1 for accuracy."""
    by_group = {group_of(study): study for study in trained}
    entries = []
    for study in studies:
        group = group_of(study)
        for entry in regimes(study, by_group[group]) if group in by_group else []:
            base = entry["base"]["depth"], entry["base"]["width"], entry["resolution"]
            cell = entry["depth"], entry["width"], entry["resolution"]
            entries.append(entry | fates.basis(group, [base, cell]))
    return entries


def transfers(studies: list[Study], entries: Entries, fates: Fates) -> list[Entry]:
    """What every shorter budget says of every longer one of the same family and variant."""
    found = []
    for kind in dict.fromkeys((study.family, study.variant) for study in studies):
        own = [s for s in studies if (s.family, s.variant) == kind and s.budget is not None]
        verdicts = {
            group[2]: {entry["resolution"]: entry["verdict"] for entry in found_there}
            for group, found_there in entries.items()
            if group[:2] == kind
        }
        for short, long in combinations(sorted(own, key=lambda s: s.budget or 0), 2):
            both = [Counter(c) for s in (short, long) for c in fates.cells(group_of(s)).values()]
            found.append(transfer(short, long, verdicts) | described(sum(both, Counter())))
    return found
