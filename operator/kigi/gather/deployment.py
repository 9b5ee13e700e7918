"""The view of one SystemDeployment, read from the mirror: no request to the API server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime

from kigi.domain import names
from kigi.domain.layers import Digest, Layer, total_bytes
from kigi.domain.observed import Slot, VolumeRecord
from kigi.errors import KigiError
from kigi.gather.instance import gather_objects
from kigi.mirror.records import DeploymentRecord, InstanceRecord
from kigi.mirror.store import Mirror
from kigi.planning.deployment_view import DeploymentView, LayerUse, ObservedInstance
from kigi.planning.view import InstanceObjects


def gather_deployment(mirror: Mirror, record: DeploymentRecord, now: datetime) -> DeploymentView:
    """The view of one deployment. O(its instances and volumes)."""
    meta = record.meta
    key = (meta.namespace or "", meta.name)
    instances = list(mirror.instances.by("deployment", key))
    return DeploymentView(
        namespace=key[0],
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.has_deployment_finalizer(meta.finalizers),
        spec=record.spec,
        instances=tuple(map(_observed, instances)),
        leftovers=tuple(_leftovers(mirror, key, {one.name for one in instances if _may_have_objects(one, record)})),
        now=now,
        layers=_layer_use(mirror, record),
        problem=_problem(mirror, record),
        old_status=record.status,
    )


def remember_held_layers(mirror: Mirror, record: DeploymentRecord) -> None:
    """Notes what the nodes hold when a generation of the deployment is first seen: what its change has to move.

    To be called before anything is done for that generation; once it is noted, nothing changes it.
    """
    uid, generation = record.meta.uid, record.meta.generation
    known, _ = mirror.first_held.get(uid, (None, None))
    if known != generation and (record.status is None or record.status.observed_generation != generation):
        mirror.first_held[uid] = (generation, {cache.meta.name: cache.held for cache in mirror.caches})


def _observed(record: InstanceRecord) -> ObservedInstance:
    return ObservedInstance(
        name=record.name,
        object_name=record.meta.name,
        uid=record.meta.uid,
        generation=record.meta.generation,
        deleting=record.meta.deleting,
        has_finalizer=names.INSTANCE_FINALIZER in record.meta.finalizers,
        owner_uids=record.owner_uids,
        status=record.status,
        settings=None if isinstance(record.spec, KigiError) else record.spec,
    )


def _may_have_objects(instance: InstanceRecord, deployment: DeploymentRecord) -> bool:
    """False for an instance that was never planned and will not be: what has its name is of a former one."""
    spec = deployment.spec
    is_selected = not isinstance(spec, KigiError) and spec.selects(instance.name)
    return is_selected or names.INSTANCE_FINALIZER in instance.meta.finalizers


def _leftovers(mirror: Mirror, key: tuple[str, str], known: set[str]) -> Iterator[InstanceObjects]:
    """What instances have left that have no SystemInstance. O(instances), unless there is something."""
    found: set[str] = set()
    for store in (mirror.volumes, mirror.claims, mirror.machines, mirror.policies):
        if store.count("deployment", key) != sum(store.count("instance", (*key, name)) for name in known):
            found.update(record.instance for record in store.by("deployment", key))
    for name in sorted(found - known, key=names.instance_order):
        objects = gather_objects(mirror, *key, name, None)
        owners = [machine.vm.owner_uid for machine in objects.machines] + [one.owner_uid for one in objects.policies]
        if objects.volumes or objects.claims or any(owners):
            yield objects


def _problem(mirror: Mirror, record: DeploymentRecord) -> KigiError | None:
    if isinstance(record.spec, KigiError):
        return record.spec
    state = mirror.resolved(record.meta.namespace or "", record.spec.system_ref.tree_name)
    return state if isinstance(state, KigiError) else None


def _layer_use(mirror: Mirror, record: DeploymentRecord) -> LayerUse:
    newest: dict[tuple[Slot, str], VolumeRecord] = {}
    for volume in mirror.volumes.by("deployment", (record.meta.namespace or "", record.meta.name)):
        place = (volume.slot, volume.disk)
        if not volume.meta.deleting and (place not in newest or newest[place].revision < volume.revision):
            newest[place] = volume
    wanted: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    bytes_of: dict[Digest, int] = {}
    seen: set[tuple[str, Digest]] = set()
    whole = 0
    for volume in newest.values():
        if not volume.chain:
            continue
        top = volume.chain[-1].digest
        if top not in bytes_of:
            bytes_of[top] = total_bytes(volume.chain)
        whole += bytes_of[top]
        if (volume.node, top) not in seen:
            seen.add((volume.node, top))
            wanted[volume.node].update({layer.digest: layer for layer in volume.chain})
    generation, before = mirror.first_held.get(record.meta.uid, (None, None))
    return LayerUse(whole, wanted, _held(mirror, wanted), before if generation == record.meta.generation else None)


def _held(mirror: Mirror, wanted: Mapping[str, object]) -> dict[str, frozenset[Digest]]:
    caches = {node: mirror.caches.get(None, node) for node in wanted}
    return {node: cache.held if cache is not None else frozenset() for node, cache in caches.items()}
