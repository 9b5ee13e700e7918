"""Paths of the cache of built programs and of the running cluster's state."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Directory of built files, which can be deleted and built again; created if missing.

    ``$KIGI_CACHE``, else ``kigi`` below the user's cache directory.
    """
    base = os.environ.get("KIGI_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(base) if base else user / "kigi"
    path.mkdir(parents=True, exist_ok=True)
    return path


def state_dir() -> Path:
    """Directory of this machine's local cluster: ``$KIGI_LOCAL`` or ``/var/lib/kigi-local``."""
    return Path(os.environ.get("KIGI_LOCAL") or "/var/lib/kigi-local")
