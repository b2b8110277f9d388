"""The notebook in docs/ runs, and shows what it gives."""

import json

import pytest
from notebooks import ANALYSIS, code_of, read, run, with_outputs


def test_the_notebook_runs_and_its_outputs_are_those_in_the_file():
    notebook = read(ANALYSIS)
    found = run(notebook, ANALYSIS.parent)
    for cell, outputs in zip(code_of(notebook), found, strict=True):
        assert cell["outputs"] == outputs, "run `python tests/notebooks.py`:\n" + "".join(cell["source"])
    assert sum(map(len, found)) >= 8


def test_cells_share_names_and_show_their_last_value(tmp_path):
    cells = [["x = 2\n", "print('a')\n", "x + 1"], ["x = x * 2"], ["None"], ["print(x)"]]
    source = {"cells": [{"cell_type": "code", "source": lines} for lines in cells]}
    (tmp_path / "n.ipynb").write_text(json.dumps(source))
    written = json.loads(with_outputs(tmp_path / "n.ipynb"))["cells"]
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in written]
    assert kinds == [["stream", "execute_result"], [], [], ["stream"]]
    assert written[0]["outputs"][1]["data"] == {"text/plain": ["3"]}
    assert written[3]["outputs"][0]["text"] == ["4\n"]


def test_a_cell_that_fails_fails_the_test(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}, tmp_path)
