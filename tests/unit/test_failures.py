"""Which failures are repeated, and when a sweep is better stopped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.failures import ALIKE, FRUITLESS, PROBES, Failures
from workers.contract import TrialResult, TrialStatus

BAD = [status for status in TrialStatus if status is not TrialStatus.OK]
FINAL = [TrialStatus.OOM, TrialStatus.DIVERGED, TrialStatus.DATA_ERROR, TrialStatus.INVALID]


def result(status, error="too large", trial_id="one"):
    return TrialResult(trial_id, status, 1, "", "", error=None if status is TrialStatus.OK else error)


def times_repeated(status, reached=lambda attempt: 0.0, most=1000):
    """How often a trial that always ends so is run again."""
    failures = Failures()
    return next((n for n in range(most) if not failures.repeats(result(status), reached(n))), None)


@pytest.mark.parametrize(
    ("status", "times"), [(TrialStatus.CRASHED, 2), (TrialStatus.HUNG, 1), *((status, 0) for status in FINAL)]
)
def test_what_may_end_otherwise_is_repeated_and_what_would_only_come_again_is_not(status, times):
    assert times_repeated(status) == times


def test_a_crash_counts_even_if_the_trial_got_further():
    assert times_repeated(TrialStatus.CRASHED, reached=float) == 2


def test_a_preempted_trial_is_repeated_as_often_as_it_gets_further():
    assert times_repeated(TrialStatus.PREEMPTED, reached=lambda attempt: 0.01 * (attempt + 1)) is None
    assert times_repeated(TrialStatus.PREEMPTED) == FRUITLESS - 1
    stuck = times_repeated(TrialStatus.PREEMPTED, reached=lambda attempt: min(attempt, 50))
    assert stuck == 50 + FRUITLESS


def test_trials_and_kinds_of_failure_are_counted_apart():
    failures = Failures()
    for _ in range(2):
        assert failures.repeats(result(TrialStatus.CRASHED), 0.0)
    assert failures.repeats(result(TrialStatus.CRASHED, trial_id="two"), 0.0)
    assert failures.repeats(result(TrialStatus.HUNG), 0.0)
    assert failures.repeats(result(TrialStatus.PREEMPTED), 0.0)
    assert not failures.repeats(result(TrialStatus.CRASHED), 0.0)


def after(*ended):
    """What is thought after trials that ended so; a star marks a probe."""
    failures = Failures()
    for text in ended:
        status = TrialStatus.OK if text.startswith("ok") else TrialStatus.OOM
        failures.count(result(status, text.rstrip("*")), text.endswith("*"))
    return failures.suspicious, failures.hopeless


STORIES = {
    "nothing yet": ([], (False, False)),
    "two alike": (["a"] * 2, (False, False)),
    "three alike": (["a"] * 3, (True, False)),
    "many alike and no probe": (["a"] * 50, (True, False)),
    "many alike and one probe": (["a"] * 50 + ["a*"], (True, False)),
    "five alike of which two are probes": (["a", "a", "a", "a*", "a*"], (True, True)),
    "probes first": (["a*", "a*", "a", "a"], (True, False)),
    "one success in between": (["a", "a", "a", "ok", "a*", "a*"], (False, False)),
    "a probe that succeeds": (["a", "a", "a", "a*", "ok*"], (False, False)),
    "another message in between": (["a", "a", "a", "b", "a*", "a*"], (False, False)),
    "different messages": (["a", "b"] * 10, (False, False)),
    "five of the new kind": (["a", "b", "b", "b", "b*", "b*"], (True, True)),
}


@pytest.mark.parametrize(("ended", "thought"), STORIES.values(), ids=STORIES)
def test_alike_failures_in_a_row_are_suspicious_and_with_cheap_ones_among_them_hopeless(ended, thought):
    assert after(*ended) == thought


SAME = [
    ("trial 0123456789ab: no room", "trial ba9876543210: no room"),
    ("step 17 of 200: nan", "step 3 of 199.5: nan"),
    ("/data/one/a.png: not a readable image", "/data/two/b.png: not a readable image"),
    ("no file 'a b.txt' there", "no file 'c.txt' there"),
    ("failed at 0x7f12", "failed at 0xabcd"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_ids_numbers_names_and_paths_make_no_other_kind_of_failure(one, other):
    assert after(one, other, one, f"{other}*", f"{one}*") == (True, True)


def test_statuses_are_kinds_of_their_own():
    failures = Failures()
    for status in (TrialStatus.OOM, TrialStatus.CRASHED) * ALIKE:
        failures.count(result(status, "the same words"), True)
    assert (failures.suspicious, failures.hopeless) == (False, False)


@given(st.lists(st.tuples(st.sampled_from(["ok", "a", "b"]), st.booleans()), max_size=30))
def test_only_what_came_since_the_last_change_counts(ended):
    stars = [kind + "*" * probe for kind, probe in ended]
    last = ended[-1][0] if ended else "ok"
    since = []
    for kind, probe in reversed(ended):
        if kind != last or kind == "ok":
            break
        since.append(probe)
    suspicious, hopeless = after(*stars)
    assert suspicious == (len(since) >= ALIKE - PROBES)
    assert hopeless == (len(since) >= ALIKE and sum(since) >= PROBES)
