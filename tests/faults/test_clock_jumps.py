"""The clock of a machine may be set, by an hour and in either direction, while a sweep runs."""

import pytest
from faultcheck import ended
from faultlib import Fault, Kind

HOUR_S = 3600.0
WHERE = (0.2, 0.4, 0.6, 0.8, 0.95)  # parts of the reference run


@pytest.mark.parametrize("shift_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_changes_no_result_and_stops_nothing(workshop, reference, truth, shift_s):
    def check(workshop, place, at):
        run = workshop.run(place, Fault(Kind.CLOCK, at, shift_s=shift_s))
        return [*ended(run), *truth.broken(place), *impossible_times(place)]

    operations = len(reference.runs[0].operations)
    failures = workshop.failures(check, [round(part * operations) for part in WHERE])
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("shift_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_was_set_between_two_runs_changes_no_result(workshop, reference, truth, shift_s):
    def check(workshop, place, at):
        workshop.run(place, Fault(Kind.KILL, at))
        again = workshop.run(place, Fault(Kind.CLOCK, 1, shift_s=shift_s))
        return [*ended(again), *truth.broken(place), *impossible_times(place)]

    operations = len(reference.runs[0].operations)
    failures = workshop.failures(check, [round(part * operations) for part in WHERE])
    assert not failures, "\n".join(failures)


def impossible_times(place):
    """Durations below nothing, and ends before their beginnings."""
    rows, curves = place.rows(), place.curves()
    durations = [name for name in rows if str(name).endswith(("_hours", "_ms", "_per_s", "_s"))]
    found = [f"rows: {name} below 0" for name in durations if (rows[name] < 0).any()]
    found += [f"curves: {name} below 0" for name in ("seconds", "train_seconds") if (curves[name] < 0).any()]
    if (rows["finished_at"].dropna() < rows["started_at"].dropna()).any():
        found.append("rows: finished_at before started_at")
    return found
