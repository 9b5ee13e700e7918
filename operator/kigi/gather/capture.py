"""The view of one SystemCapture."""

from __future__ import annotations

from datetime import datetime

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.api.capture import SystemCaptureStatus
from kigi.api.node_cache import CaptureReport
from kigi.domain import names
from kigi.errors import DeploymentMissing, KigiError
from kigi.gather.deployment import gather_deployment
from kigi.gather.nodes import is_alive as _is_alive
from kigi.mirror.records import (
    CaptureRecord,
)
from kigi.mirror.store import Mirror
from kigi.planning.capture_view import CaptureView
from kigi.planning.copies import life_of
from kigi.planning.view import (
    DeploymentView,
)


def gather_capture(mirror: Mirror, record: CaptureRecord, now: datetime) -> CaptureView:
    """The view of one capture; its spec must be valid. O(its deployment's machines + nodes)."""
    assert not isinstance(record.spec, KigiError)
    meta, namespace = record.meta, record.meta.namespace or ""
    status = record.status or SystemCaptureStatus()
    reports: dict[str, CaptureReport] = {}
    for node in {disk.node for disk in status.disks}:
        cache = mirror.caches.get(None, node)
        reports.update(cache.captures if cache is not None else {})
    name = record.spec.deployment.name
    found = mirror.deployments.get(namespace, name)
    deployment: DeploymentView | KigiError
    if found is None or found.meta.deleting:
        deployment = DeploymentMissing(f"spec.deployment.name: there is no SystemDeployment {namespace}/{name}")
    elif isinstance(found.spec, KigiError):
        deployment = found.spec
    else:
        deployment = gather_deployment(mirror, found, now)
    return CaptureView(
        namespace=namespace,
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.FINALIZER in meta.finalizers,
        spec=record.spec,
        status=status,
        deployment=deployment,
        agents=frozenset(vmi.meta.uid for vmi in mirror.vmis.by("deployment", (namespace, name)) if vmi.agent),
        taken=frozenset(
            (resource.kind, node.meta.name)
            for resource, store in ((IMAGE, mirror.images), (SYSTEM, mirror.systems))
            for node in store.by("namespace", namespace)
        ),
        reports=reports,
        lives={
            node.meta.name: life_of(
                node_exists=True,
                cache_alive=(cache := mirror.caches.get(None, node.meta.name)) is not None
                and _is_alive(mirror, cache, now),
            )
            for node in mirror.nodes
        },
        now=now,
    )
