"""The Plugin that makes our disks qcow2, where KubeVirt takes Plugins: there, as we want it, before any VM starts."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import PLUGIN
from kigi.mirror.keys import Key
from kigi.planning.plugin import NAME, build_plugin
from kigi.runtime.ports import Ports


async def reconcile_plugin(ports: Ports, key: Key) -> float | None:
    """Applies it if the cluster's KubeVirt wants it and it is absent or changed. One key stands for the cluster."""
    wanted = any(record.state.hook == "Plugin" for record in ports.mirror.kubevirts)
    known = ports.mirror.plugins.get(None, NAME)
    if not wanted or (known is not None and (known.meta.deleting or known.intact)):
        return None
    ports.see(PLUGIN.kind, await ports.kube.apply(build_plugin()))
    return None
