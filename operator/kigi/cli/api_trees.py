"""Image trees and system trees from the API's JSON, without the pydantic models.

The API server has validated every field already, and importing the models would double the start-up time of a verb.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, NODE_CACHE, PREFETCH, SYSTEM, Resource
from kigi.cli.cluster import list_objects
from kigi.domain.images import Image
from kigi.domain.layers import DEFAULT_REPOSITORY, Digest
from kigi.domain.systems import DiskChange, MachineChange, System
from kigi.domain.trees import Trees
from kigi.errors import Forbidden, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

Body = Mapping[str, Any]


class ApiTrees:
    """Images and states by namespace, with their users and the nodes that hold layers; filled by ``put``."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Image | SpecInvalid]] = defaultdict(dict)
        """namespace -> name -> image."""
        self.systems: dict[str, dict[str, System | SpecInvalid]] = defaultdict(dict)
        self.runs: dict[tuple[str, str], list[str]] = defaultdict(list)
        """(namespace, state) -> deployments that name it for themselves, an instance or a machine."""
        self.warmed: dict[tuple[str, str], list[str]] = defaultdict(list)
        """(namespace, state) -> prefetches that name it."""
        self.holders: dict[str, set[str]] = defaultdict(set)
        """Digest -> nodes that hold the layer."""
        self._trees: dict[str, Trees] = {}

    def put(self, body: Body) -> None:
        """Adds an object; kinds other than the five of Kigi's are ignored."""
        meta, spec = body["metadata"], body.get("spec") or {}
        namespace, name = meta.get("namespace") or "", meta["name"]
        self._trees.clear()
        match body["kind"]:
            case IMAGE.kind:
                self.images[namespace][name] = image_of(body)
            case SYSTEM.kind:
                self.systems[namespace][name] = system_of(body)
            case DEPLOYMENT.kind:
                for state in sorted(states_named_by(spec)):
                    self.runs[namespace, state].append(name)
            case PREFETCH.kind:
                for ref in spec.get("systems") or ():
                    self.warmed[namespace, ref["name"]].append(name)
            case NODE_CACHE.kind:
                for layer in (body.get("status") or {}).get("layers") or ():
                    if layer.get("state") == "Held":
                        self.holders[layer["digest"]].add(name)

    def namespaces(self) -> list[str]:
        """The namespaces that have an image or a state, sorted."""
        return sorted(self.images.keys() | self.systems.keys())

    def trees(self, namespace: str) -> Trees:
        """Both trees of a namespace; computed once until the next ``put``."""
        if namespace not in self._trees:
            self._trees[namespace] = Trees(self.images.get(namespace, {}), self.systems.get(namespace, {}))
        return self._trees[namespace]


def read_api_trees(kube: KubeSession, kinds: Iterable[Resource], namespace: str | None) -> ApiTrees:
    """The trees of one namespace, or of all (None); NodeCaches are left out if the caller may not read them."""
    api_trees = ApiTrees()
    for resource in kinds:
        try:
            for body in list_objects(kube, resource, namespace):
                api_trees.put(body)
        except Forbidden:
            if resource is not NODE_CACHE:
                raise
    return api_trees


def states_named_by(spec: Body) -> set[str]:
    """States that a SystemDeployment's spec names for all instances, for one instance or for one machine."""
    names = {spec["system"]["name"]}
    for override in spec.get("overrides") or ():
        for level in (override, *(override.get("machines") or ())):
            if level.get("system"):
                names.add(level["system"]["name"])
    return names


def image_of(body: Body) -> Image | SpecInvalid:
    """The image of a VMImageNode, or SpecInvalid if its fields have other types than the API's."""
    try:
        spec = body["spec"]
        layer = spec["layer"]
        return Image(
            name=body["metadata"]["name"],
            digest=Digest(layer["digest"]),
            size_bytes=int(layer["sizeBytes"]),
            virtual_size_bytes=int(layer["virtualSizeBytes"]),
            parent=_name(spec.get("parent")),
            repository=layer.get("repository") or DEFAULT_REPOSITORY,
        )
    except (KeyError, TypeError, ValueError) as exc:
        return _invalid(body, exc)


def system_of(body: Body) -> System | SpecInvalid:
    """The state of a SystemNode, or SpecInvalid if its fields have other types than the API's."""
    try:
        spec = body["spec"]
        return System(
            name=body["metadata"]["name"],
            parent=_name(spec.get("parent")),
            machines=tuple(_machines(spec)),
            networks=tuple(spec.get("networks") or ()),
        )
    except (KeyError, TypeError, ValueError) as exc:
        return _invalid(body, exc)


def _machines(spec: Body) -> Iterator[MachineChange]:
    for item in spec.get("machines") or ():
        disks = (
            DiskChange(disk["name"], _name(disk.get("image")), disk.get("bus"), bool(disk.get("removed")))
            for disk in item.get("disks") or ()
        )
        removed = bool(item.get("removed"))
        yield MachineChange(item["name"], _name(item.get("image")), item.get("template"), removed, tuple(disks))


def _name(ref: Body | None) -> str | None:
    return ref["name"] if ref else None


def _invalid(body: Body, exc: Exception) -> SpecInvalid:
    meta = body["metadata"]
    return SpecInvalid(
        f"{body['kind']} {meta.get('namespace')}/{meta['name']}: a field is missing or has another type: {exc}"
    )
