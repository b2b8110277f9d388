"""A file that is cut, changed or lost is never lost in silence; the whole matrix is `make fault-matrix`."""

from matrix import FILES, Case, Damage, Outcome, cases, table, tried

# Each file is damaged once, the ways taking turns; and in more ways where an outcome hangs on it.
IN_TURN = (Damage.HALF, Damage.DELETED, Damage.FLIP, Damage.EMPTY)
ALSO = [
    Case("finished", "a trial's row", Damage.DELETED),
    Case("finished", "data.json", Damage.FLIP, 3),
    Case("finished", "weights.safetensors", Damage.FLIP, 4),
    Case("interrupted", "without a row: result.json", Damage.DELETED),
    Case("interrupted", "running: its manifest", Damage.DELETED),
]


LOCKS = ("lock", "running: lease.json")  # what they hold is for a live process


def chosen():
    files = [
        (state, file) for state, names in FILES.items() for file in names if file not in LOCKS and "work:" not in file
    ]
    turns = [Case(*place, IN_TURN[index % len(IN_TURN)], 7) for index, place in enumerate(files)]
    return [*turns, *ALSO]


def test_nothing_is_lost_in_silence_whichever_file_is_damaged(tmp_path):
    found = list(tried(chosen(), tmp_path))
    lost = [f"{one.case}: {one.why}" for one in found if one.outcome is Outcome.LOSS]
    assert lost == []
    assert {one.outcome for one in found} >= {Outcome.REBUILT, Outcome.TRAINED, Outcome.REFUSED}
    assert max(len(line) for line in table(found).splitlines()) <= 80


def test_the_whole_matrix_has_every_file_in_every_way():
    whole = cases(flips=2)
    assert len(whole) == sum(len(names) for names in FILES.values()) * (len(Damage) + 1)
    assert len(set(whole)) == len(whole)
