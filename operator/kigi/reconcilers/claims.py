"""Claims that Kubernetes looked at too early.

Its volume controller learns of volumes and claims by two watches. A claim that it sees before its volume stays Pending,
and the volume, when it is seen, does not bring the claim back: the controller looks at it again after 15 seconds.
Source: Kubernetes pkg/controller/volume/persistentvolume, syncVolume and syncUnboundClaim. Any change of the claim
makes it look at once.
"""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import CLAIM
from kigi.mirror.keys import Key
from kigi.mirror.records import ANNOTATION_AVAILABLE
from kigi.runtime.ports import Ports


async def reconcile_claim(ports: Ports, key: Key) -> float | None:
    """Touches a claim that is unbound beside its available volume; once, as what is written on the claim says."""
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
