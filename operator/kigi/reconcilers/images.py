"""VMImageNode: its chain, the number of nodes that hold it, and its users."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import IMAGE
from kigi.gather.trees import gather_image
from kigi.mirror.keys import Key
from kigi.reconcilers.in_use import keep_in_use
from kigi.reconcilers.writing import write_status
from kigi.runtime.ports import Ports
from kigi.status.trees import image_status


async def reconcile_image(ports: Ports, key: Key) -> float | None:
    """Writes the status and keeps the in-use finalizer; an image has no objects of its own."""
    view = gather_image(ports.mirror, key.namespace, key.name, ports.now())
    record = ports.mirror.images.get(key.namespace, key.name)
    if view is not None and record is not None and not await keep_in_use(ports, IMAGE, record.meta, view.users):
        await write_status(ports, IMAGE, record.meta, record.status, image_status(view))
    return None
