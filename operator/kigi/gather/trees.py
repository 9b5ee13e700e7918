"""Views of VMImageNodes and SystemNodes, and the users of each."""

from __future__ import annotations

from datetime import datetime

from kigi.domain import kinds
from kigi.domain.layers import Chain
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import User, users_of_systems
from kigi.errors import KigiError
from kigi.mirror.store import Mirror
from kigi.planning.capture_progress import progress_of, uses
from kigi.planning.targets import named_systems
from kigi.planning.view import ImageView, SystemView


def gather_image(mirror: Mirror, namespace: str, name: str, now: datetime) -> ImageView | None:
    """The view of one image; None if it does not exist any more."""
    record = mirror.images.get(namespace, name)
    if record is None:
        return None
    chain = mirror.chain(namespace, name)
    return ImageView(
        generation=record.meta.generation,
        chain=chain,
        children=mirror.trees(namespace).children(name),
        cached_on=0 if isinstance(chain, KigiError) else _cached_on(mirror, chain),
        now=now,
        old_status=record.status,
        deleting=record.meta.deleting,
        users=image_users(mirror, namespace, name),
    )


def _cached_on(mirror: Mirror, chain: Chain) -> int:
    """Number of nodes that hold every layer of the chain."""
    holders = [mirror.holders.get(layer.digest, set()) for layer in chain]
    return len(set.intersection(*holders)) if all(holders) else 0


def gather_system(mirror: Mirror, namespace: str, name: str, now: datetime) -> SystemView | None:
    """The view of one state; None if it does not exist any more."""
    record = mirror.systems.get(namespace, name)
    if record is None:
        return None
    parent = getattr(record.system, "parent", None)
    above = mirror.resolved(namespace, parent) if parent is not None else None
    return SystemView(
        generation=record.meta.generation,
        system=mirror.resolved(namespace, name),
        parent=above if isinstance(above, ResolvedSystem) else None,
        now=now,
        old_status=record.status,
        deleting=record.meta.deleting,
        users=system_users(mirror, namespace, name),
    )


def image_users(mirror: Mirror, namespace: str, name: str) -> tuple[User, ...]:
    """The image's children, the states that name it, and captures of disks based on it. O(the namespace's captures)."""
    copied = {
        User(kinds.CAPTURE, record.meta.name)
        for record in mirror.captures.by("namespace", namespace)
        if name in uses(progress_of(record.status))[1]
    }
    return tuple(sorted({*mirror.trees(namespace).image_users(name), *copied}))


def system_users(mirror: Mirror, namespace: str, name: str) -> tuple[User, ...]:
    """The state's children, and the deployments, prefetches and captures that use it. O(objects of the namespace)."""
    named = {
        User(kinds.DEPLOYMENT, record.meta.name): named_systems(record.spec)
        for record in mirror.deployments.by("namespace", namespace)
        if not isinstance(record.spec, KigiError)
    }
    for record in mirror.prefetches.by("namespace", namespace):
        if not isinstance(record.spec, KigiError):
            named[User(kinds.PREFETCH, record.meta.name)] = frozenset(ref.name for ref in record.spec.systems)
    for capture in mirror.captures.by("namespace", namespace):
        named[User(kinds.CAPTURE, capture.meta.name)] = uses(progress_of(capture.status))[0]
    return users_of_systems(mirror.trees(namespace).systems(), named).get(name, ())
