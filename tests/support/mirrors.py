"""Mirrors of a cluster that has what every cluster needs."""

from __future__ import annotations

import time
from collections.abc import Callable

from kigi.mirror.store import Mirror
from tests.support.bodies import repository_body


def new_mirror(clock: Callable[[], float] = time.monotonic) -> Mirror:
    """A mirror with one LayerRepository, ``default``, for all namespaces."""
    mirror = Mirror(clock)
    mirror.put("LayerRepository", repository_body())
    return mirror
