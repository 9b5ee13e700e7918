"""What exceeds the limits of a SystemQuota, by its status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kigi.domain.quantities import parse_quantity


def exceeded_by(body: Mapping[str, Any]) -> list[str]:
    """Names of the namespaces that use more than a limit; of all that use something if the limits are shared."""
    spec, used = body.get("spec") or {}, (body.get("status") or {}).get("namespaces") or ()
    hard = spec.get("hard") or {}
    if spec.get("scope") == "Shared":
        amounts = {name: sum(each["used"].get(name, 0) for each in used) for name in hard}
        return [each["name"] for each in used] if any(_above(amounts, hard)) else []
    return [each["name"] for each in used if any(_above(each["used"], hard))]


def _above(used: Mapping[str, int], hard: Mapping[str, Any]) -> Iterator[bool]:
    for name, limit in hard.items():
        yield used.get(name, 0) > (limit if isinstance(limit, int) else parse_quantity(str(limit)))
