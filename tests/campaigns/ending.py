"""How a campaign's program ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn


def finish(summary: Mapping[str, Any], holds: bool, file: Path | None) -> NoReturn:
    """Print the summary as JSON, also into ``file``; exit with 0 if everything holds, else with 1."""
    text = json.dumps(summary, indent=2)
    print(text)
    if file is not None:
        file.write_text(text + "\n")
    sys.exit(0 if holds else 1)
