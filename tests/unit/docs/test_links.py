"""Links between pages lead to files and headings that exist, and pages name source files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    page
    for page in {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")}
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them: lower case, punctuation removed, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_has_a_target(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for match in LINK.findall(text):
        link = match[0] or match[1]
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} of {page.relative_to(ROOT)}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link} of {page.relative_to(ROOT)}"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_source_file_that_a_page_names_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it names earlier files
    named = re.findall(
        r"`((?:operator|node-cache-daemon|tests|localcluster|scenario|demo|benchmarks|tools|docs|manifests)/[\w./-]+)`",
        page.read_text(),
    )
    missing = [name for name in named if not (ROOT / name.rstrip("/")).exists() and not list(ROOT.glob(name))]
    assert missing == []


def test_the_map_from_concepts_to_source_files_has_existing_paths() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    table = text[text.index("## From concept") : text.index("## Where to add")]
    daemon = set(re.findall(r"\*?d:\*? ?`?([a-z_]+/[\w./]*)`", table))
    assert len(daemon) > 4
    names = set(re.findall(r"`(?:d: )?([a-z_]+/(?:[\w/]*(?:\.py)?))`", table)) - {
        "operator/kigi/",
        "deployment/default/office",
    }
    roots = (ROOT / "operator/kigi", ROOT / "node-cache-daemon/kigi_cache")
    assert [name for name in sorted(names) if not any((root / name).exists() for root in roots)] == []
