"""The documentation site, built by its generator from all pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.site import ROOT, build_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site") / "html"
    build_site(target, None)
    return target


def pages() -> list[Path]:
    names = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "scenario/README.md",
        ROOT / "localcluster/README.md",
    ]
    return [path.relative_to(ROOT) for path in names]


def test_every_page_is_in_the_site(site: Path) -> None:
    missing = [str(page) for page in pages() if not (site / page).with_suffix(".html").exists()]
    assert not missing


def test_every_link_of_the_site_leads_to_a_file_and_a_heading_of_it(site: Path) -> None:
    broken = []
    for html in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"]+)"', html.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:|#$", link):
                continue
            path, _, anchor = link.partition("#")
            target = (html.parent / path.partition("?")[0]).resolve() if path else html
            if not target.exists():
                broken.append(f"{html.relative_to(site)}: {link}")
            elif anchor and target.suffix == ".html" and f'id="{anchor}"' not in target.read_text(encoding="utf-8"):
                broken.append(f"{html.relative_to(site)}: {link}: no such heading")
    assert not broken


def test_no_page_asks_another_host_for_a_part_of_itself(site: Path) -> None:
    asked = {
        tag
        for html in site.rglob("*.html")
        for tag in re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^>]*>', html.read_text())
    }
    assert not asked
