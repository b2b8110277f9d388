"""Tables of others: timm's CSV files as they are published, any CSV or Parquet, and files that are wrong."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from sweep.csv_file import numbers, read_csv
from sweep.errors import TableError
from sweep.imports import INVERSE_THROUGHPUT, any_table, timm_table
from sweep.table import read_table

ACCURACIES = """\
model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation
giantnet_l.big_ft_in1k,89.5,10.5,98.9,1.1,"1,013.01",336,1.000,bicubic
smallnet50.a1_in1k,80.4,19.6,95.0,5.0,25.56,224,0.950,bicubic
smallnet50.tv_in1k,76.1,23.9,93.0,7.0,25.56,224,0.875,bilinear
smallnet50.a1_in1k,81.2,18.8,95.5,4.5,25.56,288,1.000,bicubic
tf_widenetv2_b0.in1k,78.5,21.5,94.0,6.0,7.14,224,0.900,bicubic
"""
SPEEDS = """\
model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts
tf_widenetv2_b0,224,10000.0,102.4,1024,7.14,0.73,4.77
smallnet50,224,4000.0,256.0,1024,25.56,4.11,11.11
smallnet50,288,2500.0,409.6,1024,25.56,6.8,18.37
nowhere,224,1.0,1.0,1,1.0,,
"""


@pytest.fixture
def sweep(monkeypatch, in_process, tmp_path):
    """Runs the command in this process and an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results-imagenet-real.csv").write_text(ACCURACIES)
    (tmp_path / "benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv").write_text(SPEEDS)
    return in_process


TIMM = ("import", "timm", "results-imagenet-real.csv", "benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv", "--as", "t")


def test_timm_files_are_joined_on_the_name_without_its_tag_and_the_size(sweep, tmp_path):
    code, out, err = sweep(*TIMM)
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "1 of 5 models have no speed at their size",
        "1 of 4 speeds are of models or sizes without an accuracy: left out",
        "5 rows in results/t/; see `sweep pareto t`, `sweep pareto A --plot FILE.png --reference t`",
    ]
    rows = read_table(tmp_path / "results/t/trials").set_index("trial_id")
    first, second = rows.loc["smallnet50.a1_in1k-224"], rows.loc["smallnet50.tv_in1k-224"]
    assert first["infer_latency_ms"] == second["infer_latency_ms"] == 0.25
    assert rows.loc["smallnet50.a1_in1k-288", "infer_latency_ms"] == 0.4
    assert (first["val_top1"], first["val_top5"], first["params"], first["macs_per_image"]) == (
        80.4, 95.0, 25_560_000, 4_110_000_000,
    )  # fmt: skip
    assert (second["crop_pct"], second["interpolation"], second["recipe"]) == (0.875, "bilinear", "tv_in1k")
    assert (first["family"], rows.loc["tf_widenetv2_b0.in1k-224", "family"]) == ("smallnet", "widenetv2")
    assert set(rows["dataset"]) == {"imagenet-real"}
    assert (set(rows["source"]), set(rows["protocol"])) == ({"published"}, {"timm pretrained"})
    assert set(rows["device"]) == {"rtx3090"}
    assert first["infer_latency_kind"] == INVERSE_THROUGHPUT
    giant = rows.loc["giantnet_l.big_ft_in1k-336"]
    assert giant["params"] == 1_013_010_000
    assert giant[["infer_latency_ms", "macs_per_image", "infer_latency_kind"]].isna().all()


def test_the_same_commands_read_it(sweep):
    sweep(*TIMM)
    code, out, _ = sweep("pareto", "t", "--format", "json")
    value = json.loads(out)
    assert [member["trial_id"] for member in value["front"]] == [
        "tf_widenetv2_b0.in1k-224", "smallnet50.a1_in1k-224", "smallnet50.a1_in1k-288",
    ]  # fmt: skip
    assert (code, value["cost"], value["excluded"]) == (0, "infer_latency_ms", {"no infer_latency_ms": 1})
    code, out, _ = sweep("pareto", "t")
    assert "note: infer_latency_ms is inverse throughput" in out
    assert max(map(len, out.splitlines())) <= 80
    assert sweep("pareto", "t", "--compare", "smallnet")[0] == 0
    assert sweep("status", "t")[0] == 0


def test_it_is_a_reference_and_no_evidence_unless_asked(sweep, tmp_path):
    rows = pd.DataFrame(
        {"depth": [26, 50, 26], "width": [1, 1, 2.0], "resolution": 32, "epochs": 3, "acc": [50, 60, 61.0]}
    )
    rows.assign(family="f", train_step_ms=[1.0, 2, 2]).to_csv(tmp_path / "own.csv", index=False)
    assert sweep("import", "table", "own.csv", "--map", "acc=minival_top1")[0] == 0
    code, out, err = sweep("rules", "own")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "3 rows were imported from own.csv: a reference, no evidence for a rule; --reference-as-evidence" in err
    code, out, _ = sweep("rules", "own", "--reference-as-evidence")
    assert code == 0
    assert "Depth or width" in out


def test_a_reference_is_drawn_and_never_on_the_front(sweep, tmp_path):
    sweep(*TIMM)
    rows = pd.DataFrame({"trial_id": ["a", "b"], "minival_top1": [1.0, 2.0], "infer_latency_ms": [9.0, 10.0]})
    rows.assign(family="f").to_parquet(tmp_path / "mine.parquet")
    alone = sweep("pareto", "mine.parquet", "--format", "json", "--plot", "alone.png")[1]
    code, out, err = sweep("pareto", "mine.parquet", "--format", "json", "--reference", "t", "--plot", "both.png")
    assert (code, out, err) == (0, alone, "wrote both.png\n")
    assert imread("both.png").std() != imread("alone.png").std()
    code, out, err = sweep("pareto", "mine.parquet", "--reference", "t")
    assert (code, out, err) == (2, "", "--reference: is only drawn; name the picture with --plot FILE.png\n")


def test_an_import_replaces_an_earlier_one_but_no_sweep(sweep, tmp_path):
    sweep(*TIMM)
    (tmp_path / "results-imagenet-real.csv").write_text(ACCURACIES.replace("80.4", "80.5"))
    assert sweep(*TIMM)[0] == 0
    assert 80.5 in set(read_table(tmp_path / "results/t/trials")["val_top1"])
    (tmp_path / "results/t/imported.json").unlink()
    code, _, err = sweep(*TIMM)
    assert (code, err) == (3, "results/t: is there and was not imported; right would be another name after --as\n")
    assert sweep(*TIMM[:-1], "../t")[0] == 3


def test_any_csv_is_renamed_scaled_and_kept(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes('\ufeffNetz;acc ;Mparams;ms;note\n"a;1";0.8;1,5;2;x\nb;;2;NaN;\n'.encode())
    maps = ["Netz=model", "acc=val_top1*100", "Mparams=params*1e5", "ms=infer_latency_ms"]
    table = any_table("own", path, maps, "gpu").table.to_pandas()
    assert table["model"].tolist() == ["a;1", "b"]
    assert table["val_top1"].tolist()[0] == 80
    assert table["val_top1"].isna().tolist() == table["infer_latency_ms"].isna().tolist() == [False, True]
    assert table["params"].tolist() == [1_500_000, 200_000]
    assert table["note"].tolist()[0] == "x"
    assert set(table["source"]) == {"imported"}
    assert set(table["device"]) == {"gpu"}
    assert set(table["imported_from"]) == {"own.csv"}
    assert table["trial_id"].tolist() == ["own-1", "own-2"]


def test_a_parquet_file_keeps_its_source_and_protocol(tmp_path):
    path = tmp_path / "own.parquet"
    own = {"id": ["x", None], "top1": [70.5, 71.0], "params": [3, 4], "source": ["measured", None], "protocol": "p"}
    pd.DataFrame(own).to_parquet(path)
    table = any_table("own", path, ["top1=minival_top1", "id=trial_id"], None).table.to_pandas()
    assert table["source"].tolist() == ["measured", "imported"]
    assert table["trial_id"].tolist() == ["x", "own-2"]
    assert set(table["protocol"]) == {"p"}


HEAD = "model,img_size,top1\n"
WRONG = {
    "text for a number": (
        HEAD + "a.b,224,high\n",
        "bad.csv: line 2: top1 is 'high'; right would be a number from 0 to 100",
    ),
    "out of range": (HEAD + "a.b,224,7\na.b,224,101\n", "bad.csv: line 3: top1 is '101'; right would be"),
    "infinite": (HEAD + "a.b,224,inf\n", "bad.csv: line 2: top1 is 'inf'; right would be"),
    "no size": (HEAD + "a.b,0,7\n", "bad.csv: line 2: img_size is '0'; right would be a number from 1 to"),
    "a line too short": (
        HEAD + "a.b,224\n",
        "bad.csv: not a readable CSV file (CSV parse error: Expected 3 columns, got 2",
    ),
    "a quote that does not end": (HEAD + '"a.b,224,7\n', "bad.csv: not a readable CSV file"),
    "nothing": ("", "bad.csv: line 1 should name 1 to 1000 columns"),
    "no rows": (HEAD, "bad.csv: has no row below its first line"),
    "no such column": ("model,img_size\na.b,224\n", "bad.csv: has no column top1; its columns: model, img_size"),
    "a column twice": ("model,top1,top1\na,1,2\n", "bad.csv: has column 'top1' twice"),
    "bytes in a value": (HEAD.encode() + b"a\xff,224,7\n", "bad.csv: not a readable CSV file"),
    "bytes in the first line": (b"PK\x03\x04\xff", "bad.csv: line 1 holds bytes that are no text"),
    "nothing in common": (HEAD + "a.b,224,7\n", "has none of the models and sizes of bad.csv"),
    "nothing at all in a row": (HEAD + ",,\n", "bad.csv: no row has all of model, size and number"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_one_line_and_leaves_nothing(sweep, tmp_path, what):
    content, message = WRONG[what]
    (tmp_path / "bad.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = sweep("import", "timm", "bad.csv", TIMM[3], "--as", "t")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert err.strip().isprintable()
    assert not (tmp_path / "results").exists()


WRONG_TABLES = {
    "no such column": (["accuracy=val_top1"], "has no column accuracy; its columns: acc, ms"),
    "no accuracy": (["ms=infer_latency_ms"], "has no accuracy; right would be --map OWN=val_top1"),
    "a share of 1": (["acc=val_top1"], "val_top1 is at most 0.8; right would be percent: val_top1*100"),
    "two of one name": (["acc=val_top1*100", "ms=val_top1"], "two columns become val_top1"),
    "no mapping": (["acc"], "--map 'acc': right would be OWN=COLUMN"),
    "a factor that is none": (["acc=val_top1*1e999"], "right would be OWN=COLUMN"),
    "a path for a name": (["acc=../x"], "right would be OWN=COLUMN"),
    "out of range": (["acc=val_top1*1000"], "row 1: val_top1 is 800; right would be 0 to 100"),
}


@pytest.mark.parametrize("what", WRONG_TABLES)
def test_a_wrong_mapping_is_one_line(tmp_path, what):
    maps, message = WRONG_TABLES[what]
    path = tmp_path / "own.csv"
    path.write_text("acc,ms\n0.8,2\n")
    with pytest.raises(TableError) as caught:
        any_table("own", path, maps, None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_repeated_models_and_empty_ones_are_counted(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD + "m.x,224,70\nm.x,224,60\n,224,50\nm.y,,50\nm.y,224,\n")
    (tmp_path / "b.csv").write_text("model,infer_img_size,infer_samples_per_sec\nm,224,10\nm.z,224,20\nn,224,\n")
    found = timm_table("t", tmp_path / "a.csv", tmp_path / "b.csv", None, None)
    assert found.notes == [
        "2 of 5 rows of a.csv have no model or size: left out",
        "1 rows of a.csv repeat a model and size: the first one counts",
        "1 rows of b.csv repeat a model and size: the first one counts",
    ]
    table = found.table.to_pandas()
    assert table["trial_id"].tolist() == ["m.x-224", "m.y-224"]
    assert table["val_top1"].tolist()[0] == 70
    assert table["infer_latency_ms"].tolist() == [100, 100]
    assert set(table["dataset"]) == {"imagenet"}
    assert table["device"].isna().all()


def test_many_rows_are_read_in_seconds(tmp_path):
    count = 200_000
    (tmp_path / "a.csv").write_text(HEAD + "".join(f"m{i}.x,224,{i % 100}\n" for i in range(count)))
    speeds = "".join(f"m{i},224,{i + 1}\n" for i in range(count))
    (tmp_path / "b.csv").write_text("model,infer_img_size,infer_samples_per_sec\n" + speeds)
    table = timm_table("t", tmp_path / "a.csv", tmp_path / "b.csv", None, None).table
    assert len(table) == count
    assert table.column("infer_latency_ms").null_count == 0


def test_numbers_with_commas_blanks_and_gaps(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('x,y\n"1,014.45", a \n  2 ,\nN/A,\n')
    columns = read_csv(path)
    assert numbers(path, "x", columns["x"]).tolist()[:2] == [1014.45, 2]
    assert pd.isna(numbers(path, "x", columns["x"])[2])
    assert columns["y"].to_pylist() == ["a", None, None]


def test_a_damaged_or_nested_parquet_file(tmp_path):
    path = tmp_path / "own.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(TableError, match=r"own\.parquet: not a readable Parquet file"):
        any_table("own", path, [], None)
    pq.write_table(pa.table({"top1": [[1.0]], "val_top1": [50.0]}), path)
    assert "top1" not in any_table("own", path, [], None).table.column_names
    pq.write_table(pa.table({"top1": ["fifty"], "val_top1": [50.0]}), path)
    with pytest.raises(TableError, match="minival_top1 is 'fifty'"):
        any_table("own", path, ["top1=minival_top1"], None)
