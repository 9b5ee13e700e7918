"""``kigi delete``: an image or a state, unless something uses it."""

from __future__ import annotations

import asyncio
import contextlib

from kigi.adapters.kube import KubeClient
from kigi.adapters.resources import IMAGE, SYSTEM
from kigi.cli.cluster import open_cluster, read_mirror
from kigi.domain.images import Image
from kigi.domain.quantities import format_bytes
from kigi.domain.usage import NodeKey, format_users, freed_bytes, unused_without
from kigi.errors import Forbidden, ImageMissing, InUse, SystemMissing
from kigi.gather import image_users, system_users
from kigi.mirror import Mirror


def run_delete(kind: str, name: str, *, namespace: str, dry_run: bool) -> None:
    """Deletes, or says what that would free; raises InUse with the users, ImageMissing or SystemMissing."""
    print(asyncio.run(_delete(kind, name, namespace, dry_run)))


async def _delete(kind: str, name: str, namespace: str, dry_run: bool) -> str:
    resource = IMAGE if kind == "image" else SYSTEM
    async with open_cluster() as kube:
        mirror = await read_mirror(kube, namespace=namespace)
        record = mirror.stores[resource.kind].get(namespace, name)
        if record is None:
            missing = ImageMissing if resource is IMAGE else SystemMissing
            raise missing(f"{resource.kind} {namespace}/{name} does not exist")
        users = (image_users if resource is IMAGE else system_users)(mirror, namespace, name)
        if users:
            raise InUse(f"{resource.kind} {namespace}/{name} is used by {format_users(users)}; delete them first")
        if dry_run:
            return await _freed(kube, mirror, kind, name, namespace)
        left = await kube.delete(resource, namespace, name, uid=record.meta.uid)
    what = f"{resource.kind} {namespace}/{name}"
    return f"{what} deleted" if left is None else f"{what} is deleted when the operator has looked at it"


async def _freed(kube: KubeClient, mirror: Mirror, kind: str, name: str, namespace: str) -> str:
    """What the repository need not keep any more, in words."""
    everywhere, bound = mirror, "at most "
    # Who may not list the cluster gets the answer of this namespace's trees.
    with contextlib.suppress(Forbidden):
        everywhere, bound = await read_mirror(kube, (IMAGE,)), ""
    images = images_of_mirror(everywhere)
    here = {key[1]: image for key, image in images.items() if key[0] == namespace}
    alone = () if kind == "image" else unused_without(here, mirror.trees(namespace).systems(), name)
    freed = freed_bytes(images, [(namespace, each) for each in ((name,) if kind == "image" else alone)])
    amount = f"{bound}{freed} bytes ({format_bytes(freed)})"
    layers = f"{amount} of the repository (layers that no other tree names)"
    if kind == "image":
        return f"deleting this frees {layers}"
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
