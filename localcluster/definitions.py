"""Waiting for CustomResourceDefinitions that were just applied."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from localcluster.bounded import TimedOut

WAIT_S = 60.0
POLL_S = 0.2


def wait_until_served(kubectl: Callable[..., str]) -> None:
    """Returns when the API server serves all definitions that it has. Raises TimedOut, which names the others.

    ``kubectl wait`` is no substitute: for a definition that has no conditions yet it ends with an error.
    """
    deadline = time.monotonic() + WAIT_S
    while waiting := [body["metadata"]["name"] for body in _definitions(kubectl) if not _is_established(body)]:
        if time.monotonic() > deadline:
            raise TimedOut(f"after {WAIT_S:.0f} s the API server does not serve {', '.join(waiting)}")
        time.sleep(POLL_S)


def _definitions(kubectl: Callable[..., str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", "crd", "-o", "json"))["items"]
    return found


def _is_established(body: dict[str, Any]) -> bool:
    conditions = body.get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
