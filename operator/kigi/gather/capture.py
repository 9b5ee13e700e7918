"""The view of one SystemCapture: from the mirror, and from the API server where a stale answer would do harm."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from kigi.adapters import kubevirt
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import BY_KIND, IMAGE, SYSTEM, VMI
from kigi.api.node_cache import CaptureReport
from kigi.domain import names
from kigi.errors import DeploymentMissing, KigiError
from kigi.gather.deployment import gather_deployment
from kigi.gather.nodes import is_alive
from kigi.mirror.records import CaptureRecord
from kigi.mirror.store import Mirror
from kigi.planning.capture_progress import progress_of
from kigi.planning.capture_results import key_of, result_objects
from kigi.planning.capture_view import MAX_PAUSE, CaptureView, ObjectKey, ObservedVmi
from kigi.planning.captures import machines_to_verify
from kigi.planning.copies import NodeLife, life_of
from kigi.planning.view import DeploymentView


def gather_capture(
    mirror: Mirror, record: CaptureRecord, now: datetime, *, max_pause: timedelta = MAX_PAUSE
) -> CaptureView:
    """The view of one capture; its spec must be valid. O(its deployment's machines + nodes)."""
    assert not isinstance(record.spec, KigiError)
    meta, namespace = record.meta, record.meta.namespace or ""
    progress = progress_of(record.status)
    reports: dict[str, CaptureReport] = {}
    for node in {disk.node for disk in progress.disks}:
        cache = mirror.caches.get(None, node)
        reports.update(cache.captures if cache is not None else {})
    deployment = record.spec.deployment.name
    return CaptureView(
        namespace=namespace,
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.FINALIZER in meta.finalizers,
        spec=record.spec,
        progress=progress,
        deployment=_deployment(mirror, namespace, deployment, now),
        agents=frozenset(vmi.meta.uid for vmi in mirror.vmis.by("deployment", (namespace, deployment)) if vmi.agent),
        taken=frozenset(
            (resource.kind, node.meta.name)
            for resource, store in ((IMAGE, mirror.images), (SYSTEM, mirror.systems))
            for node in store.by("namespace", namespace)
        ),
        reports=reports,
        lives={node.meta.name: _life(mirror, node.meta.name, now) for node in mirror.nodes},
        now=now,
        max_pause=max_pause,
    )


async def with_live_state(kube: KubeClient, view: CaptureView) -> CaptureView:
    """The view with VMIs or objects that the mirror may show too late, read from the API server when they decide.

    Requests: one GET for each VM before the copies count, one for each object of the result in the phase Publishing.
    """
    if machines := machines_to_verify(view):
        found = await asyncio.gather(*(_observe_vmi(kube, view, machine.name) for machine in machines))
        vmis = zip((machine.name for machine in machines), found, strict=True)
        view = replace(view, vmis={name: vmi for name, vmi in vmis if vmi is not None})
    if view.progress.phase == "Publishing":
        keys = [key_of(manifest) for manifest in result_objects(view)]
        specs = await asyncio.gather(*(_observe_spec(kube, view.namespace, key) for key in keys))
        view = replace(view, existing={key: spec for key, spec in zip(keys, specs, strict=True) if spec is not None})
    return view


async def _observe_vmi(kube: KubeClient, view: CaptureView, machine: str) -> ObservedVmi | None:
    body = await kube.get(VMI, view.namespace, view.vm_name(machine))
    if body is None:
        return None
    return ObservedVmi(body["metadata"]["uid"], kubevirt.condition(body, "Paused").get("status") == "True")


async def _observe_spec(kube: KubeClient, namespace: str, key: ObjectKey) -> Mapping[str, Any] | None:
    body = await kube.get(BY_KIND[key[0]], namespace, key[1])
    return None if body is None else body.get("spec") or {}


def _deployment(mirror: Mirror, namespace: str, name: str, now: datetime) -> DeploymentView | KigiError:
    found = mirror.deployments.get(namespace, name)
    if found is None or found.meta.deleting:
        return DeploymentMissing(f"spec.deployment.name: there is no SystemDeployment {namespace}/{name}")
    return found.spec if isinstance(found.spec, KigiError) else gather_deployment(mirror, found, now)


def _life(mirror: Mirror, node: str, now: datetime) -> NodeLife:
    cache = mirror.caches.get(None, node)
    return life_of(node_exists=True, cache_alive=cache is not None and is_alive(mirror, cache, now))
