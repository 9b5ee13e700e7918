"""TreeGrant: its status. Whether a reference is permitted is decided where the reference is resolved."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import GRANT
from kigi.api.grant import TreeGrantStatus
from kigi.errors import KigiError
from kigi.gather.grants import gather_grant
from kigi.mirror.keys import Key
from kigi.reconcilers.writing import report_invalid, write_status
from kigi.runtime.ports import Ports
from kigi.status.grants import grant_status


async def reconcile_grant(ports: Ports, key: Key) -> float | None:
    """Writes the status; a grant has no objects of its own and no finalizer."""
    record = ports.mirror.grants.get(key.namespace, key.name)
    if record is None or record.meta.deleting:
        return None
    if isinstance(record.grant, KigiError):
        await report_invalid(ports, GRANT, record, TreeGrantStatus(), record.grant)
        return None
    view = gather_grant(ports.mirror, record, ports.now())
    await write_status(ports, GRANT, record.meta, record.status, grant_status(view))
    return None
