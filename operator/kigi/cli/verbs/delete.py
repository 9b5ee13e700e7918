"""``kigi delete``: an image or a state that nothing uses."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM
from kigi.cli.cluster import Access, open_cluster, read_mirror
from kigi.cli.consent import Consent, consent_options
from kigi.cli.options import cluster_options, result_option
from kigi.cli.output import Format, print_message, print_result
from kigi.domain.images import Image
from kigi.domain.quantities import format_bytes
from kigi.domain.usage import NodeKey, format_users, freed_bytes, unused_without
from kigi.errors import Forbidden, ImageMissing, InUse, SystemMissing

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.mirror.store import Mirror

KINDS = ("image", "state")


@click.command("delete")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@consent_options
@result_option
@cluster_options()
def command(access: Access, kind: str, name: str, consent: Consent, form: Format) -> None:
    """Delete an image or a state that nothing uses.

    Refused immediately, with the list of users, while something uses it. Shows how many bytes it frees, and asks.

    \b
    KIND: image (VMImageNode) or state (SystemNode).
    NAME: name of the object.
    """
    done, text = _delete(access, kind, name, consent)
    if form is Format.TABLE:
        print(text)
    print_result(done, form)


def _delete(access: Access, kind: str, name: str, consent: Consent) -> tuple[dict[str, Any], str]:
    """What was done, or would be, as JSON and as text; raises InUse with the users, ImageMissing,
    SystemMissing or NotConfirmed."""
    from kigi.gather.trees import image_users, system_users

    resource, namespace = IMAGE if kind == "image" else SYSTEM, access.default_namespace()
    what = f"{resource.kind} {namespace}/{name}"
    done: dict[str, Any] = {"kind": resource.kind, "namespace": namespace, "name": name}
    with open_cluster(access) as kube:
        mirror = read_mirror(kube, namespace=namespace)
        record = mirror.stores[resource.kind].get(namespace, name)
        if record is None:
            missing = ImageMissing if resource is IMAGE else SystemMissing
            raise missing(f"{what} does not exist")
        users = (image_users if resource is IMAGE else system_users)(mirror, namespace, name)
        if users:
            raise InUse(f"{what} is used by {format_users(users)}; delete them first")
        if consent.needs_preview:
            freed = _freed(kube, mirror, kind, name, namespace)
            if consent.dry_run:
                return {**done, "action": "none", **freed}, _freed_text(kind, freed)
            print_message(f"{what}: {_freed_text(kind, freed)}")
            consent.obtain(f"delete {what}?")
        left = kube.delete(resource, namespace, name, uid=record.meta.uid)
    if left is None:
        return {**done, "action": "deleted"}, f"{what} deleted"
    return {**done, "action": "deleting"}, f"{what} is deleted when the operator has processed it"


def _freed(kube: KubeSession, mirror: Mirror, kind: str, name: str, namespace: str) -> dict[str, Any]:
    """Bytes of the repository that nothing would use any more, and the images that only a state uses.

    ``exact`` is False, and the bytes are an upper bound, if the caller may not list the images of all namespaces.
    """
    everywhere, exact = mirror, False
    with contextlib.suppress(Forbidden):
        everywhere, exact = read_mirror(kube, (IMAGE,)), True
    images = images_of_mirror(everywhere)
    here = {key[1]: image for key, image in images.items() if key[0] == namespace}
    unused = () if kind == "image" else unused_without(here, mirror.trees(namespace).systems(), name)
    freed = freed_bytes(images, [(namespace, each) for each in ((name,) if kind == "image" else unused)])
    return {"freedBytes": freed, "exact": exact, "unusedImages": list(unused)}


def _freed_text(kind: str, freed: Mapping[str, Any]) -> str:
    bound = "" if freed["exact"] else "at most "
    amount = f"{bound}{freed['freedBytes']} bytes ({format_bytes(freed['freedBytes'])})"
    layers = f"{amount} of the repository (layers that no other tree names)"
    if kind == "image":
        return f"deleting this frees {layers}"
    unused = freed["unusedImages"]
    if not unused:
        return "deleting this frees 0 bytes of the repository: something else uses each of its images"
    return f"deleting this frees 0 bytes; its images that nothing else uses are {layers}: {', '.join(unused)}"


def images_of_mirror(mirror: Mirror) -> dict[NodeKey, Image]:
    """Every valid image, by namespace and name."""
    return {
        (record.meta.namespace or "", record.meta.name): record.image
        for record in mirror.images
        if isinstance(record.image, Image)
    }
