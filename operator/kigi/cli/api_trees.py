"""Image trees and system trees from the API's JSON, without the pydantic models.

The API server has validated every field already, and importing the models would double the start-up time of a verb.
"""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, INSTANCE, NODE_CACHE, PREFETCH, SYSTEM, Resource
from kigi.cli.cluster import list_objects
from kigi.domain import declared
from kigi.domain.forest import Forest
from kigi.domain.grants import Grant
from kigi.domain.images import Image
from kigi.domain.systems import System
from kigi.domain.tree_names import TreeNode, place_of, referred, renamed
from kigi.domain.trees import Trees
from kigi.domain.usage import images_of
from kigi.errors import Forbidden, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

Body = Mapping[str, Any]
N = TypeVar("N", Image, System)


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
        self.followed: set[str] = set()
        """Namespaces that were read only because the trees of others lead there."""
        self._forest = _Readable(
            lambda namespace: (self.images.get(namespace, {}), self.systems.get(namespace, {})), _nothing, _unknown
        )

    def put(self, body: Body) -> None:
        """Adds an object; kinds other than those of Kigi's are ignored."""
        meta, spec = body["metadata"], body.get("spec") or {}
        namespace, name = meta.get("namespace") or "", meta["name"]
        self._forest.forget(namespace)
        match body["kind"]:
            case IMAGE.kind:
                self.images[namespace][name] = image_of(body)
            case SYSTEM.kind:
                self.systems[namespace][name] = system_of(body)
            case DEPLOYMENT.kind:
                for state in sorted(states_named_by(body)):
                    self.runs[place_of(namespace, state)].append(name)
            case INSTANCE.kind:
                for state in sorted(states_named_by(body)):
                    self.runs[place_of(namespace, state)].append(name)
            case PREFETCH.kind:
                for ref in spec.get("targetRefs") or ():
                    if ref["kind"] == SYSTEM.kind:
                        self.warmed[place_of(namespace, referred(namespace, ref))].append(name)
            case NODE_CACHE.kind:
                for layer in (body.get("status") or {}).get("layers") or ():
                    if layer.get("state") == "Held":
                        self.holders[layer["digest"]].add(name)

    def namespaces(self) -> list[str]:
        """The namespaces that have an image or a state, sorted, without those that were followed."""
        return sorted((self.images.keys() | self.systems.keys()) - self.followed)

    def trees(self, namespace: str) -> Trees:
        """Both trees of a namespace; what they use of others is resolved as far as it was read."""
        return self._forest.trees(namespace)

    def seen_from(self, home: str) -> tuple[dict[str, Image], dict[str, System]]:
        """Every valid image and state, by its name in a namespace."""
        images: dict[str, Image] = {}
        systems: dict[str, System] = {}
        for namespace in self.images.keys() | self.systems.keys():
            rename = functools.partial(renamed, home=namespace, viewer=home)
            trees = self.trees(namespace)
            images.update((rename(name), image.seen_from(rename)) for name, image in trees.images().items())
            systems.update((rename(name), system.seen_from(rename)) for name, system in trees.systems().items())
        return images, systems

    def neighbours(self) -> set[str]:
        """Namespaces that nodes name and that have no node here."""
        nodes: list[tuple[str, Image | System | SpecInvalid]] = []
        for space, images in self.images.items():
            nodes.extend((space, image) for image in images.values())
        for space, systems in self.systems.items():
            nodes.extend((space, system) for system in systems.values())
        named = {place_of(space, name)[0] for space, node in nodes for name in _named_by(node)}
        return named - self.images.keys() - self.systems.keys()


class _Readable(Forest):
    """A caller that may read a tree may see what it resolves to, whatever is granted."""

    def permits(self, home: str, node: TreeNode, *, asks: bool = True) -> bool:
        return home == node.namespace or self.neighbour(home, node.namespace).has(node.kind, node.name)


def _nothing(_: str) -> tuple[Grant, ...]:
    return ()


def _unknown(_: str) -> None:
    return None


def _named_by(node: Image | System | SpecInvalid) -> Iterable[str]:
    if isinstance(node, System):
        yield from images_of(node)
    if isinstance(node, Image | System) and node.parent is not None:
        yield node.parent


def read_api_trees(
    kube: KubeSession,
    kinds: Iterable[Resource],
    namespace: str | None,
    *,
    strict: bool = False,
    each: Callable[[Body], None] = lambda _: None,
) -> ApiTrees:
    """The trees of one namespace, or of all (None); NodeCaches are left out if the caller may not read them.

    Follows the trees into other namespaces as far as the caller may read them; ``strict``: raises Forbidden if that is
    not the whole way. ``each`` is called with every object.
    """
    api_trees = ApiTrees()

    def read(resource: Resource, place: str | None) -> None:
        for body in list_objects(kube, resource, place):
            api_trees.put(body)
            each(body)

    for resource in kinds:
        try:
            read(resource, namespace)
        except Forbidden:
            if resource is not NODE_CACHE:
                raise
    if namespace is not None:
        _follow(api_trees, [kind for kind in kinds if kind in (IMAGE, SYSTEM)], read, strict)
    return api_trees


def _follow(
    api_trees: ApiTrees, kinds: Iterable[Resource], read: Callable[[Resource, str], None], strict: bool
) -> None:
    seen: set[str] = set()
    while unread := api_trees.neighbours() - seen:
        seen |= unread
        for namespace in sorted(unread):
            api_trees.followed.add(namespace)
            with contextlib.nullcontext() if strict else contextlib.suppress(Forbidden):
                for resource in kinds:
                    read(resource, namespace)


def states_named_by(body: Body) -> set[str]:
    """States that a SystemDeployment or SystemInstance names, for the whole or for one machine, as it names them."""
    home, spec = body["metadata"].get("namespace") or "", body.get("spec") or {}
    levels = (spec, *(spec.get("machines") or ()))
    return {referred(home, level["systemRef"]) for level in levels if level.get("systemRef")}


def image_of(body: Body) -> Image | SpecInvalid:
    """The image of a VMImageNode, or SpecInvalid if its fields have other types than the API's."""
    return _declared(declared.image_of, body)


def system_of(body: Body) -> System | SpecInvalid:
    """The state of a SystemNode, or SpecInvalid if its fields have other types than the API's."""
    return _declared(declared.system_of, body)


def _declared(make: Callable[[str, Body, str], N], body: Body) -> N | SpecInvalid:
    try:
        return make(body["metadata"]["name"], body["spec"], body["metadata"].get("namespace") or "")
    except SpecInvalid as exc:
        return exc
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        return _invalid(body, exc)


def _invalid(body: Body, exc: Exception) -> SpecInvalid:
    meta = body["metadata"]
    return SpecInvalid(
        f"{body['kind']} {meta.get('namespace')}/{meta['name']}: a field is missing or has another type: {exc}"
    )
