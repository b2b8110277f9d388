"""What a real sweep leaves behind: private to its user, and without anything that the environment kept secret."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPACE = """\
sweep: mine
data: {name: digits, root: "${IMAGES}", cache: "${DECODED}"}
recipe: {name: small, batch_size: 256, bn_batch: 128}
axes: {width: [0.125], depth: [26], resolution: [16], epochs: [1]}
checkpoints: {keep_weights: true}
"""
KNOWN = (b"PAR1", b"\x89PNG", b"SQLite format 3")
SECRETS = {
    "MLFLOW_TRACKING_USERNAME": "marked-user-1f7a",
    "MLFLOW_TRACKING_PASSWORD": "marked-password-2c9e",
    "MLFLOW_TRACKING_TOKEN": "marked-token-3d11",
    "AWS_ACCESS_KEY_ID": "marked-key-4b02",
    "AWS_SECRET_ACCESS_KEY": "marked-secret-5e7d",
    "HF_TOKEN": "marked-hub-6a31",
    "RAY_AUTH_TOKEN": "marked-ray-7f55",
    "ANYTHING_ELSE": "marked-other-8c13",
}


def run(folder, environment, *arguments):
    command = [sys.executable, "-m", "sweep", *arguments]
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder in which a sweep ran with secrets in its environment, and everything that it printed."""
    folder, images = tmp_path_factory.mktemp("swept"), tmp_path_factory.mktemp("marked-images-9d44")
    (folder / "a.yaml").write_text(SPACE)
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = {**kept, **SECRETS, "IMAGES": str(images), "DECODED": str(images / "marked-decoded")}
    done = run(folder, environment, "run", "a.yaml", "--executor", "local")
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    for command in ("status", "pareto", "rules", "report", "sync"):
        done = run(folder, environment, command, "mine")
        assert done.returncode == 0, done.stderr
        printed += done.stdout + done.stderr
    return folder, printed


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "a.yaml"]


def test_no_secret_is_in_any_file_or_message(swept):
    folder, printed = swept
    assert {path.name for path in files(folder)} >= {"mlflow.db", "space.yaml", "planned.parquet", "rules.json"}
    for path in files(folder):
        assert b"marked-" not in path.read_bytes(), path
    assert "marked-" not in printed


def test_a_space_is_kept_with_the_names_of_variables_not_their_values(swept):
    folder, _ = swept
    assert "root: ${IMAGES}" in (folder / "results/mine/space.yaml").read_text()


def test_everything_is_for_its_user_only(swept):
    folder, _ = swept
    made = [path for path in folder.rglob("*") if path.name != "a.yaml"]
    assert len(made) > 20
    assert {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in made if path.stat().st_mode & 0o077} == {}


def test_no_file_of_ours_is_a_pickle(swept):
    """Each file is known by its first bytes, or is text; a pickle or torch's archive of them is neither."""
    folder, _ = swept
    for path in files(folder):
        start = path.read_bytes()[:16]
        known = start.startswith(KNOWN) or path.suffix in (".safetensors", ".bin")
        assert known or start.decode().replace("\n", "").isprintable(), path
        assert not start.startswith((b"\x80", b"PK")), path


@pytest.mark.parametrize("arguments", [("plan", "a.yaml", "--dump", "dumped"), ("pareto", "mine", "--out", "out.yaml")])
def test_what_a_command_writes_on_request_is_private_too(swept, arguments):
    folder, _ = swept
    done = run(folder, {**os.environ, "IMAGES": "/", "DECODED": "/"}, *arguments)
    assert done.returncode == 0, done.stderr
    made = [folder / arguments[-1], *(folder / arguments[-1]).glob("*")]
    assert all(not path.stat().st_mode & 0o077 for path in made)


PLUGIN = """\
import os
from pathlib import Path
from torch import nn
from workers.families import Argument, Family

HERE = Path(__file__).parent


class Telling(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, images):
        begun = any(HERE.glob("results/told/work/*/alive.json"))  # the trial, not the measurement before it
        if self.training and not images.is_meta and (begun or os.environ["FAILS"] == "measuring"):
            secrets = [value for value in os.environ.values() if value.startswith("marked-")]
            raise RuntimeError("refused: " + " ".join(secrets) + " http://marked-me:marked-word@host/x")
        return self.head(images.mean(dim=(2, 3)))


def build(arguments, resolution, classes, recipe):
    return Telling(classes)


FAMILIES = [Family("telling", {"width": Argument(float, "")}, build)]
"""
FAILING = """\
sweep: told
plugins: [plugin.py]
data: {name: digits}
family: telling
recipe: {name: small, batch_size: 256, bn_batch: 128}
axes: {width: [1], resolution: [16], epochs: [1]}
"""
TOLD = {
    "API_TOKEN": "marked-api-1a2b",
    "MLFLOW_TRACKING_PASSWORD": "marked-password-2c9e",
    "HF_TOKEN": "marked-hub-6a31",
}


@pytest.mark.parametrize(
    ("executor", "fails"),
    [
        ("local", "training"),
        pytest.param("ray", "training", marks=pytest.mark.slow),
        ("local", "measuring"),
    ],
)
def test_a_trial_whose_failure_quotes_secrets_leaves_them_nowhere(tmp_path, executor, fails):
    (tmp_path / "a.yaml").write_text(FAILING)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = {**kept, **TOLD, "FAILS": fails}
    done = run(tmp_path, environment, "run", "a.yaml", "--executor", executor)
    assert done.returncode == 1, done.stderr
    said = done.stdout + done.stderr
    assert "refused: " in said
    left = [path for path in files(tmp_path) if path.name != "plugin.py" and path.suffix != ".pyc"]
    assert {path.name for path in left} >= {"mlflow.db", "result.json", "attempts.json", "alive.json"}
    assert [path for path in left if b"marked-" in path.read_bytes()] == []
    assert "marked-" not in said
    shown = run(tmp_path, environment, "status", "told", "--format", "json")
    assert "$API_TOKEN" in shown.stdout
    assert "marked-" not in shown.stdout + shown.stderr
