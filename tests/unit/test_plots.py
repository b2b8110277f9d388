import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from sweep import plots
from sweep.plots import plot_depth_width, plot_front
from sweep.rules import rules
from sweep.table import read_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published"


@pytest.fixture(scope="module")
def fig3():
    return read_table(PUBLISHED / "resnet_rs_fig3" / "trials")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look into."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure) or path)
    return figures


def labels(ax):
    return [text for text in ax.texts if text.get_text() and not text.get_text().strip().endswith("]")]


def test_front_is_a_picture_with_a_panel_per_budget(fig3, tmp_path):
    path = plot_front(fig3, tmp_path / "deep" / "front.png")
    picture = imread(path)
    assert picture.shape[1] > picture.shape[0] > 500
    assert np.std(picture[..., :3]) > 0.05


def test_labels_of_the_front_overlap_neither_each_other_nor_the_edge(fig3, drawn):
    plot_front(fig3, Path("unused.png"))
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in labels(ax)]
        assert len(boxes) == 5
        frame = ax.get_window_extent(renderer)
        for i, box in enumerate(boxes):
            assert box.count_overlaps(boxes[i + 1 :]) == 0
            assert frame.x0 <= box.x0 < box.x1 <= frame.x1
            assert frame.y0 <= box.y0 < box.y1 <= frame.y1


def test_several_families_are_told_apart_by_colour_and_models_by_name(drawn):
    table = read_table(PUBLISHED / "resnet_rs_table7" / "trials")
    plot_front(table, Path("unused.png"), cost="v100_train_step_ms")
    (figure,) = drawn
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["Pareto front", "efficientnet", "resnet_rs"]
    assert "efficientnet-b7, 600 px" in [text.get_text() for text in figure.axes[0].texts]
    assert "v100_train_step_ms (ms)" in figure.axes[0].get_xlabel()


def test_depth_and_width_arms_with_the_verdict_in_the_title(fig3, drawn):
    plot_depth_width(rules(fig3), Path("unused.png"))
    (figure,) = drawn
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["10 epochs: width", "100 epochs: mixed", "350 epochs: depth"]
    assert "train_step_ms (ms)" in figure.axes[0].get_xlabel()


def test_budgets_without_evidence_say_so_instead_of_failing(fig3, tmp_path):
    rows = fig3[fig3["depth"] == 101]
    path = plot_depth_width(rules(rows), tmp_path / "arms.png")
    assert path.stat().st_size > 10_000


def test_nothing_global_is_touched(fig3, tmp_path):
    plot_front(fig3, tmp_path / "front.svg", budget=350)
    assert "matplotlib.pyplot" not in sys.modules


def some_models(families):
    rows = pd.DataFrame({"family": families, "val_top1": np.linspace(50, 80, len(families))})
    ids = [f"t{i}" for i in range(len(rows))]
    return rows.assign(trial_id=ids, infer_latency_ms=np.geomspace(1, 9, len(rows)), params=range(9, 9 + len(rows)))


def test_many_families_are_a_legend_that_fits(drawn):
    plot_front(some_models([f"family_{i // 2}" for i in range(60)]), Path("unused.png"))
    (figure,) = drawn
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(words) == 8
    assert words[-1] == "other families"
    box, page = figure.legends[0].get_window_extent(figure.canvas.get_renderer()), figure.bbox
    assert page.x0 <= box.x0 < box.x1 <= page.x1


def test_a_reference_is_drawn_behind_with_its_own_accuracy(fig3, drawn):
    reference = some_models(["a"] * 5).assign(sweep="theirs", train_step_ms=[40.0, 60, 80, 100, 200])
    plot_front(fig3, Path("unused.png"), reference=reference)
    plot_front(fig3, Path("unused.png"))
    with_it, without = drawn
    words = with_it.legends[0].get_texts()[-1].get_text()
    assert words == "reference: theirs, validation top-1"
    for one, other in zip(with_it.axes, without.axes, strict=True):
        assert sum(len(group.get_offsets()) for group in one.collections) - 5 == sum(
            len(group.get_offsets()) for group in other.collections
        )
    box = with_it.legends[0].get_window_extent(with_it.canvas.get_renderer())
    assert with_it.bbox.x0 <= box.x0 < box.x1 <= with_it.bbox.x1


def test_a_reference_with_epochs_belongs_to_its_budget(fig3, drawn):
    reference = some_models(["a"] * 5).assign(train_step_ms=[40.0, 60, 80, 100, 200], epochs=[10, 10, 10, 10, 350])
    plot_front(fig3, Path("unused.png"), reference=reference)
    counts = [ax.collections[0].get_offsets().shape[0] for ax in drawn[0].axes]
    assert counts == [4, 0, 1]


def test_several_costs_are_ringed_without_a_line(drawn):
    table = some_models(["a"] * 3 + ["b"] * 3).assign(params=[9, 8, 7, 6, 5, 4])
    plot_front(table, Path("unused.png"), cost=["infer_latency_ms", "params"])
    (figure,) = drawn
    assert figure.legends[0].get_texts()[0].get_text() == "Pareto front in all costs"
    assert not figure.axes[0].get_lines()


def test_an_axis_of_imported_latencies_says_what_they_are(drawn):
    rows = some_models(["a"] * 4)
    plot_front(rows.assign(infer_latency_kind="inverse throughput: 1"), Path("unused.png"))
    plot_front(rows, Path("unused.png"), reference=rows.assign(infer_latency_kind="inverse throughput: 1"))
    plot_front(rows, Path("unused.png"))
    labels = [figure.axes[0].get_xlabel() for figure in drawn]
    assert labels[0].startswith("inverse throughput, infer_latency_ms")
    assert labels[1].startswith("inference latency (reference: inverse throughput)")
    assert labels[2].startswith("inference latency, one image")
