"""Writes the generated parts of ``docs/reference/``: ``python -m tools.docgen [--check] [DIR]``.

In the pages of the kinds, the lines between two markers are generated; the rest is written by hand. The pages of
the chart, configuration, metrics, names, output, permissions, troubleshooting and a stolen node are generated as a
whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.chartdoc import render_chart
from tools.configdoc import render_configuration
from tools.crdgen import KINDS, Schema, build_crd
from tools.metricsdoc import render_metrics
from tools.namesdoc import render_names
from tools.outputdoc import render_output
from tools.rolesdoc import render_permissions
from tools.stolendoc import render_stolen
from tools.troubledoc import render_troubleshooting

BEGIN = "<!-- fields: made by 'make docs' from operator/kigi/api -->"
END = "<!-- end of fields -->"


def render_table(schema: Schema, part: str) -> str:
    """Markdown table of one part (``spec`` or ``status``) of a kind's schema, one row for each field."""
    rows = ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    for path, field, required in _fields(schema["properties"][part], ""):
        cells = (f"`{path}`", _type(field), _default(field, required), str(field.get("description", "")))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _fields(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """(path, schema, required) of every field, parents before their children."""
    for name, field in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, field, name in schema.get("required", ())
        yield from _fields(field, f"{path}.")
        yield from _fields(field.get("items", {}), f"{path}[].")


def _type(field: Schema) -> str:
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field["type"] == "array":
        inner = field["items"]
        what = "objects" if inner["type"] == "object" else f"{inner['type']}s"
        keys = field.get("x-kubernetes-list-map-keys")
        text = f"list of {what}" + (f" by `{keys[0]}`" if keys else "")
        return text + (f", at most {field['maxItems']}" if "maxItems" in field else "")
    if field["type"] == "object":
        return "map of strings" if "additionalProperties" in field else "object"
    if field.get("format") == "date-time":
        return "time"
    return str(field["type"]) + _bounds(field)


def _bounds(field: Schema) -> str:
    if "minimum" in field and "maximum" in field:
        return f", {field['minimum']} to {field['maximum']}"
    if "minimum" in field:
        return f", at least {field['minimum']}"
    if "maxLength" in field and field["maxLength"] < 64:
        return f", at most {field['maxLength']} characters"
    return ""


def _default(field: Schema, required: bool) -> str:
    if required:
        return "required"
    value: Any = field.get("default")
    if value is None or value == {}:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def render_pages(directory: Path) -> dict[Path, str]:
    """Page -> its text as generated now. Raises ValueError, naming the page, where the markers are missing."""
    pages = {
        directory / "chart.md": render_chart(),
        directory / "configuration.md": render_configuration(),
        directory / "metrics.md": render_metrics(),
        directory / "names.md": render_names(),
        directory / "output.md": render_output(),
        directory / "permissions.md": render_permissions(),
        directory / "stolen-node.md": render_stolen(),
        directory / "troubleshooting.md": render_troubleshooting(),
    }
    for kind in KINDS:
        crd = build_crd(kind)
        path = directory / f"{crd['spec']['names']['singular']}.md"
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        text = path.read_text(encoding="utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise ValueError(f"{path}: needs the lines {BEGIN!r} and {END!r}, once each, in this order")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        tables = [f"### {part}\n\n{render_table(schema, part)}" for part in ("spec", "status")]
        pages[path] = f"{before}{BEGIN}\n\n" + "\n\n".join(tables) + f"\n\n{END}{after}"
    return pages


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with ``--check`` only print which are stale; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.docgen", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("docs/reference"))
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not as generated")
    options = parser.parse_args(arguments)
    stale = 0
    for path, text in render_pages(options.directory).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            stale += 1
            sys.stderr.write(f"{path}: not as generated from the code; run 'make docs'\n")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
