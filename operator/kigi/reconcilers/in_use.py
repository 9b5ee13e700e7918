"""The in-use finalizer of VMImageNodes and SystemNodes, which keeps them while other objects use them."""

from __future__ import annotations

from collections.abc import Sequence

from kigi.adapters.kubernetes.resources import Resource
from kigi.domain.names import IN_USE_FINALIZER
from kigi.domain.observed import Meta
from kigi.domain.usage import User
from kigi.planning.in_use import plan_in_use
from kigi.reconcilers.object_writes import set_finalizer
from kigi.runtime.ports import Ports


async def keep_in_use(ports: Ports, resource: Resource, meta: Meta, users: Sequence[User]) -> bool:
    """Adds or removes the finalizer. True if that let a deleted object go: it needs no status any more."""
    has_finalizer = IN_USE_FINALIZER in meta.finalizers
    wanted = plan_in_use(users=users, deleting=meta.deleting, has_finalizer=has_finalizer)
    if wanted is not None:
        await set_finalizer(ports, resource, meta.namespace, meta.name, IN_USE_FINALIZER, wanted=wanted)
    return wanted is False and meta.deleting
