"""The real variant: Debian with its services, built level by level in mounted layers."""

from __future__ import annotations

from pathlib import Path

from scenario.manifest import Manifest


def build(out: Path) -> Manifest:
    """Build every layer."""
    raise NotImplementedError(out)
