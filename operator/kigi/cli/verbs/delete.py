"""``kigi delete``: an image or a state, unless something uses it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.cluster import Access, open_cluster, read_mirror
from kigi.cli.output import Format, tell
from kigi.domain.images import Image
from kigi.domain.quantities import format_bytes
from kigi.domain.usage import NodeKey, format_users, freed_bytes, unused_without
from kigi.errors import Forbidden, ImageMissing, InUse, SystemMissing
from kigi.gather.trees import image_users, system_users
from kigi.mirror.store import Mirror


def run_delete(access: Access, kind: str, name: str, *, dry_run: bool, form: Format = Format.TABLE) -> None:
    """Deletes, or says what that would free; raises InUse with the users, ImageMissing or SystemMissing."""
    done, text = _delete(access, kind, name, dry_run)
    if form is Format.TABLE:
        print(text)
    tell(done, form)


def _delete(access: Access, kind: str, name: str, dry_run: bool) -> tuple[dict[str, Any], str]:
    """What was done, or would be, for programs and in words."""
    resource, namespace = IMAGE if kind == "image" else SYSTEM, access.default_namespace()
    done: dict[str, Any] = {"kind": resource.kind, "namespace": namespace, "name": name}
    with open_cluster(access) as kube:
        mirror = read_mirror(kube, namespace=namespace)
        record = mirror.stores[resource.kind].get(namespace, name)
        if record is None:
            missing = ImageMissing if resource is IMAGE else SystemMissing
            raise missing(f"{resource.kind} {namespace}/{name} does not exist")
        users = (image_users if resource is IMAGE else system_users)(mirror, namespace, name)
        if users:
            raise InUse(f"{resource.kind} {namespace}/{name} is used by {format_users(users)}; delete them first")
        if dry_run:
            freed = _freed(kube, mirror, kind, name, namespace)
            return {**done, "action": "none", **freed}, _freed_text(kind, freed)
        left = kube.delete(resource, namespace, name, uid=record.meta.uid)
    what = f"{resource.kind} {namespace}/{name}"
    if left is None:
        return {**done, "action": "deleted"}, f"{what} deleted"
    return {**done, "action": "deleting"}, f"{what} is deleted when the operator has looked at it"


def _freed(kube: KubeSession, mirror: Mirror, kind: str, name: str, namespace: str) -> dict[str, Any]:
    """What the repository need not keep any more: bytes, at most or exactly, and images that nothing else uses."""
    everywhere, exact = mirror, False
    # Who may not list the cluster gets the answer of this namespace's trees.
    with contextlib.suppress(Forbidden):
        everywhere, exact = read_mirror(kube, (IMAGE,)), True
    images = images_of_mirror(everywhere)
    here = {key[1]: image for key, image in images.items() if key[0] == namespace}
    alone = () if kind == "image" else unused_without(here, mirror.trees(namespace).systems(), name)
    freed = freed_bytes(images, [(namespace, each) for each in ((name,) if kind == "image" else alone)])
    return {"freedBytes": freed, "exact": exact, "unusedImages": list(alone)}


def _freed_text(kind: str, freed: Mapping[str, Any]) -> str:
    bound = "" if freed["exact"] else "at most "
    amount = f"{bound}{freed['freedBytes']} bytes ({format_bytes(freed['freedBytes'])})"
    layers = f"{amount} of the repository (layers that no other tree names)"
    if kind == "image":
        return f"deleting this frees {layers}"
    alone = freed["unusedImages"]
    if not alone:
        return "deleting this frees 0 bytes of the repository: something else uses each of its images"
    return f"deleting this frees 0 bytes; its images that nothing else uses are {layers}: {', '.join(alone)}"


def images_of_mirror(mirror: Mirror) -> dict[NodeKey, Image]:
    """Every valid image, by namespace and name."""
    return {
        (record.meta.namespace or "", record.meta.name): record.image
        for record in mirror.images
        if isinstance(record.image, Image)
    }
