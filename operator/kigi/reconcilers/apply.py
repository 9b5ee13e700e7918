"""Carries out steps: in their order, and at once where they do not depend on each other.

Objects that are applied one after another depend on each other within one machine only: its volume, its claim, its VM.
Deletions of one kind that follow each other do not depend on each other at all; nor do other steps of one sort. What
the API server answers goes into the mirror, so that the next decision sees it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from kigi.adapters.kubernetes import resources
from kigi.domain import names
from kigi.errors import Conflict, KigiError, NameTaken
from kigi.planning.steps import (
    AddFinalizer,
    ApplyObject,
    DeleteObject,
    EmitEvent,
    ReleaseVolume,
    RemoveFinalizer,
    RestartMachine,
    Step,
)
from kigi.runtime import metrics
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

AT_ONCE = 32
"""Machines under way at once in one pass; the client bounds all passes together."""
RESTART_AGAIN_S = 10.0
"""An instance that was asked to end and has not is asked again after this."""
WRITTEN_ONCE = frozenset({resources.VOLUME.kind, resources.CLAIM.kind})
"""Kinds that Kigi never changes: they are created, and never applied over what somebody else made of that name."""


async def apply_steps(ports: Ports, steps: Iterable[Step]) -> None:
    """Carries out all steps, or raises the first error of the first group that had one; later groups are left out."""
    for _, group in itertools.groupby(steps, _sort):
        await _together(ports, list(group))


def _sort(step: Step) -> tuple[str, str]:
    return (type(step).__name__, step.kind if isinstance(step, DeleteObject) else "")


def _lane(step: Step) -> object:
    """Steps of one lane are done one after another: those of one machine."""
    if isinstance(step, ApplyObject):
        labels = step.manifest["metadata"].get("labels") or {}
        return tuple(labels.get(name) for name in _SLOT) if names.LABEL_MACHINE in labels else step.manifest["kind"]
    return id(step)


_SLOT = (names.LABEL_NAMESPACE, names.LABEL_DEPLOYMENT, names.LABEL_INSTANCE, names.LABEL_MACHINE)


async def _together(ports: Ports, steps: list[Step]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    errors: list[KigiError] = []
    lanes: dict[object, list[Step]] = defaultdict(list)
    for step in steps:
        lanes[_lane(step)].append(step)

    async def go(lane: list[Step]) -> None:
        async with slots:
            try:
                for step in lane:
                    await apply_step(ports, step)
            except KigiError as exc:
                errors.append(exc)

    async with asyncio.TaskGroup() as group:
        for lane in lanes.values():
            group.create_task(go(lane))
    if errors:
        raise errors[0]


async def apply_step(ports: Ports, step: Step) -> None:
    """Carries out one step; safe to do twice."""
    match step:
        case AddFinalizer(namespace, name):
            await set_finalizer(ports, resources.DEPLOYMENT, namespace, name, names.FINALIZER, wanted=True)
        case RemoveFinalizer(namespace, name):
            await set_finalizer(ports, resources.DEPLOYMENT, namespace, name, names.FINALIZER, wanted=False)
        case ReleaseVolume(name):
            await set_finalizer(ports, resources.VOLUME, None, name, names.OVERLAY_FINALIZER, wanted=False)
        case ApplyObject(manifest):
            await _apply_object(ports, manifest)
        case DeleteObject(kind, name, namespace):
            await _delete_object(ports, kind, namespace, name)
        case RestartMachine():
            await _restart(ports, step)
        case EmitEvent():
            pass
    metrics.STEPS.labels(type(step).__name__).inc()
    logger.info("step done", extra={"step": type(step).__name__, "object": _named(step)})


def _named(step: Step) -> str:
    if isinstance(step, ApplyObject):
        meta = step.manifest["metadata"]
        return f"{step.manifest['kind']} {meta.get('namespace', '')}/{meta['name']}"
    return f"{getattr(step, 'kind', '')} {getattr(step, 'namespace', '') or ''}/{getattr(step, 'name', '')}"


async def _apply_object(ports: Ports, manifest: Mapping[str, Any]) -> None:
    kind, meta = manifest["kind"], manifest["metadata"]
    known = ports.mirror.stores[kind].get(meta.get("namespace"), meta["name"])
    if kind in WRITTEN_ONCE:
        if known is None:
            await _create(ports, manifest)
        return
    try:
        # What the mirror does not know might be somebody else's: taking it over would take an argument about fields.
        ports.see(kind, await ports.kube.apply(manifest, force=known is not None))
    except Conflict:
        if known is None:
            await _look(ports, manifest)
        raise


async def _create(ports: Ports, manifest: Mapping[str, Any]) -> None:
    try:
        ports.see(manifest["kind"], await ports.kube.create(resources.resource_of(manifest), manifest))
    except Conflict:
        await _look(ports, manifest)


async def _look(ports: Ports, manifest: Mapping[str, Any]) -> None:
    """The mirror did not know an object of that name: it does now, if it is ours. Else NameTaken."""
    resource, meta = resources.resource_of(manifest), manifest["metadata"]
    body = await ports.kube.get(resource, meta.get("namespace"), meta["name"])
    if body is None:
        return
    labels = body["metadata"].get("labels") or {}
    if resource.selector and labels.get(resource.selector) != meta["labels"][resource.selector]:
        raise NameTaken(
            f"{resource.kind} {meta.get('namespace') or ''}/{meta['name']} exists and is not of this deployment; "
            "rename the deployment or delete that object"
        )
    ports.see(resource.kind, body)


async def _delete_object(ports: Ports, kind: str, namespace: str | None, name: str) -> None:
    """Deletes the object that the decision was made on: a namesake that came after it has another uid."""
    known = ports.mirror.stores[kind].get(namespace, name)
    if known is None:
        return
    answer = await ports.kube.delete(resources.BY_KIND[kind], namespace, name, uid=known.meta.uid)
    if answer is not None:
        ports.see(kind, answer)
    else:
        ports.see_gone(kind, namespace, name, known.meta.uid)


async def set_finalizer(
    ports: Ports, resource: resources.Resource, namespace: str | None, name: str, finalizer: str, *, wanted: bool
) -> None:
    """Puts the finalizer on the object, or takes it off; Conflict, and a fresh mirror, if the object moved on."""
    record = ports.mirror.stores[resource.kind].get(namespace, name)
    if record is None:
        return
    present: tuple[str, ...] = record.meta.finalizers
    if (finalizer in present) == wanted:
        return
    body = {"metadata": {"name": name, "uid": record.meta.uid, "resourceVersion": str(record.meta.version)}}
    others = [item for item in present if item != finalizer]
    try:
        answer = await ports.kube.set_finalizers(resource, namespace, body, [*others, finalizer] if wanted else others)
    except Conflict:
        # Somebody wrote the object meanwhile: look at it, and let the next pass decide on what is there now.
        newer = await ports.kube.get(resource, namespace, name)
        if newer is not None:
            ports.see(resource.kind, newer)
        raise
    if answer is None or (record.meta.deleting and not others and not wanted):
        ports.see_gone(resource.kind, namespace, name, record.meta.uid)
    else:
        ports.see(resource.kind, answer)


async def _restart(ports: Ports, step: RestartMachine) -> None:
    """Ends that instance and no other; its successor may already run.

    KubeVirt's restart names no uid: it is asked only when a look just before shows that instance. It is fast (it
    kills, and asks no guest to shut down) unless it is asked to be graceful. Where KubeVirt does not serve it, the
    instance is deleted by its uid.
    """
    namespace, name, vmi_uid = step.namespace, step.name, step.vmi_uid
    now = time.monotonic()
    if now - ports.restarted.get(vmi_uid, -RESTART_AGAIN_S) < RESTART_AGAIN_S:
        return
    body = await ports.kube.get(resources.VMI, namespace, name)
    if body is None or body["metadata"]["uid"] != vmi_uid:
        record = ports.mirror.vmis.get(namespace, name)
        if record is not None and record.meta.uid == vmi_uid:
            ports.see_gone(resources.VMI.kind, namespace, name, vmi_uid)
        if body is not None:
            ports.see(resources.VMI.kind, body)
        return
    ports.see(resources.VMI.kind, body)
    if body["metadata"].get("deletionTimestamp"):
        return
    if not await ports.kube.restart_machine(namespace, name, gracefully=step.gracefully):
        answer = await ports.kube.delete(resources.VMI, namespace, name, uid=vmi_uid)
        if answer is not None:
            ports.see(resources.VMI.kind, answer)
    for uid in [uid for uid, at in ports.restarted.items() if now - at > RESTART_AGAIN_S]:
        del ports.restarted[uid]
    ports.restarted[vmi_uid] = now
