import json
from pathlib import Path

import audit
import pytest

PINS, FLOORS = audit.PINS.read_text(), audit.FLOORS.read_text()
ROOT = Path(__file__).parents[2]


def test_no_pin_is_below_its_floor():
    assert audit.below_floors(PINS, FLOORS) == []


def test_the_floors_are_those_that_the_package_asks_for():
    wanted = (ROOT / "pyproject.toml").read_text()
    for name, floor in (("torch", "2.10"), ("ray", "2.56"), ("mlflow", "3.17")):
        assert f"\n{name}>={floor}  # " in f"\n{FLOORS}"
        assert f'"{name}>={floor}"' in wanted.replace("[tune,train]", "")


@pytest.mark.parametrize(
    ("pin", "said"),
    [("torch==2.9.1", "torch is 2.9.1; right would be at least 2.10: bad"), ("torch==2.10.0", None),
     ("torch==3.0", None),
     ("torchvision==0.1", "torch is not pinned; right would be at least 2.10: bad")],
)  # fmt: skip
def test_a_pin_below_its_floor_is_named(pin, said):
    found = audit.below_floors(f"# pins\n{pin}\n", "torch>=2.10  # bad\n")
    assert found == ([f"constraints.txt: {said}"] if said else [])


FOUND = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
KNOWN = {"name": "pyjwt", "version": "1.5.0", "vulns": [{"id": "PYSEC-2", "fix_versions": ["1.5.1"]}]}


def answer(*packages):
    return json.dumps({"dependencies": packages})


def test_what_an_advisory_says_is_one_line(capsys):
    said = audit.vulnerable(
        answer({"name": "a", "version": "1", "vulns": []}, {"name": "c", "skip_reason": "x"}, FOUND, KNOWN)
    )
    assert said == ["constraints.txt: b 2: PYSEC-1; mended in 3"]
    assert capsys.readouterr().out == "constraints.txt: 1 packages were not found there: c\n"


def test_a_source_counts_only_where_it_knows_what_all_know():
    assert audit.knows_advisories(answer(FOUND, KNOWN))
    for text in ("", "[]", "{}", "no answer", answer(FOUND), answer({**KNOWN, "vulns": []}), answer({"name": "pyjwt"})):
        assert not audit.knows_advisories(text)


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ({}, 0, "only the floors were checked"), ({"pypi": answer(KNOWN)}, 0, "nothing found"),
        ({"osv": answer(KNOWN, FOUND)}, 1, "PYSEC-1"), ({"pypi": answer(FOUND)}, 0, "only the floors were checked"),
    ],
)  # fmt: skip
def test_what_is_found_decides_the_exit_code(monkeypatch, capsys, answers, code, said):
    def ask(service):
        text = answers.get(service, "")
        return text if audit.knows_advisories(text) else None

    monkeypatch.setattr(audit, "ask", ask)
    assert audit.main() == code
    assert said in capsys.readouterr().out


def test_a_pin_below_its_floor_is_an_exit_code(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(audit, "ask", lambda service: None)
    monkeypatch.setattr(audit, "PINS", tmp_path / "constraints.txt")
    audit.PINS.write_text("torch==2.9.0\nray==2.60.0\nmlflow==3.17.2\n")
    assert audit.main() == 1
    assert "torch is 2.9.0; right would be at least 2.10" in capsys.readouterr().out
