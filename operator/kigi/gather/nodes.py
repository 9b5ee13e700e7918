"""Nodes as placement sees them: free memory, the state of their cache, and whether their daemon reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from kigi.adapters.kubernetes.resources import CLUSTER_INSTANCETYPE, INSTANCETYPE
from kigi.domain import names
from kigi.domain.layers import Digest, Layer, total_bytes
from kigi.domain.node_protocol import skew
from kigi.domain.observed import VolumeRecord
from kigi.domain.systems import ResolvedSystem
from kigi.mirror.node_use import InstanceKey
from kigi.mirror.records import CacheRecord
from kigi.mirror.store import Mirror
from kigi.planning.view import NodeState
from kigi.planning.vm_manifest import machine_memory_bytes


def nodes_for(mirror: Mirror, instance: InstanceKey) -> dict[str, NodeState]:
    """Every node, without what one instance uses of it. O(nodes that have changed), and a copy of the mapping.

    A node whose Node object was deleted stays as long as its NodeCache.
    """
    states = dict(_states(mirror))
    for name, used_bytes in mirror.node_use.of(instance).items():
        if (state := states.get(name)) is not None and state.exists:
            states[name] = replace(state, memory_bytes=state.memory_bytes + used_bytes)
    return states


def gather_nodes(mirror: Mirror) -> dict[str, NodeState]:
    """Every node that exists; memory that instances use is not free. O(nodes + changed instances)."""
    return {name: state for name, state in _states(mirror).items() if state.exists}


def _states(mirror: Mirror) -> Mapping[str, NodeState]:
    mirror.node_use.refresh(lambda key: memory_by_node(mirror, key))
    changed_with_time = {*mirror.heartbeats.fallen_silent(), *mirror.node_use.nodes_with_requests()}
    return mirror.node_states.refresh(lambda name: node_state(mirror, name), changed_with_time)


def load_of_others(mirror: Mirror, instance: InstanceKey) -> dict[str, int]:
    """Instances of the deployment on each node, without this one, as they were counted last."""
    own = mirror.node_use.of(instance)
    load: Mapping[str, int] = mirror.node_use.load.get(instance[:2], {})
    return {node: count - (node in own) for node, count in load.items()}


def memory_by_node(mirror: Mirror, instance: InstanceKey) -> Mapping[str, int]:
    """Bytes of memory that the VMs of an instance request, by the node of their newest disk."""
    newest: dict[str, VolumeRecord] = {}
    for volume in mirror.volumes.by("instance", instance):
        known = newest.get(volume.machine)
        if not volume.meta.deleting and (known is None or known.revision < volume.revision):
            newest[volume.machine] = volume
    used: Counter[str] = Counter()
    namespace, deployment, name = instance
    for machine, volume in newest.items():
        vm = mirror.machines.get(namespace, names.machine_name(deployment, name, machine))
        # A VM that waits for its layers does not exist yet; its memory is reserved.
        known_bytes = vm.memory_bytes if vm else None
        used[volume.node] += known_bytes if known_bytes is not None else _memory_of(mirror, namespace, volume)
    return used


def _memory_of(mirror: Mirror, namespace: str, volume: VolumeRecord) -> int:
    system = mirror.resolved(namespace, volume.system)
    if isinstance(system, ResolvedSystem):
        for machine in system.machines:
            if machine.name == volume.machine:
                return machine_memory_bytes(machine.hardware, instancetypes_of(mirror, namespace))
    return machine_memory_bytes({})


def instancetypes_of(mirror: Mirror, namespace: str) -> dict[tuple[str, str], int]:
    """Guest memory in bytes of the instancetypes that VMs of a namespace can use, by kind and name."""
    kinds = {
        CLUSTER_INSTANCETYPE.kind: mirror.cluster_instancetypes,
        INSTANCETYPE.kind: mirror.instancetypes.by("namespace", namespace),
    }
    return {(kind, record.meta.name): record.memory_bytes for kind, records in kinds.items() for record in records}


def node_state(mirror: Mirror, name: str) -> NodeState | None:
    """The node; None if there is neither a Node of that name nor a NodeCache."""
    node = mirror.nodes.get(None, name)
    cache = mirror.caches.get(None, name)
    if node is None:
        return NodeState(name, ready=False, cache_alive=False, exists=False) if cache is not None else None
    csi = mirror.csi_nodes.get(None, name)
    requested = mirror.node_use.requested_layers(name, lambda: _listed(cache) if cache is not None else frozenset())
    return NodeState(
        name=name,
        ready=node.ready,
        schedulable=node.schedulable,
        labels=node.labels,
        taints=node.taints,
        memory_bytes=node.memory_bytes - mirror.node_use.memory[name],
        has_driver=csi is not None and csi.has_driver,
        requested=frozenset(requested),
        held=cache.held if cache is not None else frozenset(),
        fetching=cache.fetching if cache is not None else {},
        refused=cache.refused if cache is not None else {},
        cache_free_bytes=_free_bytes(cache, requested) if cache is not None else 0,
        cache_alive=cache is not None and mirror.heartbeats.is_alive(name),
        skew=skew(name, cache.protocols) if cache is not None else "",
        listed=_only_listed(cache) if cache is not None else None,
        filling=cache.filling if cache is not None else frozenset(),
    )


def _free_bytes(cache: CacheRecord, requested: Mapping[Digest, Layer]) -> int:
    """Bytes of a node's cache that no wanted layer needs."""
    return max(cache.usable_bytes - cache.wanted_bytes - total_bytes(requested.values()), 0)


def _listed(cache: CacheRecord) -> frozenset[Digest]:
    return frozenset(Digest(layer.digest) for layer in cache.spec.layers) if cache.spec is not None else frozenset()


def _only_listed(cache: CacheRecord) -> frozenset[Digest] | None:
    """Layers in the NodeCache, if others do not fit into it."""
    return _listed(cache) if cache.spec is not None and cache.spec.omitted is not None else None
