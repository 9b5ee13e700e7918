"""Both trees of one namespace. Chains and states are resolved on demand, once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kigi.domain.images import Image, image_chain
from kigi.domain.layers import Chain
from kigi.domain.systems import ResolvedSystem, System, resolve_system
from kigi.domain.usage import User, users_of_images
from kigi.errors import KigiError, SpecInvalid


class Trees:
    """Immutable: a change needs new Trees. An invalid node is an error of itself and of all its descendants."""

    def __init__(self, images: Mapping[str, Image | SpecInvalid], systems: Mapping[str, System | SpecInvalid]) -> None:
        self._invalid = {("image", n): i for n, i in images.items() if isinstance(i, SpecInvalid)}
        self._invalid |= {("system", n): s for n, s in systems.items() if isinstance(s, SpecInvalid)}
        self._images = {n: i for n, i in images.items() if isinstance(i, Image)}
        self._systems = {n: s for n, s in systems.items() if isinstance(s, System)}
        self._chains: dict[str, Chain | KigiError] = {}
        self._resolved: dict[str, ResolvedSystem | KigiError] = {}
        self._children: dict[str, list[str]] | None = None
        self._image_users: dict[str, tuple[User, ...]] | None = None

    def chain(self, name: str) -> Chain | KigiError:
        """The chain of an image, or the error that prevents it."""
        if name not in self._chains:
            try:
                self._chains[name] = self._chain(name)
            except KigiError as exc:
                self._chains[name] = exc
        return self._chains[name]

    def system(self, name: str) -> ResolvedSystem | KigiError:
        """The resolved state, or the error that prevents that."""
        if name not in self._resolved:
            try:
                self._raise_if_invalid("system", name, {n: s.parent for n, s in self._systems.items()})
                self._resolved[name] = resolve_system(self._systems, self._chain_or_raise, name)
            except KigiError as exc:
                self._resolved[name] = exc
        return self._resolved[name]

    def children(self, image: str) -> int:
        """Number of images whose parent is this one."""
        return len(self._child_names(image))

    def image_users(self, name: str) -> tuple[User, ...]:
        """The image's children and the states that name it, sorted."""
        if self._image_users is None:
            self._image_users = users_of_images(self._images, self._systems)
        return self._image_users.get(name, ())

    def systems(self) -> Mapping[str, System]:
        """Valid states by name."""
        return self._systems

    def subtree(self, image: str) -> Iterable[str]:
        """The image and all its descendants, each once, even in a cycle."""
        seen, queue = {image}, [image]
        while queue:
            name = queue.pop()
            yield name
            for child in self._child_names(name):
                if child not in seen:
                    seen.add(child)
                    queue.append(child)

    def image_names_of(self, digests: Iterable[str]) -> Iterable[str]:
        """Names of the images whose own layer is one of these."""
        wanted = set(digests)
        return (name for name, image in self._images.items() if image.digest in wanted)

    def _child_names(self, image: str) -> list[str]:
        if self._children is None:
            children: dict[str, list[str]] = defaultdict(list)
            for name, child in self._images.items():
                if child.parent is not None:
                    children[child.parent].append(name)
            self._children = children
        return self._children.get(image, [])

    def _chain(self, name: str) -> Chain:
        self._raise_if_invalid("image", name, {n: i.parent for n, i in self._images.items()} if self._invalid else {})
        return image_chain(self._images, name)

    def _chain_or_raise(self, name: str) -> Chain:
        chain = self.chain(name)
        if isinstance(chain, KigiError):
            raise chain
        return chain

    def _raise_if_invalid(self, kind: str, name: str, parents: Mapping[str, str | None]) -> None:
        """Raises the error of the nearest invalid ancestor, which explains more than 'does not exist'."""
        seen: set[str] = set()
        at: str | None = name
        while self._invalid and at is not None and at not in seen:
            if (kind, at) in self._invalid:
                raise self._invalid[kind, at]
            seen.add(at)
            at = parents.get(at)
