"""Names for the shell's completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters.kubernetes.resources import BY_KIND
from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.cluster import MANAGER, Access

LIMIT_S = 2.0


def names_of(parameters: Mapping[str, Any], plural: str, incomplete: str) -> list[str]:
    """Objects of that kind whose names begin so; none when the cluster does not answer at once."""
    access = Access(parameters.get("kubeconfig"), parameters.get("context"), parameters.get("namespace"))
    resource = next(resource for resource in BY_KIND.values() if resource.plural == plural)
    try:
        with KubeSession(access.endpoint(), manager=MANAGER, timeout_s=LIMIT_S) as kube:
            names = [body["metadata"]["name"] for body in kube.list_all(resource, access.default_namespace())]
    except Exception:  # an error would be printed in the middle of the user's line
        return []
    return sorted(name for name in names if name.startswith(incomplete))
