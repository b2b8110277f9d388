"""What `sweep rules` prints: marks for gaps, other learning rates, ranks and power laws, all within 80 columns."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sweep.display import rules_tables
from sweep.rules import rules

DEPTHS, WIDTHS, SIZES = (26, 50, 101, 200), (0.5, 1.0, 1.5, 2.0), (64, 128, 256)


def printed(value):
    console = Console(width=80, file=io.StringIO(), highlight=False)
    rules_tables(console, value)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    return lines


def grid(*, scales=(1.0,), seeds=2, kink=None, lost=None, status="oom", budgets=(3, 30)):
    """A crossed grid whose error is a power of its MACs, flat above `kink`; cells that are `lost` have no result."""
    random = np.random.default_rng(0)
    axes = itertools.product(budgets, DEPTHS, WIDTHS, SIZES, scales, range(seeds))
    rows = []
    for epochs, depth, width, size, scale, seed in axes:
        macs = 1e9 * depth / 26 * width**2 * (size / 64) ** 2
        error = 30 * (min(macs, kink or macs) / 1e9) ** -0.2 * np.exp(random.normal(0, 0.01))
        gone = lost is not None and lost(depth, width, size)
        rows.append(
            {"depth": depth, "width": width, "resolution": size, "epochs": epochs, "seed": seed,
             "recipe_lr_scale": scale, "macs_per_image": macs, "params": macs / 50 / size, "train_step_ms": macs / 1e8,
             "infer_latency_ms": macs / 1e9 + depth, "minival_top1": np.nan if gone else 100 - error,
             "status": status if gone else "ok", "trial_id": f"{epochs}-{depth}-{width}-{size}-{scale}-{seed}"}
        )  # fmt: skip
    return pd.DataFrame(rows).assign(family="f")


def middle(depth, width, size):
    return depth == 101 and width == 1.0 and size == 128


def arm_end(depth, width, size):
    return depth == 200 and size == 256


def after(lines, title):
    """The lines below a title, up to an empty one."""
    start = next(i for i, line in enumerate(lines) if line.startswith(title)) + 1
    return list(itertools.takewhile(bool, lines[start:]))


def test_a_verdict_over_a_gap_that_may_matter_has_a_star_and_its_reason():
    lines = after(printed(rules(grid(lost=arm_end), noise_sd=0.1)), "Depth or width")
    verdicts = [line.split()[1:3] for line in lines if line.split()[1].isdigit() or line.split()[0].isdigit()]
    starred = [line for line in lines if "*" in line and not line.startswith("*")]
    assert len(starred) == 4, verdicts  # two budgets and the size with the gap in each
    assert all(line.split()[0] in ("3", "30", "256") for line in starred)
    assert lines[-1].startswith("* rests on cells missing not at random: ")
    assert lines[-1].endswith(" oom")


def test_a_gap_that_is_only_late_shows_what_there_is_and_no_star():
    lines = printed(rules(grid(lost=arm_end, status="preempted"), noise_sd=0.1))
    table = after(lines, "Depth or width")
    value = rules(grid(lost=arm_end, status="preempted"), noise_sd=0.1)
    wanted = value["depth_vs_width"][2]
    covered = f"{wanted['coverage']['ok']}/{wanted['coverage']['planned']}"
    assert wanted["coverage"]["ok"] < wanted["coverage"]["planned"]
    assert any(line.split()[0] == "256" and covered in line for line in table)
    assert not any("*" in line for line in lines)


def test_budgets_that_lack_different_trials_are_told_apart():
    table = grid(lost=arm_end)
    table.loc[(table["status"] == "oom") & (table["epochs"] == 30), "status"] = "diverged"
    (note,) = [line for line in after(printed(rules(table, noise_sd=0.1)), "Depth or width") if line.startswith("*")]
    assert "3 epochs: " in note
    assert note.endswith(" diverged")
    assert note.index(" oom; 30 epochs: ") > 0


def test_steps_exponents_and_transfer_are_marked_too():
    lines = printed(rules(grid(lost=middle), noise_sd=0.1))
    assert "* one or more rest on cells missing not at random: oom" in after(lines, "Raise the resolution?")
    assert any(line.endswith("*") for line in after(lines, "Resolution exponent"))
    assert "* rests on cells missing not at random: 2 oom" in after(lines, "Resolution exponent")
    transfer = after(lines, "Does a short budget tell?")
    assert "* rests on cells missing not at random: 4 oom" in transfer
    assert "*" in transfer[1].split()[2]


def test_a_full_table_has_no_marks():
    assert not any("*" in line for line in printed(rules(grid(), noise_sd=0.1)))


def test_transfer_says_how_sure_regret_and_order_are():
    value = rules(grid(), noise_sd=0.5)
    (entry,) = value["transfer"]
    _, row, *notes = after(printed(value), "Does a short budget tell?")
    low, high = entry["regret_ci"]
    assert f"{entry['regret_points']:.2f} [{low:.2f}, {high:.2f}]" in row
    assert notes == [f"3 to 30: {entry['pairs_unknown']:.0%} of pairs too close to order".replace("%", " %")]
    assert 0 < entry["pairs_unknown"] < 1


def test_an_exponent_without_interval_has_a_dash_and_its_flag_a_line():
    value = rules(grid(), noise_sd=0.1)
    value["resolution_exponent"][0] |= {"gamma": 0.25, "ci": None, "flag": "a quadratic does not fit", "reason": "open"}
    lines = after(printed(value), "Resolution exponent")
    assert lines[0].startswith("3 epochs: 0.250 -, compound rule ")
    assert lines[1:3] == ["  open", "  a quadratic does not fit"]


@pytest.mark.parametrize("kink", [None, 12e9])
def test_ranks_spread_and_power_law_of_every_budget(kink):
    value = rules(grid(kink=kink), noise_sd=0.1)
    lines = after(printed(value), "FLOPs are not latency")
    for entry in value["flops_not_latency"]:
        of_accuracy = [tau for tau in entry["rank_correlation"] if tau["b"] == "minival_top1"]
        assert len(of_accuracy) == 7  # four costs, three of them at equal multiply-adds
        for tau in of_accuracy:
            low, high = tau["ci"]
            assert any(f"{tau['kendall_tau']:.2f} [{low:+.2f}, {high:+.2f}]" in line for line in lines)
        spread = max(entry["equal_macs"], key=lambda one: one["spread_points"])
        assert any(f"largest spread at equal MACs: {spread['spread_points']:.2f} points" in line for line in lines)
    law = value["flops_not_latency"][0]["power_law"]
    if kink is None:
        assert law["break"] is None
        assert any(f"no break shown (p = {law['break_p']:.2g}); exponent {law['exponent']:.3f} [" in x for x in lines)
    else:
        place, below = law["break"]["macs"] / 1e9, law["break"]["exponent_below"]
        assert any(f"power law: breaks at {place:.3g} G MACs [" in line for line in lines)
        assert any(f"exponent {below:.3f} [" in line and line.endswith(" above") for line in lines)


def test_few_cells_have_no_power_law_and_say_why():
    value = rules(grid(budgets=(3,)).query("width == 1 and resolution == 64"), noise_sd=0.1)
    lines = printed(value)
    assert "  largest spread at equal MACs: - (no 3 cells have nearly equal MACs)" in lines
    assert any(line.startswith("  power law: undetermined: 4 cells of 4 sizes") for line in lines)


def test_robust_verdicts_their_reasons_and_what_the_best_rate_was_judged_on():
    value = rules(grid(scales=(0.25, 0.5, 1.0, 2.0, 4.0)), robust=True, noise_sd=0.01)
    lines = after(printed(value), "Does it hold")
    text = " ".join(" ".join(lines).split())
    words = {True: "yes", False: "no", None: "not shown"}
    for entry in value["robust"]:
        assert f" {entry['resolution']} {entry['verdict']} {words[entry['holds']]} " in text
        for rate in entry["at"]:
            assert f"{rate['verdict']} at " in text
            assert f"{rate['lr_scale']:g}x" in text
    reasons = list(dict.fromkeys(entry["holds_reason"] for entry in value["robust"] if entry["holds_reason"]))
    for place, reason in enumerate(reasons, start=1):
        assert f"{place}: {reason}" in text
    assert "best rate: chosen on each cell's first seed, judged on its other seeds" in lines
    assert "warning" not in text


def test_one_seed_for_each_rate_is_a_warning():
    lines = printed(rules(grid(scales=(0.5, 1.0, 2.0), seeds=1), robust=True))
    assert any(line.startswith("warning: same seed: ") for line in lines)


def test_without_other_rates_it_says_what_is_needed():
    lines = printed(rules(grid(), robust=True))
    text = " ".join(after(lines, "Does it hold"))
    assert text.startswith("no runs at other learning rates: right would be the same cells at half and at")
    assert "Does it hold at other learning rates?" not in printed(rules(grid()))


def test_names_from_a_table_are_text_and_no_markup():
    table = grid(lost=arm_end, status="[/bold] oom").assign(sweep="[/red]x", family="[blink]f")
    lines = printed(rules(table, noise_sd=0.1))
    assert lines[0].startswith("[/red]x: accuracy")
    assert any("[/bold] oom" in line for line in lines)
