"""The rules of docs/architecture.md that keep the structure what it says it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("sweep", "workers")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(path, everywhere=True):
    """Names of all modules that a file imports: anywhere, or at its top level only."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top(names):
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "workers"])
def test_workers_never_import_the_controller_or_its_packages(name):
    assert not top(imported(MODULES[name])) & {"sweep", "ray", "mlflow", "pydantic", "typer", "rich", "pandas"}


@pytest.mark.parametrize(
    ("package", "owners"),
    [
        ("ray", ["sweep.ray_executor", "sweep.ray_worker"]),  # on either side of a process's border
        ("mlflow", ["sweep.mlflow_store"]),
        ("pydantic", ["sweep.space"]),
        ("typer", ["sweep.cli"]),
    ],
)
def test_hardly_a_module_knows_a_framework(package, owners):
    users = [name for name, path in MODULES.items() if package in top(imported(path))]
    assert users == owners


def test_no_import_cycles():
    edges = {name: imported(path, everywhere=False) & MODULES.keys() - {name} for name, path in MODULES.items()}

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        for target in edges[name]:
            if name.startswith(f"{target}."):  # a package's __init__ runs before its modules anyway
                continue
            visit(target, [*trail, name])

    for name in MODULES:
        visit(name, [])


def modules_loaded_by(arguments, folder):
    program = (
        "import sys\n"
        "from sweep.cli import main\n"
        f"sys.argv = ['sweep', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\nelse:\n    code = 0\n"
        "sys.stderr.write('\\n' + ' '.join(sorted({name.split('.')[0] for name in sys.modules})))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


FIG3 = str(ROOT / "results/published/resnet_rs_fig3")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["pareto", FIG3], ["rules", FIG3], ["status", FIG3]],
    ids=["help", "run help", "pareto", "rules", "status"],
)
def test_reading_commands_import_neither_ray_nor_torch_nor_mlflow(arguments, tmp_path):
    assert not modules_loaded_by(arguments, tmp_path) & {"ray", "torch", "mlflow", "timm", "matplotlib"}


def test_help_imports_no_heavy_package(tmp_path):
    assert not modules_loaded_by(["--help"], tmp_path) & {"pandas", "pyarrow", "numpy", "scipy", "pydantic"}


def test_files_and_functions_stay_short():
    for name, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= 400, f"{name} has over 400 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{name}.{node.name} has over 60 lines"


def test_every_public_name_has_a_docstring():
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{name} has no docstring"
