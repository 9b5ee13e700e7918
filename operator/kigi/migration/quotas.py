"""SystemQuotas for layers that are pinned in v1alpha1, which needs no right for it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from kigi.domain import kinds, names
from kigi.migration.problems import Body, Findings

_NAME_LABEL = "kubernetes.io/metadata.name"
"""Label that the API server sets on each namespace."""


def quotas_for_pins(prefetches: Iterable[Body], findings: Findings) -> list[Body]:
    """One SystemQuota per namespace with SystemPrefetches that pin: it permits what they order, and nothing more.

    Without it the first reconcile of v1alpha2 would release the layers for eviction.
    """
    pinned: dict[str, int] = defaultdict(int)
    for body in prefetches:
        if not body["spec"].get("pinned"):
            continue
        size_bytes = int((body.get("status") or {}).get("wantedBytes") or 0)
        if size_bytes:
            pinned[body["metadata"]["namespace"]] += size_bytes
        else:
            findings.note(
                body,
                "spec.pinned: its status has no wantedBytes, so that nothing is known to be pinned; v1alpha2 pins "
                "layers only if a SystemQuota gives the namespace pinnedBytes: create one",
            )
    quotas = [_quota(namespace, size_bytes) for namespace, size_bytes in sorted(pinned.items())]
    for quota in quotas:
        size_bytes = quota["spec"]["hard"]["pinnedBytes"]
        findings.note(
            quota,
            f"it is created and lets the namespace pin what its SystemPrefetches pin now, {size_bytes} bytes on "
            "all nodes together; change spec.hard.pinnedBytes to permit more, or replace it by another SystemQuota",
        )
    return quotas


def _quota(namespace: str, size_bytes: int) -> Body:
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.QUOTA,
        "metadata": {"name": f"pinned-{namespace}"},
        "spec": {
            "namespaceSelector": {"matchLabels": {_NAME_LABEL: namespace}},
            "hard": {"pinnedBytes": size_bytes},
        },
    }
