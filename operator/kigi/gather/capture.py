"""The view of one SystemCapture: from the mirror, and from the API server where a stale answer would do harm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from kigi.adapters import kubevirt
from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import BY_KIND, IMAGE, SYSTEM, VMI
from kigi.api.capture import SystemCaptureSpec
from kigi.api.node_cache import MAX_CAPTURES, CaptureReport
from kigi.domain import names
from kigi.domain.node_protocol import NodeCacheFull, UploadRefused, skew
from kigi.domain.tree_names import is_foreign, name_in
from kigi.errors import DeploymentMissing, KigiError
from kigi.gather.instance import gather_instance
from kigi.mirror.records import CacheRecord, CaptureRecord
from kigi.mirror.store import Mirror
from kigi.planning.capture_results import key_of, result_objects
from kigi.planning.capture_view import MAX_PAUSE, CaptureView, ObjectKey, ObservedVmi, owner_of
from kigi.planning.captures import machines_to_verify
from kigi.planning.copies import NodeLife, life_of
from kigi.planning.uploads import WAITING
from kigi.planning.view import InstanceView


def gather_capture(
    mirror: Mirror, record: CaptureRecord, now: datetime, *, max_pause: timedelta = MAX_PAUSE
) -> CaptureView:
    """The view of one capture; its spec and status must be readable. O(its instance's machines + nodes)."""
    assert not isinstance(record.spec, KigiError)
    assert not isinstance(record.progress, KigiError)
    meta, namespace = record.meta, record.meta.namespace or ""
    progress = record.progress
    owner = owner_of(meta.uid, namespace, record.spec)
    reports: dict[str, CaptureReport] = {}
    for node in {disk.node_name for disk in progress.disks}:
        cache = mirror.caches.get(None, node)
        if cache is not None:
            disks = (disk for disk in progress.disks if disk.node_name == node)
            reports.update(_omitted(cache, (owner.id_of(progress, disk) for disk in disks)))
            reports.update(cache.captures)
            reports.update(_refused_uploads(cache))
    instance = _instance(mirror, namespace, record.spec.instance_ref.name, now)
    return CaptureView(
        namespace=namespace,
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.CAPTURE_FINALIZER in meta.finalizers,
        spec=record.spec,
        progress=progress,
        instance=instance,
        images=_images(mirror, instance),
        agents=frozenset(
            vmi.meta.uid for vmi in mirror.vmis.by("instance", (namespace, *record.spec.instance)) if vmi.agent
        ),
        taken=frozenset(
            (resource.kind, node.meta.name)
            for resource, store in ((IMAGE, mirror.images), (SYSTEM, mirror.systems))
            for node in store.by("namespace", namespace)
        ),
        reports=reports,
        lives={name: _life(mirror, name) for _, name in {*mirror.nodes.objects, *mirror.caches.objects}},
        now=now,
        created=meta.created,
        max_pause=max_pause,
        repository=_repository(mirror, namespace, record.spec),
    )


async def with_live_state(kube: KubeClient, view: CaptureView) -> CaptureView:
    """The view with VMIs or objects that the mirror may show too late, read from the API server when they decide.

    Requests: one GET for each VM before the copies count, one for each object of the result in the stage Publishing.
    """
    if machines := machines_to_verify(view):
        found = await asyncio.gather(*(_observe_vmi(kube, view, machine.name) for machine in machines))
        vmis = zip((machine.name for machine in machines), found, strict=True)
        view = replace(view, vmis={name: vmi for name, vmi in vmis if vmi is not None})
    if view.progress.stage == "Publishing":
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


def _instance(mirror: Mirror, namespace: str, name: str, now: datetime) -> InstanceView | KigiError:
    found = mirror.instances.get(namespace, name)
    if found is None or found.meta.deleting:
        return DeploymentMissing(f"spec.instanceRef.name: there is no SystemInstance {namespace}/{name}")
    try:
        return gather_instance(mirror, found, now)
    except KigiError as exc:
        return exc


def _repository(mirror: Mirror, namespace: str, spec: SystemCaptureSpec) -> str | KigiError:
    ref = spec.target.repository_ref if spec.target is not None else None
    try:
        name = mirror.repository_name(namespace, ref.name if ref else None, "spec.target.repositoryRef")
    except KigiError as exc:
        return exc
    record = mirror.repositories.get(None, name)
    if record is None or isinstance(record.spec, KigiError) or record.spec.credentials.writer_secret_ref is not None:
        return name
    return UploadRefused(
        f"repository {name} takes no captures, as its LayerRepository has no spec.credentials.writerSecretRef; an "
        "administrator can set it, or name another one in spec.target.repositoryRef"
    )


def _images(mirror: Mirror, instance: InstanceView | KigiError) -> Mapping[str, str]:
    """Name of an image for the topmost layer of each disk of the instance, by digest.

    Of several images, the first of the instance's namespace is taken, or the first of another one that it may use.
    """
    if isinstance(instance, KigiError):
        return {}
    wanted = {volume.chain[-1].digest for volume in instance.volumes if volume.chain}
    found: dict[str, str] = {}
    metas = [record.meta for digest in wanted for record in mirror.images.by("digest", digest)]
    names = (name_in(instance.namespace, meta.namespace, meta.name) for meta in metas)
    for name in sorted(names, key=lambda name: (is_foreign(name), name)):
        chain = mirror.chain(instance.namespace, name)
        if not isinstance(chain, KigiError):
            found.setdefault(chain[-1].digest, name)
    return found


def _omitted(cache: CacheRecord, ids: Iterable[str]) -> Iterator[tuple[str, CaptureReport]]:
    """Reports of copies for which the NodeCache has no place."""
    if cache.spec is None or cache.spec.omitted is None or not cache.spec.omitted.captures:
        return
    ordered = {order.id for order in cache.spec.captures}
    message = f"a node copies at most {MAX_CAPTURES} disks at a time; capture fewer machines, or when others are done"
    for id_ in ids:
        if id_ not in ordered:
            yield id_, CaptureReport(id=id_, state="Refused", reason=NodeCacheFull.reason, message=message)


def _refused_uploads(cache: CacheRecord) -> Iterator[tuple[str, CaptureReport]]:
    """Reports of copies whose layers the operator does not let the node store, with its reason."""
    for order in cache.spec.captures if cache.spec is not None else ():
        report = cache.captures.get(order.id)
        if report is None or report.state not in WAITING or order.upload is None:
            continue
        if order.upload.reason is not None:
            update = {"state": "Refused", "reason": order.upload.reason, "message": order.upload.message}
            yield order.id, report.model_copy(update=update)


def _life(mirror: Mirror, node: str) -> NodeLife:
    cache = mirror.caches.get(None, node)
    if cache is None:
        return life_of(node_exists=True, cache_alive=False)
    alive = mirror.heartbeats.is_alive(node)
    return life_of(node_exists=True, cache_alive=alive, has_skew=bool(skew(node, cache.protocols)))
