"""`make audit`: known vulnerabilities of the pinned versions, and the floors below which we know of some.

The floors need no network. The advisories do: pip-audit asks PyPI's, then OSV's. A mirror may answer without knowing
any advisory, so a version with a well-known one is asked for too. Where no source knows it, one line says so and the
floors alone decide. Exit code: 0 nothing found, 1 something found.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS, FLOORS = ROOT / "constraints.txt", ROOT / "constraints-floors.txt"
KNOWN = ("pyjwt", "1.5.0")  # has had an advisory since 2017, CVE-2017-11424; not one of our packages
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([0-9.]+)", re.MULTILINE)
_FLOOR = re.compile(r"^([A-Za-z0-9_.-]+)>=([0-9.]+)\s+#\s*(.+)$", re.MULTILINE)


def main() -> int:
    """Print what was found, and the exit code."""
    found = below_floors(PINS.read_text(), FLOORS.read_text())
    advisories = next(filter(None, (ask(service) for service in ("pypi", "osv"))), None)
    if advisories is None:
        say("no source of advisories can be reached: only the floors were checked")
    found += vulnerable(advisories) if advisories else []
    for line in found:
        say(line)
    if not found:
        say(f"{PINS.name}: nothing found")
    return 1 if found else 0


def below_floors(pins: str, floors: str) -> list[str]:
    """One line for every floor that a pin is below, or that has no pin."""
    pinned = {name.lower(): version for name, version in _PIN.findall(pins)}
    return [
        f"{PINS.name}: {name} is {pinned.get(name, 'not pinned')}; right would be at least {floor}: {why}"
        for name, floor, why in _FLOOR.findall(floors)
        if name not in pinned or _numbers(pinned[name]) < _numbers(floor)
    ]


def vulnerable(answer: str) -> list[str]:
    """One line for every vulnerability of our packages that pip-audit's JSON names, and for every one not looked up."""
    packages = [package for package in json.loads(answer)["dependencies"] if package["name"] != KNOWN[0]]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        say(f"{PINS.name}: {len(skipped)} packages were not found there: {', '.join(skipped)}")
    return [
        f"{PINS.name}: {package['name']} {package['version']}: {found['id']}; "
        f"mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for package in packages
        for found in package.get("vulns", ())
    ]


def ask(service: str) -> str | None:
    """pip-audit's JSON; None where it is not installed, or the service does not answer or knows no advisories."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(PINS.read_text() + "{}=={}\n".format(*KNOWN))
        file.flush()
        options = ["--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json", "--timeout", "10"]
        command = [sys.executable, "-m", "pip_audit", *options, "--vulnerability-service", service]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if knows_advisories(done.stdout) else None


def knows_advisories(answer: str) -> bool:
    """Whether it is an answer from a source that knows the one that every source should know."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return False
    return any(package["name"] == KNOWN[0] and package.get("vulns") for package in packages)


def say(line: str) -> None:
    """A line for people."""
    sys.stdout.write(f"{line}\n")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.strip(".").split("."))


if __name__ == "__main__":
    sys.exit(main())
