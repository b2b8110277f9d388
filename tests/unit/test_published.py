from pathlib import Path

import pandas as pd
import pytest

from sweep.published import STUDIES, main, rows_of
from sweep.table import COLUMNS, read_table

ROOT = Path(__file__).parents[2] / "results" / "published"


@pytest.mark.parametrize("study", STUDIES)
def test_committed_table_is_what_its_source_gives(study, tmp_path):
    for name in STUDIES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "source.csv").write_bytes((ROOT / name / "source.csv").read_bytes())
    main(tmp_path)
    pd.testing.assert_frame_equal(
        read_table(tmp_path / study / "trials"), read_table(ROOT / study / "trials"), check_like=True
    )


@pytest.mark.parametrize("study", STUDIES)
def test_rows_have_unique_readable_ids_and_say_where_they_come_from(study):
    rows = rows_of(ROOT / study)
    assert len({row["trial_id"] for row in rows}) == len(rows)
    assert {row["source"] for row in rows} == {"published"}
    assert all("arXiv 2103.07579" in row["provenance"] for row in rows)
    assert "2103.07579" in (ROOT / study / "README.md").read_text()


def test_figure_3_keeps_its_numbers_with_seconds_as_milliseconds():
    row = next(r for r in rows_of(ROOT / "resnet_rs_fig3") if r["trial_id"] == "fig3-d200-w1-r160-e100")
    assert (row["minival_top1"], row["train_step_ms"]) == (79.05, 84.7)
    assert "0.05 points" in row["provenance"]  # one of the four dots that touch another


def test_table_7_keeps_both_clocks_and_halves_flops():
    rows = {row["trial_id"]: row for row in rows_of(ROOT / "resnet_rs_table7")}
    ours, theirs = rows["table7-resnet-rs-152-r256"], rows["table7-efficientnet-b7-r600"]
    assert (ours["tpuv3_train_step_ms"], ours["v100_train_step_ms"]) == (410, 1760)
    assert (ours["macs_per_image"], ours["params"], ours["depth"]) == (15_500_000_000, 87_000_000, 152)
    assert theirs["depth"] is theirs["width"] is None
    assert "minival_top1" not in theirs


def test_every_declared_column_is_there():
    assert {column.name for column in COLUMNS} <= set(read_table(ROOT / "resnet_rs_table7" / "trials").columns)
