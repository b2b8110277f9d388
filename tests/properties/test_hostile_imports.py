"""Files to import that went wrong anywhere: a table or one clear line, and never half a table."""

import pandas as pd
from hostile import empty_folder, sweep, tried
from hypothesis import given
from hypothesis import strategies as st

ACCURACIES = b'model,img_size,top1,param_count\nnet50.a,224,80.5,25.5\nnet50.b,224,79.5,"1,025.5"\n'
SPEEDS = b"model,infer_img_size,infer_samples_per_sec\nnet50,224,1000.5\nnet18,224,2000\n"
changes = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), st.binary(max_size=6)), min_size=1, max_size=4)
pieces = st.sampled_from(
    [b",", b'"', b"\n", b"\r", b"\xff", b"\x00", b"\x1b[31m", b"-1", b"1e999", b"nan", b";", b"\xef\xbb\xbf"]
)


def changed(content, edits):
    for place, length, piece in edits:
        content = content[:place] + piece + content[place + length :]
    return content


def check(answer, name):
    assert answer.code in (0, 2), answer
    assert "Traceback" not in answer.err
    assert all(line.strip() and line.isprintable() for line in answer.err.splitlines()), answer.err
    if answer.code:
        assert answer.err.count("\n") == 1
        return
    again = sweep("pareto", name, warn="error")
    assert again.code in (0, 2)
    assert "Traceback" not in again.err
    assert all(char.isprintable() or char == "\n" for char in again.out)


edits = st.one_of(changes, st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), pieces), min_size=1, max_size=4))


@tried(40)
@given(edits, edits)
def test_timm_files_with_anything_changed(first, second):
    with empty_folder() as folder:
        (folder / "r.csv").write_bytes(changed(ACCURACIES, first))
        (folder / "b.csv").write_bytes(changed(SPEEDS, second))
        check(sweep("import", "timm", "r.csv", "b.csv", "--as", "t", warn="error"), "t")


@tried(40)
@given(edits, st.booleans())
def test_a_table_with_anything_changed(first, parquet):
    with empty_folder() as folder:
        path = folder / "own.csv"
        path.write_bytes(ACCURACIES)
        if parquet:
            pd.read_csv(path).to_parquet(path)
        path.write_bytes(changed(path.read_bytes(), first))
        check(sweep("import", "table", "own.csv", "--map", "top1=val_top1", warn="error"), "own")
