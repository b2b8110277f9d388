"""Runs a notebook's code cells in one namespace, without Jupyter: `python tests/notebooks.py` writes what they print.

Of each cell, what is printed and the value of its last expression are its outputs, as in Jupyter.
"""

import ast
import contextlib
import io
import json
from pathlib import Path

ANALYSIS = Path(__file__).parents[1] / "docs/analysis.ipynb"


def read(path):
    return json.loads(path.read_text())


def code_of(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook, folder):
    """The outputs of each code cell, run from `folder`."""
    namespace, found = {"__name__": "__main__"}, []
    with contextlib.chdir(folder):
        for place, cell in enumerate(code_of(notebook), start=1):
            found.append(outputs_of("".join(cell["source"]), namespace, place))
    return found


def outputs_of(source, namespace, place):
    tree, name = ast.parse(source), f"<cell {place}>"
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), namespace)
        value = None if last is None else eval(compile(last, name, "eval"), namespace)
    outputs = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"data": data, "execution_count": place, "metadata": {}, "output_type": "execute_result"})
    return outputs


def with_outputs(path):
    notebook = read(path)
    for place, (cell, outputs) in enumerate(zip(code_of(notebook), run(notebook, path.parent), strict=True), start=1):
        cell |= {"execution_count": place, "outputs": outputs}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    ANALYSIS.write_text(with_outputs(ANALYSIS))
