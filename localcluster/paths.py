"""Where things are kept: the cache of built programs, and the state of the running cluster."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Directory of everything that was built and can be built again; made when absent.

    ``$KIGI_CACHE``, else ``kigi`` below the user's cache directory.
    """
    base = os.environ.get("KIGI_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(base) if base else user / "kigi"
    path.mkdir(parents=True, exist_ok=True)
    return path


def state_dir() -> Path:
    """Directory of the local cluster that runs on this machine; ``$KIGI_LOCAL`` or ``/var/lib/kigi-local``."""
    return Path(os.environ.get("KIGI_LOCAL") or "/var/lib/kigi-local")
