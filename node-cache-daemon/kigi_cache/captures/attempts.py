"""Number of attempts to make a layer of a copy, in a file: an attempt may end with the process that makes it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kigi.errors import LayerRefused
from kigi_cache.captures.files import ATTEMPTS, read_json, write_json


def count_attempt(directory: Path, most: int) -> None:
    """Count one more attempt to make the layer. Raises LayerRefused after ``most`` that made none."""
    attempts = int(read_json(directory / ATTEMPTS).get("attempts") or 0)
    if attempts >= most:
        raise LayerRefused(
            "attempts",
            f"no layer was made of the disk in {attempts} attempts; delete the SystemCapture, and capture again",
        )
    write_json(directory / ATTEMPTS, {"attempts": attempts + 1})


def forget_attempts(directory: Path) -> None:
    """The last attempt ended for a reason that may pass, or with an orderly end of the publisher."""
    with contextlib.suppress(OSError):
        (directory / ATTEMPTS).unlink()
