"""Everything that the checks depend on, gathered before they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kigi.adapters.kubernetes.installation import DEFINITION, OPERATOR
from kigi.adapters.kubernetes.resources import Resource
from kigi.doctor.rights import Right
from kigi.domain.names import GROUP, NODE_GROUP
from kigi.domain.repository_points import Point

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of one kind."""

    items: tuple[Body, ...] = ()
    unread: str = ""
    """Why the objects are not known; empty: they are."""

    def find(self, name: str) -> Body | None:
        """The object of that name; None: there is none."""
        return next((item for item in self.items if item["metadata"]["name"] == name), None)


@dataclass(frozen=True, slots=True)
class RightsAnswer:
    """Whether an account has rights."""

    allowed: Mapping[Right, bool] = field(default_factory=dict)
    unread: str = ""
    """Why nothing is known; empty: ``allowed`` has every right that was asked for."""


@dataclass(frozen=True, slots=True)
class RepositoryAnswer:
    """What the bucket of one LayerRepository answered to the caller of ``kigi doctor``."""

    points: tuple[Point, ...] = ()
    reason: str = ""
    """Reason of the error at the first read, such as AccessDenied; empty: it could be read."""
    message: str = ""
    unread: str = ""
    """Why the bucket was not asked at all; empty: it was."""
    ahead_s: float | None = None
    """Seconds that the server's clock is ahead of the caller's; None: not known."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One installation, or a cluster without one."""

    namespace: str
    """Kigi's namespace."""
    version: str
    """Version of ``kigi``, whose checks these are."""
    now: datetime
    """The caller's clock."""
    server_ahead_s: float | None = None
    """Seconds that the API server's clock is ahead of the caller's; None: not known."""
    served: bool | None = None
    """Whether the API server serves Kigi's kinds, which every user may ask; None: not known."""
    kubernetes: str = ""
    """Version of the API server; empty: not known."""
    listings: Mapping[Resource, Listing] = field(default_factory=dict)
    accounts: Mapping[str, RightsAnswer] = field(default_factory=dict)
    """Rights of Kigi's service accounts, by name."""
    caller: RightsAnswer = field(default_factory=RightsAnswer)
    repositories: Mapping[str, RepositoryAnswer] = field(default_factory=dict)
    """By name of the LayerRepository."""
    remedies: Mapping[str, str] = field(default_factory=dict)
    """Remedy by reason of a condition."""

    def of(self, resource: Resource) -> Listing:
        """The objects of a kind."""
        return self.listings.get(resource, Listing(unread="they were not read"))

    def own_definitions(self) -> Iterator[Body]:
        """Kigi's CustomResourceDefinitions in the cluster."""
        for item in self.of(DEFINITION).items:
            if (item.get("spec") or {}).get("group") in (GROUP, NODE_GROUP):
                yield item

    @property
    def is_installed(self) -> bool:
        """Whether there is any part of Kigi."""
        return bool(self.served) or any(self.own_definitions()) or self.of(OPERATOR).find("kigi-operator") is not None
