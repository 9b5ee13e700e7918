"""Every example of an object of Kigi's kinds: files of manifests/examples, and YAML blocks of the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kigi.domain.names import API_VERSION, NODE_API_VERSION

CALLER = "admin"
ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/*.md", "docs/reference/*.md", "scenario/README.md"]


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of each example. A request names the user of the tests, as its caller must be named."""
    for path in sorted((ROOT / "manifests/examples").glob("*.yaml")):
        yield from _documents(path.name, path.read_text(encoding="utf-8"))
    for pattern in PAGES:
        for page in sorted(ROOT.glob(pattern)):
            blocks = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
            for number, block in enumerate(blocks):
                yield from _documents(f"{page.name}-{number}", block)


def _documents(where: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in yaml.safe_load_all(text):
        if isinstance(document, dict) and document.get("apiVersion") in (API_VERSION, NODE_API_VERSION):
            if "requestedBy" in document.get("spec", {}):
                document["spec"]["requestedBy"] = CALLER
            yield f"{where}-{document['metadata']['name']}", document
