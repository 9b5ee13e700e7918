"""Both trees of one namespace. Chains and states are resolved on demand, once.

Names are those of the namespace (``tree_names``): the nodes that it may use of other namespaces are resolved there, by
the trees of the *forest*. An error names nothing of another namespace but what this one wrote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from kigi.domain import kinds
from kigi.domain.images import Image, image_path, named_repository, path_layers
from kigi.domain.layers import MAX_DEPTH, Chain
from kigi.domain.systems import ResolvedSystem, System, resolve_system, system_path
from kigi.domain.tree_names import TreeNode, is_foreign, name_in, node_of, place_of, renamed
from kigi.domain.usage import User, images_of, users_of_images
from kigi.errors import (
    ChainTooDeep,
    ImageCycle,
    KigiError,
    RefNotPermitted,
    RefNotReady,
    SpecInvalid,
    SystemCycle,
)

T = TypeVar("T")
NOT_PERMITTED = "does not exist, or its namespace has no TreeGrant for this one; ask the owner of that namespace"
NOT_READY = "cannot be resolved in its namespace; its owner sees the reason there"
_CYCLES: Mapping[str, type[SpecInvalid]] = {kinds.IMAGE: ImageCycle, kinds.SYSTEM: SystemCycle}


class _Border(NamedTuple):
    """The reference by which a path leaves the namespace."""

    name: str
    """Name of the node in the other namespace."""
    where: str
    """The reference as errors name it."""


class Neighbours(Protocol):
    """The trees of the other namespaces."""

    def neighbour(self, home: str, namespace: str) -> Trees:
        """The trees of ``namespace``, for a node of ``home``."""
        ...

    def permits(self, home: str, node: TreeNode) -> bool:
        """Whether objects of ``home`` may use the node."""
        ...

    def repository_of(self, namespace: str, image: str, requested: str | None) -> str:
        """The repository that an image of the namespace uses; raises KigiError if it may use none."""
        ...


class Trees:
    """Immutable: a change needs new Trees. An invalid node is an error of itself and of all its descendants.

    Without a ``forest``, no reference to another namespace is permitted.
    """

    def __init__(
        self,
        images: Mapping[str, Image | SpecInvalid],
        systems: Mapping[str, System | SpecInvalid],
        home: str = "",
        forest: Neighbours | None = None,
    ) -> None:
        self._invalid = {(kinds.IMAGE, n): i for n, i in images.items() if isinstance(i, SpecInvalid)}
        self._invalid |= {(kinds.SYSTEM, n): s for n, s in systems.items() if isinstance(s, SpecInvalid)}
        self._images = {n: i for n, i in images.items() if isinstance(i, Image)}
        self._systems = {n: s for n, s in systems.items() if isinstance(s, System)}
        self._home, self._forest = home, forest
        self._chains: dict[str, Chain | KigiError] = {}
        self._resolved: dict[str, ResolvedSystem | KigiError] = {}
        self._children: dict[tuple[str, str], list[str]] | None = None
        self._digests: frozenset[str] | None = None
        self._image_users: dict[str, tuple[User, ...]] | None = None
        self.covered: dict[object, frozenset[tuple[str, str]]] = {}
        """What targets of grants cover; see ``grants``."""

    def chain(self, name: str) -> Chain | KigiError:
        """The chain of an image, or the error that prevents it."""
        return self._once(self._chains, name, self._chain)

    def system(self, name: str) -> ResolvedSystem | KigiError:
        """The resolved state, or the error that prevents that."""
        return self._once(self._resolved, name, self._system)

    def images(self) -> Mapping[str, Image]:
        """Valid images by name."""
        return self._images

    def systems(self) -> Mapping[str, System]:
        """Valid states by name."""
        return self._systems

    def has(self, kind: str, name: str) -> bool:
        """Whether the namespace has that node, valid or not."""
        own: Mapping[str, object] = self._images if kind == kinds.IMAGE else self._systems
        return name in own or (kind, name) in self._invalid

    def is_empty(self) -> bool:
        """Whether the namespace has no node."""
        return not (self._images or self._systems or self._invalid)

    def children(self, image: str) -> int:
        """Number of images of the namespace whose parent is this one."""
        return len(self.children_of(kinds.IMAGE, image))

    def children_of(self, kind: str, name: str) -> list[str]:
        """Names of the nodes of the namespace whose parent is this one."""
        if self._children is None:
            self._children = defaultdict(list)
            nodes: tuple[tuple[str, Mapping[str, Image | System]], ...]
            nodes = ((kinds.IMAGE, self._images), (kinds.SYSTEM, self._systems))
            for each, named in nodes:
                for child in named.values():
                    if child.parent is not None:
                        self._children[each, child.parent].append(child.name)
        return self._children.get((kind, name), [])

    def own_depth(self, image: str) -> int:
        """Number of layers of the image's chain that are of this namespace."""
        seen: set[str] = set()
        at: str | None = image
        while at is not None and at in self._images and at not in seen:
            seen.add(at)
            at = self._images[at].parent
        return len(seen)

    def image_users(self, name: str) -> tuple[User, ...]:
        """The image's children and the states that name it, of this namespace, sorted."""
        if self._image_users is None:
            self._image_users = users_of_images(self._images, self._systems)
        return self._image_users.get(name, ())

    def subtree(self, image: str) -> Iterable[str]:
        """The image and all its descendants in the namespace, each once, even in a cycle."""
        seen, queue = {image}, [image]
        while queue:
            name = queue.pop()
            yield name
            for child in self.children_of(kinds.IMAGE, name):
                if child not in seen:
                    seen.add(child)
                    queue.append(child)

    def digests(self) -> frozenset[str]:
        """The layers of the namespace's own images."""
        if self._digests is None:
            self._digests = frozenset(image.digest for image in self._images.values())
        return self._digests

    def path(self, name: str) -> tuple[System, ...]:
        """States from the root to this one, in names of this namespace. Raises what ``system_path`` raises."""
        return system_path(_Seen(self._systems, self._foreign_system), name)

    # Resolution.

    def _once(self, known: dict[str, T | KigiError], name: str, resolve: Callable[[str], T]) -> T | KigiError:
        if name not in known:
            try:
                known[name] = resolve(name)
            except KigiError as exc:
                known[name] = exc
        return known[name]

    def _chain(self, name: str) -> Chain:
        if is_foreign(name):
            self._check_path(kinds.IMAGE, name)
            return self._in_neighbour(kinds.IMAGE, name, f"VMImageNode {name}", lambda trees, own: trees.chain(own))
        self._raise_if_invalid(kinds.IMAGE, name, self._images)
        if (border := self._check_path(kinds.IMAGE, name)) is not None:
            self._in_neighbour(kinds.IMAGE, border.name, border.where, lambda trees, own: trees.chain(own))
        return path_layers(image_path(_Seen(self._images, self._foreign_image), name), self._repository_of)

    def _repository_of(self, image: Image) -> str:
        if self._forest is None:
            return named_repository(image)
        return self._forest.repository_of(*place_of(self._home, image.name), image.repository)

    def _system(self, name: str) -> ResolvedSystem:
        self._raise_if_invalid(kinds.SYSTEM, name, self._systems)
        if (border := self._check_path(kinds.SYSTEM, name)) is not None:
            self._in_neighbour(kinds.SYSTEM, border.name, border.where, lambda trees, own: trees.system(own))
        path = self.path(name)
        own = {image for state in path if not is_foreign(state.name) for image in images_of(state)}
        inherited = {image for state in path if is_foreign(state.name) for image in images_of(state)}

        def chain_of(image: str) -> Chain:
            # A reference of another namespace's state was checked there.
            foreign = is_foreign(image) and image in inherited
            chain = self._neighbours_chain(image) if foreign else self.chain(image)
            if isinstance(chain, KigiError):
                raise chain
            return chain

        resolved = resolve_system({state.name: state for state in path}, chain_of, name)
        return replace(resolved, hidden_images=frozenset(filter(is_foreign, inherited - own)))

    def _check_path(self, kind: str, name: str) -> _Border | None:
        """The first reference to another namespace on the path to the root; None if it has none.

        Raises if a reference of the path is not permitted, or if the part in other namespaces does not reach a root.
        O(depth).
        """
        at = node_of(kind, self._home, name)
        border = _Border(name, f"{kind} {name}") if at.namespace != self._home else None
        self._check_permitted(self._home, at, border)
        seen = {at}
        while (parent := self._parent_of(at, border)) is not None:
            if border is None and parent.namespace != self._home:
                foreign = name_in(self._home, parent.namespace, parent.name)
                border = _Border(foreign, f"{kind} {at.name}: spec.parentRef {foreign}")
            self._check_permitted(at.namespace, parent, border)
            if border is not None and parent in seen:
                raise _CYCLES[kind](f"{border.where} leads back to itself; correct one node of the cycle")
            if border is not None and len(seen) >= MAX_DEPTH:
                raise ChainTooDeep(f"{border.where} has more than {MAX_DEPTH} ancestors; use another one")
            if parent in seen or len(seen) > MAX_DEPTH:
                return None  # within the namespace, whose error says more
            seen.add(parent)
            at = parent
        return border

    def _parent_of(self, node: TreeNode, border: _Border | None) -> TreeNode | None:
        trees = self._neighbour(node.namespace)
        nodes: Mapping[str, Image | System] = trees.images() if node.kind == kinds.IMAGE else trees.systems()
        found = nodes.get(node.name)
        if found is None and border is not None:
            raise RefNotReady(f"{border.where} {NOT_READY}")
        parent = found.parent if found is not None else None
        return node_of(node.kind, node.namespace, parent) if parent is not None else None

    def _check_permitted(self, referrer: str, node: TreeNode, border: _Border | None) -> None:
        if referrer == node.namespace:
            return
        assert border is not None
        if self._forest is None or not self._forest.permits(referrer, node):
            if referrer == self._home and name_in(self._home, node.namespace, node.name) == border.name:
                raise RefNotPermitted(f"{border.where} {NOT_PERMITTED}")
            raise RefNotReady(f"{border.where} {NOT_READY}")

    def _in_neighbour(self, kind: str, name: str, where: str, resolve: Callable[[Trees, str], T | KigiError]) -> T:
        """What the namespace of the node resolves it to. An error names nothing of that namespace but ``where``."""
        node = node_of(kind, self._home, name)
        found = resolve(self._neighbour(node.namespace), node.name)
        if isinstance(found, KigiError):
            raise RefNotReady(f"{where} {NOT_READY}")
        return found

    def _neighbour(self, namespace: str) -> Trees:
        if namespace == self._home:
            return self
        assert self._forest is not None
        return self._forest.neighbour(self._home, namespace)

    def _neighbours_chain(self, image: str) -> Chain | KigiError:
        """The chain of an image that a state of another namespace names: that namespace's references permit it."""
        node = node_of(kinds.IMAGE, self._home, image)
        chain = self._neighbour(node.namespace).chain(node.name)
        return RefNotReady(f"an image of an inherited state {NOT_READY}") if isinstance(chain, KigiError) else chain

    def _foreign_image(self, name: str) -> Image | None:
        namespace, own = place_of(self._home, name)
        if self._forest is None or namespace == self._home:
            return None
        image = self._neighbour(namespace).images().get(own)
        return image.seen_from(self._rename(namespace)) if image is not None else None

    def _foreign_system(self, name: str) -> System | None:
        namespace, own = place_of(self._home, name)
        if self._forest is None or namespace == self._home:
            return None
        system = self._neighbour(namespace).systems().get(own)
        return system.seen_from(self._rename(namespace)) if system is not None else None

    def _rename(self, namespace: str) -> Callable[[str], str]:
        return lambda name: renamed(name, namespace, self._home)

    def _raise_if_invalid(self, kind: str, name: str, nodes: Mapping[str, Image] | Mapping[str, System]) -> None:
        """Raises the error of the nearest invalid ancestor, which explains more than 'does not exist'."""
        seen: set[str] = set()
        at: str | None = name
        while self._invalid and at is not None and at not in seen:
            if (kind, at) in self._invalid:
                raise self._invalid[kind, at]
            seen.add(at)
            node = nodes.get(at)
            at = node.parent if node is not None else None


class _Seen(Mapping[str, T]):
    """The nodes of a namespace, and by their names in it those of all others; iteration has its own only."""

    def __init__(self, own: Mapping[str, T], foreign: Callable[[str], T | None]) -> None:
        self._own, self._foreign = own, foreign

    def __getitem__(self, name: str) -> T:
        found = self._own.get(name) or self._foreign(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)
