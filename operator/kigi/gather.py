"""Views for decisions, from the mirror alone: no request to the API server is made here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime

from kigi.adapters.resources import CLUSTER_INSTANCETYPE, IMAGE, INSTANCETYPE, SYSTEM
from kigi.api.capture import SystemCaptureStatus
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.api.prefetch import SystemPrefetchStatus
from kigi.domain import names
from kigi.domain.layers import Chain
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import CAPTURE_KIND, DEPLOYMENT_KIND, PREFETCH_KIND, User, users_of_systems
from kigi.errors import DeploymentMissing, KigiError
from kigi.mirror import Mirror
from kigi.observed import (
    CACHE_SILENT_AFTER,
    CacheRecord,
    CaptureRecord,
    DeploymentRecord,
    NodeRecord,
    PrefetchRecord,
    VolumeRecord,
)
from kigi.planning import captures, plugin
from kigi.planning.captures import CaptureView
from kigi.planning.copies import life_of
from kigi.planning.node_cache import PRIORITY_DISK, PRIORITY_PREFETCH
from kigi.planning.objects import machine_memory_bytes
from kigi.planning.prefetches import PrefetchView
from kigi.planning.view import (
    ClaimState,
    DeploymentView,
    ImageView,
    KubeVirtState,
    MachineState,
    NodeState,
    NodeView,
    NodeWish,
    PolicyState,
    SystemView,
    VolumeState,
)
from kigi.planning.wishes import named_systems


def gather_deployment(mirror: Mirror, record: DeploymentRecord, now: datetime) -> DeploymentView:
    """The view of one deployment; its spec must be valid. O(its machines + nodes)."""
    assert not isinstance(record.spec, KigiError)
    meta = record.meta
    key = (meta.namespace or "", meta.name)
    return DeploymentView(
        namespace=key[0],
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.FINALIZER in meta.finalizers,
        spec=record.spec,
        systems={name: mirror.resolved(key[0], name) for name in named_systems(record.spec)},
        nodes=gather_nodes(mirror, now, without=key),
        volumes=tuple(_volume_state(volume, meta.uid) for volume in mirror.volumes.by("deployment", key)),
        claims=tuple(
            ClaimState(claim.meta.name, claim.volume, claim.meta.deleting, claim.bound)
            for claim in mirror.claims.by("deployment", key)
        ),
        machines=tuple(_machine_states(mirror, record)),
        kubevirt=kubevirt_of(mirror),
        now=now,
        instancetypes=instancetypes_of(mirror, key[0]),
        policies=tuple(
            PolicyState(p.meta.name, p.instance, p.spec, p.owner_uid == meta.uid, p.meta.deleting)
            for p in mirror.policies.by("deployment", key)
        ),
        changed_by=record.changed_by,
        old_status=record.status,
    )


def gather_nodes(mirror: Mirror, now: datetime, *, without: tuple[str, str] | None = None) -> dict[str, NodeState]:
    """Every node; memory that deployments other than ``without`` ask for is not free. O(nodes + machines of others)."""
    used: Counter[str] = Counter()
    for deployment in {str_pair(value) for value in mirror.volumes.values_of("deployment")} - {without}:
        used.update(memory_by_node(mirror, deployment))
    return {node.meta.name: _node_state(mirror, node, now, used[node.meta.name]) for node in mirror.nodes}


def str_pair(value: object) -> tuple[str, str]:
    """A key of the index by deployment."""
    assert isinstance(value, tuple)
    return (str(value[0]), str(value[1]))


def memory_by_node(mirror: Mirror, deployment: tuple[str, str]) -> Mapping[str, int]:
    """Bytes of memory that the VMs of a deployment ask for, by the node that their newest disk is on."""
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
        # A VM that waits for its layers is not there yet, but its room is taken.
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
    """Bytes of the guest's memory by kind and name of the instancetypes that VMs of a namespace can name."""
    kinds = {
        CLUSTER_INSTANCETYPE.kind: mirror.cluster_instancetypes,
        INSTANCETYPE.kind: mirror.instancetypes.by("namespace", namespace),
    }
    return {(kind, record.meta.name): record.memory_bytes for kind, records in kinds.items() for record in records}


def _node_state(mirror: Mirror, node: NodeRecord, now: datetime, used_bytes: int) -> NodeState:
    cache = mirror.caches.get(None, node.meta.name)
    csi = mirror.csi_nodes.get(None, node.meta.name)
    state = {
        "name": node.meta.name,
        "ready": node.ready,
        "schedulable": node.schedulable,
        "labels": node.labels,
        "taints": node.taints,
        "memory_bytes": node.memory_bytes - used_bytes,
        "has_driver": csi is not None and csi.has_driver,
    }
    if cache is None:
        return NodeState(**state, cache_alive=False)  # type: ignore[arg-type]
    return NodeState(
        **state,  # type: ignore[arg-type]
        held=cache.held,
        fetching=cache.fetching,
        refused=cache.refused,
        cache_free_bytes=max(cache.budget_bytes - cache.wanted_bytes, 0),
        cache_alive=_is_alive(mirror, cache, now),
    )


def _is_alive(mirror: Mirror, cache: CacheRecord, now: datetime) -> bool:
    """Whether the node's daemon has written its status lately.

    The clocks of two machines are compared only before this process has seen the heartbeat change: a node's clock may
    be wrong by an hour, and either clock may be set.
    """
    if cache.heartbeat is None:
        return False
    silence_s = mirror.silence_s(cache.meta.name)
    if silence_s is not None:
        return silence_s < CACHE_SILENT_AFTER.total_seconds()
    return abs(now - cache.heartbeat) < CACHE_SILENT_AFTER


def _volume_state(volume: VolumeRecord, uid: str) -> VolumeState:
    # A deployment of the same name that was deleted by force may have left a volume: its fingerprint is hidden, so
    # that its overlay is never taken for this deployment's, and its number is not used again.
    ours = volume.owner_uid == uid
    return VolumeState(
        name=volume.meta.name,
        handle=volume.handle,
        instance=volume.instance,
        machine=volume.machine,
        disk=volume.disk,
        revision=volume.revision,
        node=volume.node,
        fingerprint=volume.fingerprint if ours else "",
        system=volume.system,
        chain=volume.chain,
        deleting=volume.meta.deleting,
        claim_bound=volume.claim_bound,
    )


def _machine_states(mirror: Mirror, record: DeploymentRecord) -> Iterator[MachineState]:
    key = (record.meta.namespace or "", record.meta.name)
    for vm in mirror.machines.by("deployment", key):
        vmi = mirror.instances.get(key[0], vm.meta.name)
        yield MachineState(
            name=vm.meta.name,
            instance=vm.instance,
            machine=vm.machine,
            owned=vm.owner_uid == record.meta.uid,
            deleting=vm.meta.deleting,
            claim=vm.claim,
            running=vm.running,
            template_hash=vm.template_hash,
            hardware=vm.hardware,
            sidecars=vm.sidecars,
            halted_until=vm.halted_until,
            instance_uid=vmi.meta.uid if vmi else None,
            instance_claim=vmi.claim if vmi else None,
            instance_hardware=vmi.hardware if vmi else "",
            lasting=vmi.lasting if vmi else "",
            haunted=vmi.haunted if vmi else False,
            instance_phase=vmi.phase if vmi else "",
            instance_ready=vmi.ready if vmi else False,
            paused=vmi.paused if vmi else False,
            instance_deleting=vmi.meta.deleting if vmi else False,
            instance_node=vmi.node if vmi else None,
            printable_status=vm.printable_status,
            message=(vmi.message if vmi else "") or vm.message,
        )


def kubevirt_of(mirror: Mirror) -> KubeVirtState:
    """What KubeVirt can do here."""
    for record in mirror.kubevirts:
        if record.state.hook != "Plugin":
            return record.state
        known = mirror.plugins.get(None, plugin.NAME)
        if known is not None and known.intact and not known.meta.deleting:
            return record.state
        why = f"Plugin {plugin.NAME} is not there yet as it shall be; no VM is started on a layered disk without it"
        return KubeVirtState(record.state.version, None, why, pending=True)
    return KubeVirtState(why_not="KubeVirt is not installed: there is no KubeVirt object in the cluster")


def gather_node(mirror: Mirror, name: str) -> NodeView:
    """The view of one node's cache. O(its volumes + machines of deployments that prefetch)."""
    cache = mirror.caches.get(None, name)
    csi = mirror.csi_nodes.get(None, name)
    volumes = list(mirror.volumes.by("node", name))
    terminating = [v for v in volumes if v.meta.deleting and names.OVERLAY_FINALIZER in v.meta.finalizers]
    return NodeView(
        name=name,
        node_exists=mirror.nodes.get(None, name) is not None,
        has_driver=csi is not None and csi.has_driver,
        cache_exists=cache is not None,
        wishes=(
            *(NodeWish(v.chain, PRIORITY_DISK) for v in volumes if not v.meta.deleting),
            *_deployments_prefetches(mirror, volumes),
            *_prefetches(mirror, name),
        ),
        terminating=tuple((v.meta.name, v.handle) for v in terminating),
        terminating_in_use=frozenset(v.meta.name for v in terminating if _in_use(mirror, v)),
        spec_current=cache is not None and cache.observed_generation == cache.meta.generation,
        discard=frozenset(cache.spec.discard) if cache and cache.spec else frozenset(),
        volumes=cache.volumes if cache else frozenset(),
        nameless=frozenset(_nameless(mirror, cache)) if cache else frozenset(),
        captures=tuple(_capture_orders(mirror, name)),
        present=cache.spec if cache else None,
    )


def _nameless(mirror: Mirror, cache: CacheRecord) -> Iterator[str]:
    """Overlays of our form that the node has and the mirror has no PersistentVolume of, be it of whichever node."""
    for handle in cache.volumes - cache.mounted:
        if names.volume_of_handle(handle) is not None and not any(mirror.volumes.by("handle", handle)):
            yield handle


def _capture_orders(mirror: Mirror, node: str) -> Iterator[CaptureOrder]:
    for record in sorted(mirror.captures, key=lambda record: record.meta.uid):
        if record.status is not None:
            yield from (order for where, order in captures.orders(record.status) if where == node)


def gather_capture(mirror: Mirror, record: CaptureRecord, now: datetime) -> CaptureView:
    """The view of one capture; its spec must be valid. O(its deployment's machines + nodes)."""
    assert not isinstance(record.spec, KigiError)
    meta, namespace = record.meta, record.meta.namespace or ""
    status = record.status or SystemCaptureStatus()
    reports: dict[str, CaptureReport] = {}
    for node in {disk.node for disk in status.disks}:
        cache = mirror.caches.get(None, node)
        reports.update(cache.captures if cache is not None else {})
    name = record.spec.deployment.name
    found = mirror.deployments.get(namespace, name)
    deployment: DeploymentView | KigiError
    if found is None or found.meta.deleting:
        deployment = DeploymentMissing(f"spec.deployment.name: there is no SystemDeployment {namespace}/{name}")
    elif isinstance(found.spec, KigiError):
        deployment = found.spec
    else:
        deployment = gather_deployment(mirror, found, now)
    return CaptureView(
        namespace=namespace,
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        deleting=meta.deleting,
        has_finalizer=names.FINALIZER in meta.finalizers,
        spec=record.spec,
        status=status,
        deployment=deployment,
        agents=frozenset(vmi.meta.uid for vmi in mirror.instances.by("deployment", (namespace, name)) if vmi.agent),
        taken=frozenset(
            (resource.kind, node.meta.name)
            for resource, store in ((IMAGE, mirror.images), (SYSTEM, mirror.systems))
            for node in store.by("namespace", namespace)
        ),
        reports=reports,
        lives={
            node.meta.name: life_of(
                node_exists=True,
                cache_alive=(cache := mirror.caches.get(None, node.meta.name)) is not None
                and _is_alive(mirror, cache, now),
            )
            for node in mirror.nodes
        },
        now=now,
    )


def _in_use(mirror: Mirror, volume: VolumeRecord) -> bool:
    namespace, deployment = volume.deployment
    vmi = mirror.instances.get(namespace, names.machine_name(deployment, volume.instance, volume.machine))
    claim = names.claim_name(deployment, volume.instance, volume.machine, volume.revision)
    return vmi is not None and vmi.claim == claim


def _deployments_prefetches(mirror: Mirror, volumes: list[VolumeRecord]) -> Iterator[NodeWish]:
    """Chains of the states that deployments on this node keep warm: of the machines that are here, and of new ones."""
    machines: dict[tuple[str, str], set[str]] = defaultdict(set)
    for volume in volumes:
        if not volume.meta.deleting:
            machines[volume.deployment].add(volume.machine)
    for deployment, here in sorted(machines.items()):
        record = mirror.deployments.get(*deployment)
        if record is None or isinstance(record.spec, KigiError) or record.meta.deleting or not record.spec.prefetch:
            continue
        everywhere = {v.machine for v in mirror.volumes.by("deployment", deployment)}
        for ref in record.spec.prefetch:
            system = mirror.resolved(deployment[0], ref.name)
            if isinstance(system, ResolvedSystem):
                for machine in system.machines:
                    if machine.name in here or machine.name not in everywhere:
                        yield from (NodeWish(chain, PRIORITY_PREFETCH) for chain in machine.chains)


def _prefetches(mirror: Mirror, node: str) -> Iterator[NodeWish]:
    """Chains of the states that each SystemPrefetch has told this node to hold."""
    for record in sorted(mirror.prefetches, key=lambda record: (record.meta.namespace or "", record.meta.name)):
        if record.status is None or isinstance(record.spec, KigiError) or record.meta.deleting:
            continue
        for told in record.status.nodes:
            if told.name == node:
                for name in told.ordered:
                    system = mirror.resolved(record.meta.namespace or "", name)
                    if isinstance(system, ResolvedSystem):
                        for machine in system.machines:
                            for chain in machine.chains:
                                yield NodeWish(chain, PRIORITY_PREFETCH, record.spec.pinned)


def gather_prefetch(mirror: Mirror, record: PrefetchRecord, now: datetime) -> PrefetchView:
    """The view of one prefetch; its spec must be valid. O(nodes + machines)."""
    assert not isinstance(record.spec, KigiError)
    return PrefetchView(
        generation=record.meta.generation,
        spec=record.spec,
        systems={ref.name: mirror.resolved(record.meta.namespace or "", ref.name) for ref in record.spec.systems},
        nodes=gather_nodes(mirror, now),
        status=record.status or SystemPrefetchStatus(),
        now=now,
    )


def gather_image(mirror: Mirror, namespace: str, name: str, now: datetime) -> ImageView | None:
    """The view of one image; None if it is gone."""
    record = mirror.images.get(namespace, name)
    if record is None:
        return None
    chain = mirror.chain(namespace, name)
    return ImageView(
        generation=record.meta.generation,
        chain=chain,
        children=mirror.trees(namespace).children(name),
        cached_on=0 if isinstance(chain, KigiError) else _cached_on(mirror, chain),
        now=now,
        old_status=record.status,
        deleting=record.meta.deleting,
        users=image_users(mirror, namespace, name),
    )


def _cached_on(mirror: Mirror, chain: Chain) -> int:
    """Nodes that hold every layer of the chain."""
    holders = [mirror.holders.get(layer.digest, set()) for layer in chain]
    return len(set.intersection(*holders)) if all(holders) else 0


def gather_system(mirror: Mirror, namespace: str, name: str, now: datetime) -> SystemView | None:
    """The view of one state; None if it is gone."""
    record = mirror.systems.get(namespace, name)
    if record is None:
        return None
    parent = getattr(record.system, "parent", None)
    above = mirror.resolved(namespace, parent) if parent is not None else None
    return SystemView(
        generation=record.meta.generation,
        system=mirror.resolved(namespace, name),
        parent=above if isinstance(above, ResolvedSystem) else None,
        now=now,
        old_status=record.status,
        deleting=record.meta.deleting,
        users=system_users(mirror, namespace, name),
    )


def image_users(mirror: Mirror, namespace: str, name: str) -> tuple[User, ...]:
    """The image's children, the states that name it, and captures of disks above it. O(captures of the namespace)."""
    copied = {
        User(CAPTURE_KIND, record.meta.name)
        for record in mirror.captures.by("namespace", namespace)
        if name in captures.uses(record.status)[1]
    }
    return tuple(sorted({*mirror.trees(namespace).image_users(name), *copied}))


def system_users(mirror: Mirror, namespace: str, name: str) -> tuple[User, ...]:
    """The state's children, and what names it: deployments, prefetches, captures. O(objects of the namespace)."""
    named = {
        User(DEPLOYMENT_KIND, record.meta.name): named_systems(record.spec)
        for record in mirror.deployments.by("namespace", namespace)
        if not isinstance(record.spec, KigiError)
    }
    for record in mirror.prefetches.by("namespace", namespace):
        if not isinstance(record.spec, KigiError):
            named[User(PREFETCH_KIND, record.meta.name)] = frozenset(ref.name for ref in record.spec.systems)
    for capture in mirror.captures.by("namespace", namespace):
        named[User(CAPTURE_KIND, capture.meta.name)] = captures.uses(capture.status)[0]
    return users_of_systems(mirror.trees(namespace).systems(), named).get(name, ())
