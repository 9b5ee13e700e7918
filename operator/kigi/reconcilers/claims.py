"""Claims that Kubernetes' volume controller saw before their volumes.

The controller learns of volumes and claims by two watches. A claim that it sees before its volume stays Pending. When
the controller then sees the volume, it does not check the claim again; it does so 15 seconds later, or when the claim
changes. So Kigi changes the claim.
Source: Kubernetes pkg/controller/volume/persistentvolume, syncVolume and syncUnboundClaim.
"""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import CLAIM
from kigi.mirror.keys import Key
from kigi.mirror.records import ANNOTATION_AVAILABLE
from kigi.runtime.ports import Ports


async def reconcile_claim(ports: Ports, key: Key) -> float | None:
    """Annotates an unbound claim whose volume is available. Once per volume: the annotation has the volume's uid."""
    claim = ports.mirror.claims.get(key.namespace, key.name)
    if claim is None or claim.bound or claim.meta.deleting:
        return None
    volume = ports.mirror.volumes.get(None, claim.volume)
    if volume is None or not volume.is_available or claim.touched_for == volume.meta.uid:
        return None
    answer = await ports.kube.annotate(CLAIM, key.namespace, key.name, {ANNOTATION_AVAILABLE: volume.meta.uid})
    if answer is not None:
        ports.see(CLAIM.kind, answer)
    return None
