"""The page of what a stolen node's credentials can do, from the list that ``make campaign-stolen`` compares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

LIST = Path(__file__).resolve().parents[1] / "tests" / "campaigns" / "stolen_allowed.yaml"
TITLES = {
    "daemon": "The token of the node cache daemon",
    "reader": "The S3 user of the daemons",
    "request": "The signed requests of uploads",
}
_HEAD = """# What a stolen node can do

Made by `make docs` from [the list](../../tests/campaigns/stolen_allowed.yaml) that `make campaign-stolen` compares with
a real API server and a real S3 server. Everything that is not listed here is refused. What to do when a node is stolen
is in [Security](../security.md#a-stolen-node).

The API server refuses the daemon's token for other nodes (audience `kigi-peer`). The capture publisher has no token,
and the S3 user of the daemons. No node has the S3 user of a `writerSecretRef`: layers that captures make are stored by
requests that the operator signs for them, which every daemon can read in the NodeCaches.
"""


def render_stolen() -> str:
    """The page."""
    entries: list[dict[str, Any]] = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    parts = [_HEAD]
    for who, title in TITLES.items():
        rows = ["| calls | on | why |", "|---|---|---|"]
        for entry in (each for each in entries if each["who"] == who):
            calls = ", ".join(f"`{_plain(call)}`" for call in entry["calls"])
            # The campaign's node is called "stolen": its own objects have another title as well.
            places = "; ".join(_plain(place) for place in entry.get("of", ("all",)) if not place.endswith("stolen"))
            why = " ".join(filter(None, (entry["reason"], entry.get("harm"))))
            rows.append(f"| {calls} | {places} | {why} |")
        parts.append(f"## {title}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _plain(pattern: str) -> str:
    """The pattern as a reader writes it: [*] is a star, and [23] both."""
    return re.sub(r"\[(\*)\]", r"\1", pattern).replace("v[23]", "v2` and `v3")
