"""SystemNode: the resolved state, and its users."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import SYSTEM
from kigi.gather.trees import gather_system
from kigi.mirror.keys import Key
from kigi.reconcilers.in_use import keep_in_use
from kigi.reconcilers.writing import write_status
from kigi.runtime.ports import Ports
from kigi.status.trees import system_status


async def reconcile_system(ports: Ports, key: Key) -> float | None:
    """Writes the status and keeps the in-use finalizer; a state has no objects until it is deployed."""
    view = gather_system(ports.mirror, key.namespace, key.name, ports.now())
    record = ports.mirror.systems.get(key.namespace, key.name)
    if view is not None and record is not None and not await keep_in_use(ports, SYSTEM, record.meta, view.users):
        await write_status(ports, SYSTEM, record.meta, record.status, system_status(view))
    return None
