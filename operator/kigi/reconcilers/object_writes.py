"""Writes of single objects whose answers go into the mirror, and which never touch another owner's object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters.kubernetes import resources
from kigi.domain.names import EARLIER_FINALIZERS, LABEL_MANAGED_BY, MANAGER
from kigi.errors import Conflict, NameTaken
from kigi.planning.steps import PatchObject
from kigi.runtime.ports import Ports

CREATED_ONLY = frozenset({resources.VOLUME.kind, resources.CLAIM.kind, resources.INSTANCE.kind})
"""Kinds that Kigi creates and never changes. It does not apply them over an object that another owner made."""


async def apply_object(ports: Ports, manifest: Mapping[str, Any]) -> None:
    """Applies the object, or creates it if Kigi never changes its kind. NameTaken if another owner has its name."""
    manifest = _marked(manifest)
    kind, meta = manifest["kind"], manifest["metadata"]
    known = ports.mirror.stores[kind].get(meta.get("namespace"), meta["name"])
    if kind in CREATED_ONLY:
        if known is None:
            await _create(ports, manifest)
        return
    try:
        # An object that the mirror does not know may have another owner: without force, that is a Conflict.
        ports.see(kind, await ports.kube.apply(manifest, force=known is not None))
    except Conflict:
        if known is None:
            await _adopt(ports, manifest)
        raise


def _marked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the label of its manager; not the template in it, as a changed template would restart a VM.

    An object of an earlier version gets the label when it is applied for another reason.
    """
    meta = manifest["metadata"]
    return {**manifest, "metadata": {**meta, "labels": {**meta.get("labels", {}), LABEL_MANAGED_BY: MANAGER}}}


async def patch_object(ports: Ports, step: PatchObject) -> None:
    """Patches the object with that uid. Conflict if another object has its name now."""
    body = {**step.patch, "metadata": {**step.patch.get("metadata", {}), "uid": step.uid}}
    answer = await ports.kube.merge_patch(resources.BY_KIND[step.kind], step.namespace, step.name, body)
    if answer is not None:
        ports.see(step.kind, answer)
    else:
        ports.see_gone(step.kind, step.namespace, step.name, step.uid)


async def delete_object(ports: Ports, kind: str, namespace: str | None, name: str) -> None:
    """Deletes the object that the decision was based on. A recreated object has another uid, and stays."""
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
    """Adds or removes the finalizer. Conflict if the object has changed; the mirror then has its newest version."""
    record = ports.mirror.stores[resource.kind].get(namespace, name)
    if record is None:
        return
    present: tuple[str, ...] = record.meta.finalizers
    ours = (finalizer, *EARLIER_FINALIZERS.get(finalizer, ()))
    if any(item in present for item in ours) == wanted:
        return
    body = {"metadata": {"name": name, "uid": record.meta.uid, "resourceVersion": str(record.meta.version)}}
    others = [item for item in present if item not in ours]
    try:
        answer = await ports.kube.set_finalizers(resource, namespace, body, [*others, finalizer] if wanted else others)
    except Conflict:
        newer = await ports.kube.get(resource, namespace, name)
        if newer is not None:
            ports.see(resource.kind, newer)
        raise
    if answer is None or (record.meta.deleting and not others and not wanted):
        ports.see_gone(resource.kind, namespace, name, record.meta.uid)
    else:
        ports.see(resource.kind, answer)


async def _create(ports: Ports, manifest: Mapping[str, Any]) -> None:
    try:
        ports.see(manifest["kind"], await ports.kube.create(resources.resource_of(manifest), manifest))
    except Conflict:
        await _adopt(ports, manifest)


async def _adopt(ports: Ports, manifest: Mapping[str, Any]) -> None:
    """Takes an existing object of that name into the mirror, which did not know it. NameTaken if it is not Kigi's."""
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
