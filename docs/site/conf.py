"""Sphinx configuration of the documentation site; ``make site`` builds it from the pages as they are."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

project = "Kigi"
author = "Kigi's authors"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

# The pages are plain Markdown that code hosts show too. They are read where they are, so that links between them hold.
root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/**.md", "scenario/README.md", "localcluster/**README.md"]
exclude_patterns = [".*", ".venv/**"]
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # pages may begin with "##" below a generated comment

html_theme = "furo"
html_title = f"Kigi {release}"
html_copy_source = False
html_show_sphinx = False

# Diagrams are drawn by a script of the site itself: no page asks another host for anything.
if scripts := os.environ.get("KIGI_MERMAID"):
    extensions.append("sphinxcontrib.mermaid")
    myst_fence_as_directive = ["mermaid"]
    mermaid_use_local = "mermaid.esm.min.mjs"
    mermaid_fullscreen = False
    html_static_path = [scripts]
else:
    suppress_warnings.append("misc.highlighting_failure")  # the text of a diagram is in no language that it knows
