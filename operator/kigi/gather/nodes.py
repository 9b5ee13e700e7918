"""Nodes as placement sees them: free memory, the state of their cache, and whether their daemon reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from kigi.adapters.kubernetes.resources import CLUSTER_INSTANCETYPE, INSTANCETYPE
from kigi.domain import names
from kigi.domain.observed import VolumeRecord
from kigi.domain.systems import ResolvedSystem
from kigi.mirror.records import CACHE_SILENT_AFTER, CacheRecord, NodeRecord
from kigi.mirror.store import Mirror
from kigi.planning.view import NodeState
from kigi.planning.vm_manifest import machine_memory_bytes


def gather_nodes(mirror: Mirror, now: datetime, *, without: tuple[str, str] | None = None) -> dict[str, NodeState]:
    """Every node; memory that deployments other than ``without`` use is not free. O(nodes + machines of the others)."""
    used: Counter[str] = Counter()
    for deployment in {_deployment_key(value) for value in mirror.volumes.values_of("deployment")} - {without}:
        used.update(memory_by_node(mirror, deployment))
    return {node.meta.name: _node_state(mirror, node, now, used[node.meta.name]) for node in mirror.nodes}


def _deployment_key(value: object) -> tuple[str, str]:
    assert isinstance(value, tuple)
    return (str(value[0]), str(value[1]))


def memory_by_node(mirror: Mirror, deployment: tuple[str, str]) -> Mapping[str, int]:
    """Bytes of memory that the VMs of a deployment request, by the node of their newest disk."""
    known = mirror.memory_cache.get(deployment)
    if known is not None:
        return known
    newest: dict[tuple[int, str], VolumeRecord] = {}
    for volume in mirror.volumes.by("deployment", deployment):
        slot = (volume.instance, volume.machine)
        if not volume.meta.deleting and (slot not in newest or newest[slot].revision < volume.revision):
            newest[slot] = volume
    used: Counter[str] = Counter()
    for (instance, machine), volume in newest.items():
        vm = mirror.machines.get(deployment[0], names.machine_name(deployment[1], instance, machine))
        # A VM that waits for its layers does not exist yet; its memory is reserved.
        known_bytes = vm.memory_bytes if vm else None
        used[volume.node] += known_bytes if known_bytes is not None else _memory_of(mirror, deployment[0], volume)
    mirror.memory_cache[deployment] = used
    return used


def _memory_of(mirror: Mirror, namespace: str, volume: VolumeRecord) -> int:
    system = mirror.resolved(namespace, volume.system)
    if isinstance(system, ResolvedSystem):
        for machine in system.machines:
            if machine.name == volume.machine:
                return machine_memory_bytes(machine.template, instancetypes_of(mirror, namespace))
    return machine_memory_bytes({})


def instancetypes_of(mirror: Mirror, namespace: str) -> dict[tuple[str, str], int]:
    """Guest memory in bytes of the instancetypes that VMs of a namespace can use, by kind and name."""
    kinds = {
        CLUSTER_INSTANCETYPE.kind: mirror.cluster_instancetypes,
        INSTANCETYPE.kind: mirror.instancetypes.by("namespace", namespace),
    }
    return {(kind, record.meta.name): record.memory_bytes for kind, records in kinds.items() for record in records}


def _node_state(mirror: Mirror, node: NodeRecord, now: datetime, used_bytes: int) -> NodeState:
    cache = mirror.caches.get(None, node.meta.name)
    csi = mirror.csi_nodes.get(None, node.meta.name)
    state = NodeState(
        name=node.meta.name,
        ready=node.ready,
        schedulable=node.schedulable,
        labels=node.labels,
        taints=node.taints,
        memory_bytes=node.memory_bytes - used_bytes,
        has_driver=csi is not None and csi.has_driver,
        cache_alive=False,
    )
    if cache is None:
        return state
    return replace(
        state,
        held=cache.held,
        fetching=cache.fetching,
        refused=cache.refused,
        cache_free_bytes=max(cache.budget_bytes - cache.wanted_bytes, 0),
        cache_alive=is_alive(mirror, cache, now),
    )


def is_alive(mirror: Mirror, cache: CacheRecord, now: datetime) -> bool:
    """Whether the node's daemon has reported lately.

    The age of a heartbeat counts from the time at which this process saw it change, because the clocks of two machines
    may differ by hours. Before the first change, their difference decides.
    """
    if cache.heartbeat is None:
        return False
    silence_s = mirror.silence_s(cache.meta.name)
    if silence_s is not None:
        return silence_s < CACHE_SILENT_AFTER.total_seconds()
    return abs(now - cache.heartbeat) < CACHE_SILENT_AFTER
