"""Decisions share one set of headings, and the index lists them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs/decisions"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))
HEADINGS = ["Context", "Decision", "Alternatives", "Consequences", "Evidence"]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem[:4] for page in PAGES])
def test_a_decision_has_the_shared_headings(page: Path) -> None:
    assert re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE) == HEADINGS


def test_the_index_lists_every_decision_under_its_title() -> None:
    rows = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+?) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    titles = [(page.name, page.read_text().splitlines()[0]) for page in PAGES]
    assert [(file, f"# {number}. {title}") for number, file, title in rows] == titles


def test_each_number_is_used_once() -> None:
    """Decisions that are worked on at the same time have their numbers before their pages."""
    numbers = [int(page.name[:4]) for page in PAGES]
    assert len(set(numbers)) == len(numbers) and numbers[0] == 1
