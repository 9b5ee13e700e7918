"""Trees of several namespaces, with grants between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kigi.domain.forest import Forest
from kigi.domain.grants import Grant, GrantTarget
from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import MachineChange, System
from kigi.errors import SpecInvalid

SIZE = 2**20


@dataclass(frozen=True)
class Only:
    """Selects the namespaces with one of these names."""

    names: frozenset[str]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return labels.get("kubernetes.io/metadata.name") in self.names


@dataclass
class ForestWorld:
    """Contents of all namespaces; ``forest`` reads them, and each change is told to it."""

    images: dict[str, dict[str, Image | SpecInvalid]] = field(default_factory=dict)
    systems: dict[str, dict[str, System | SpecInvalid]] = field(default_factory=dict)
    grants: dict[str, list[Grant]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    """Namespaces whose labels are not known."""

    def __post_init__(self) -> None:
        self.forest = Forest(
            lambda ns: (self.images.get(ns, {}), self.systems.get(ns, {})),
            lambda ns: self.grants.get(ns, ()),
            lambda ns: None if ns in self.unknown else {"kubernetes.io/metadata.name": ns},
        )

    def image(self, namespace: str, name: str, parent: str | None = None, size: int = SIZE) -> None:
        digest = Digest("sha256:" + f"{namespace}.{name}".encode().hex().ljust(64, "0")[:64])
        self.images.setdefault(namespace, {})[name] = Image(name, digest, 100, size, parent)
        self.forest.forget(namespace)

    def system(self, namespace: str, name: str, parent: str | None = None, **images: str) -> None:
        """A state; each keyword is a machine with its image."""
        machines = tuple(MachineChange(machine, image) for machine, image in images.items())
        self.systems.setdefault(namespace, {})[name] = System(name, parent, machines)
        self.forest.forget(namespace)

    def grant(self, namespace: str, to: Iterable[str], *targets: tuple[str, str] | tuple[str, str, bool]) -> None:
        """A grant for the namespaces ``to``."""
        granted = Grant(Only(frozenset(to)), tuple(GrantTarget(*target) for target in targets))
        self.grants.setdefault(namespace, []).append(granted)
        self.forest.forget(namespace)

    def revoke(self, namespace: str) -> None:
        """Deletes the grants of a namespace."""
        self.grants.pop(namespace, None)
        self.forest.forget(namespace)
