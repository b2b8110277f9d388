"""Docs that are made from code say what the code says, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from sweep.table import column_reference

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("results/*.md"),
    *ROOT.glob("results/published/**/*.md"),
]


def test_the_column_reference_is_the_declared_columns():
    text = (ROOT / "results/README.md").read_text()
    wanted = column_reference()
    assert wanted in text, f"results/README.md is out of date; its table should be:\n{wanted}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
