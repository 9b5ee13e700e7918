"""The Plugin by which KubeVirt 1.9 attaches layered disks. It must exist and be intact before any VM starts."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import PLUGIN
from kigi.mirror.keys import Key
from kigi.planning.plugin import NAME, build_plugin
from kigi.runtime.ports import Ports


async def reconcile_plugin(ports: Ports, key: Key) -> float | None:
    """Applies the Plugin if the cluster's KubeVirt uses Plugins and it is missing or changed. The cluster has one."""
    desired = any(record.state.hook == "Plugin" for record in ports.mirror.kubevirts)
    known = ports.mirror.plugins.get(None, NAME)
    if not desired or (known is not None and (known.meta.deleting or known.intact)):
        return None
    ports.see(PLUGIN.kind, await ports.kube.apply(build_plugin()))
    return None
