"""Names for the shell's completion."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from kigi.adapters.resources import BY_KIND
from kigi.cli.cluster import Access, open_cluster

LIMIT_S = 2.0


def names_of(parameters: Mapping[str, Any], plural: str, incomplete: str) -> list[str]:
    """Objects of that kind whose names begin so; none when the cluster does not answer at once."""
    try:
        return asyncio.run(_names(parameters, plural, incomplete))
    except Exception:  # an error would be printed in the middle of the user's line
        return []


async def _names(parameters: Mapping[str, Any], plural: str, incomplete: str) -> list[str]:
    access = Access(parameters.get("kubeconfig"), parameters.get("context"), parameters.get("namespace"))
    resource = next(resource for resource in BY_KIND.values() if resource.plural == plural)
    async with asyncio.timeout(LIMIT_S), open_cluster(access) as kube:
        names = [body["metadata"]["name"] async for body in kube.list_all(resource, access.default_namespace())]
    return sorted(name for name in names if name.startswith(incomplete))
