"""A small simulated world: API objects, nodes, caches, KubeVirt and the volume binder, driven one step at a time.

After any single step a test may inspect it, change the spec, lose a node, or plan again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.instance import SystemInstanceSpec
from kigi.api.node_cache import NodeCacheSpec
from kigi.domain import names
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.images import Image, image_chain
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Digest, Layer
from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, HOOK_SIDECARS, instance_order
from kigi.domain.observed import ClaimRecord, MachineRecord, Meta, PolicyRecord, Slot, VmiRecord, VolumeRecord
from kigi.domain.resets import ResetRequest, ResetScope, refusal
from kigi.domain.systems import DiskChange, MachineChange, ResolvedSystem, System, resolve_system
from kigi.errors import KigiError
from kigi.planning.cleanup import plan_teardown
from kigi.planning.deployment import plan_deployment
from kigi.planning.deployment_view import DeploymentView, ObservedInstance
from kigi.planning.desired import desired_targets
from kigi.planning.instance import InstancePlan, plan_instance
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.placed import PlacedTarget
from kigi.planning.steps import (
    AddFinalizer,
    ApplyObject,
    DeleteObject,
    EmitEvent,
    PatchObject,
    ReleaseVolume,
    RemoveFinalizer,
    RestartMachine,
    Step,
)
from kigi.planning.targets import MachineTarget
from kigi.planning.view import DesiredChain, InstanceObjects, InstanceView, MachineState, NodeState, NodeView

GIB = 2**30
UID = "0123456789"
"""uid of the world's deployment."""


def _meta(namespace: str | None, name: str, *, uid: str = "", deleting: bool = False) -> Meta:
    return Meta(namespace, name, uid, version=1, deleting=deleting)


def with_machines(
    view: InstanceView,
    *machines: str,
    vm: Mapping[str, Any] | None = None,
    vmi: Mapping[str, Any] | None = None,
    vmi_deleting: bool = False,
    is_off: bool = False,
) -> InstanceView:
    """The view with other fields of the VMs and VMIs of these machines, or of all machines if none is named."""

    def changed(state: MachineState) -> MachineState:
        if machines and state.vm.machine not in machines:
            return state
        found = state.vmi
        if found is not None:
            found = replace(found, **(vmi or {}))
            found = replace(found, meta=replace(found.meta, deleting=found.meta.deleting or vmi_deleting))
        return MachineState(replace(state.vm, **(vm or {})), None if is_off else found)

    return replace(view, machines=tuple(changed(state) for state in view.machines))


def digest(text: str) -> Digest:
    """A digest that is a function of a name."""
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def image(name: str, parent: str | None = None, size_bytes: int = 1000) -> Image:
    return Image(name, digest(name), size_bytes, GIB, parent)


def small_trees() -> tuple[dict[str, Image], dict[str, System]]:
    """Two roles on one base, web after db; in b db has two more disks, c removes it and adds another machine.

    Web's image is the same in b and c, its memory is not.
    """
    images = [
        image("base"),
        image("web", "base"),
        image("db", "base"),
        image("web-b", "web"),
        image("extra", "base"),
        image("data"),
        image("data-b", "data"),
    ]
    systems = [
        System("a", None, (MachineChange("web", "web", {"startAfter": ["db"]}), MachineChange("db", "db"))),
        System(
            "b",
            "a",
            (
                MachineChange("web", "web-b"),
                MachineChange("db", disks=(DiskChange("data", "data"), DiskChange("logs", "data"))),
            ),
        ),
        System(
            "c",
            "b",
            (
                MachineChange("db", removed=True),
                MachineChange("web", settings={"hardware": {"memory": {"guest": "1Gi"}}}, unset=("startAfter",)),
                MachineChange("extra", "extra", {"startAfter": ["web"]}, disks=(DiskChange("data", "data-b"),)),
            ),
        ),
    ]
    return {i.name: i for i in images}, {s.name: s for s in systems}


@dataclass
class Vm:
    manifest: Mapping[str, Any]
    uid: str
    deleting: bool = False

    @property
    def claim(self) -> str:
        claim: str = self.manifest["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        return claim

    @property
    def owner_uid(self) -> str:
        return str(self.manifest["metadata"]["annotations"][names.ANNOTATION_OWNER])

    @property
    def claims(self) -> list[str]:
        volumes = self.manifest["spec"]["template"]["spec"]["volumes"]
        return [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]

    @property
    def annotations(self) -> Mapping[str, str]:
        """Annotations of its template, which every VMI gets."""
        annotations: Mapping[str, str] = self.manifest["spec"]["template"]["metadata"]["annotations"]
        return annotations

    @property
    def running(self) -> bool:
        return bool(self.manifest["spec"]["runStrategy"] == "Always")


@dataclass
class Vmi:
    uid: str
    claims: list[str]
    hardware: str
    phase: str = "Scheduling"
    deleting: bool = False
    paused: bool = False
    """KubeVirt's condition Paused."""

    @property
    def claim(self) -> str:
        return self.claims[0]


@dataclass
class Volume:
    manifest: Mapping[str, Any]
    bound: bool = False
    deleting: bool = False
    made: int = 0
    """Clock value at which it was created."""

    @property
    def node(self) -> str:
        terms = self.manifest["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        return str(terms[0]["matchExpressions"][0]["values"][0])

    @property
    def handle(self) -> str:
        return str(self.manifest["spec"]["csi"]["volumeHandle"])

    @property
    def revision(self) -> int:
        return int(self.manifest["metadata"]["labels"][names.LABEL_REVISION])

    @property
    def chain(self) -> list[Digest]:
        return [Digest(e["digest"]) for e in json.loads(self.manifest["spec"]["csi"]["volumeAttributes"]["chain"])]


@dataclass
class Node:
    ready: bool = True
    held: set[Digest] = field(default_factory=set)
    overlays: dict[str, int] = field(default_factory=dict)
    """Handle -> clock value at which the overlay was created."""
    cache: Mapping[str, Any] | None = None
    acted: bool = False
    """The daemon has acted on the current NodeCache."""


@dataclass
class Instance:
    """A SystemInstance. ``settings``: its spec without the identity."""

    uid: str
    finalizer: bool = False
    deleting: bool = False
    owner_uids: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    generation: int = 1


def deployment_spec(state: str = "a", **fields: Any) -> SystemDeploymentSpec:
    """A spec whose instances are 0, 1, ..."""
    known = {"systemRef": {"name": state}, "ordinals": {"start": 0}, **fields}
    return SystemDeploymentSpec.model_validate({key: value for key, value in known.items() if value is not None})


class World:
    """See the module. ``clock`` counts every change; an overlay records the clock value of its creation.

    ``created``: the SystemInstances exist already, and are not planned yet.
    """

    def __init__(
        self, spec: SystemDeploymentSpec, node_names: tuple[str, ...] = ("n1", "n2"), *, created: bool = True
    ) -> None:
        self.images, self.systems = small_trees()
        self.spec = spec
        self.instances: dict[str, Instance] = {}
        self.nodes: dict[str, Node] = {name: Node() for name in node_names}
        self.volumes: dict[str, Volume] = {}
        self.claims: dict[str, tuple[Mapping[str, Any], bool]] = {}
        self.vms: dict[str, Vm] = {}
        self.vmis: dict[str, Vmi] = {}
        self.policies: dict[str, Mapping[str, Any]] = {}
        self.deleting = False
        self.gone = False
        self.generation = 1
        self.clock = 0
        self.uids = itertools.count(1)
        self.requests: list[ResetRequest] = []
        self.frozen = 0
        """Clock value at which the API server's clock has stopped; 0: it runs."""
        self.finalizer = created
        for name in spec.instance_names() if created else ():
            self.create_instance(name, owner_uids=(UID,))
        self.moved: dict[str, list[Digest]] = {name: [] for name in node_names}
        self.lost: dict[str, Node] = {}
        """Disks of nodes whose Node object was deleted."""

    # Users.

    def change(self, **changes: Any) -> None:
        fields = {**self.spec.to_api(), **changes}
        self.spec = SystemDeploymentSpec.model_validate({k: v for k, v in fields.items() if v is not None})
        self.generation += 1
        self.clock += 1

    def request(
        self, instances: Iterable[str] = (), machines: Iterable[str] = (), created: datetime | None = None
    ) -> ResetRequest:
        """A SystemReset, created now."""
        name = f"request-{next(self.uids)}"
        made = created or self.time(self.clock)
        found = ResetRequest(name, name, made, "dep", frozenset(instances), frozenset(machines), "alice")
        self.requests.append(found)
        self.clock += 1
        return found

    def stand_still(self) -> None:
        """The API server's clock stops: all that is created from now on has the same time."""
        self.frozen = self.clock

    def change_instance(self, name: str, **changes: Any) -> None:
        """Changes what differs for the instance; nothing if it does not exist."""
        if name in self.instances:
            instance = self.instances[name]
            instance.settings = {k: v for k, v in {**instance.settings, **changes}.items() if v is not None}
            instance.generation += 1
            self.clock += 1

    def create_instance(self, name: str, **fields: Any) -> None:
        """Creates the SystemInstance, if there is none of that name."""
        self.instances.setdefault(name, Instance(f"{next(self.uids):08}-instance", **fields))

    def delete_instance(self, name: str) -> None:
        """Deletes the SystemInstance; it stays while it has its finalizer."""
        if name in self.instances and self.instances[name].finalizer:
            self.instances[name].deleting = True
        else:
            self.instances.pop(name, None)
        self.clock += 1

    def lose_instance(self, name: str) -> None:
        """Deletes the SystemInstance by force: everything that it created stays."""
        self.instances.pop(name, None)
        self.clock += 1

    def edit(self, state: str, machine: str, unset: tuple[str, ...] = (), **settings: Any) -> None:
        """Changes the settings of a machine in its state, in place."""
        old = self._change_of(state, machine)
        self._edit(state, replace(old, settings={**old.settings, **settings}, unset=(*old.unset, *unset)))

    def edit_image(self, state: str, machine: str, image_name: str) -> None:
        """Gives a machine another image in its state, in place."""
        self._edit(state, replace(self._change_of(state, machine), image=image_name, removed=False))

    def edit_disk(self, state: str, machine: str, disk: str, image_name: str) -> None:
        """Gives an extra disk of a machine another image in its state, in place."""
        old = self._change_of(state, machine)
        disks = {each.name: each for each in old.disks} | {disk: DiskChange(disk, image_name)}
        self._edit(state, replace(old, disks=tuple(disks.values())))

    def edit_away(self, state: str, machine: str) -> None:
        """Takes a machine out of a state that has no parent, in place."""
        system = self.systems[state]
        self.systems[state] = replace(system, machines=tuple(c for c in system.machines if c.name != machine))
        self.clock += 1

    def _change_of(self, state: str, machine: str) -> MachineChange:
        found = [change for change in self.systems[state].machines if change.name == machine]
        return found[0] if found else MachineChange(machine)

    def _edit(self, state: str, change: MachineChange) -> None:
        changes = {each.name: each for each in self.systems[state].machines} | {change.name: change}
        self.systems[state] = replace(self.systems[state], machines=tuple(changes.values()))
        self.clock += 1

    # What the planner sees.

    def resolved(self, name: str) -> ResolvedSystem | KigiError:
        try:
            return resolve_system(self.systems, lambda image: image_chain(self.images, image), name)
        except KigiError as exc:
            return exc

    def view(self, name: str | None = None, placed: tuple[PlacedTarget, ...] = ()) -> InstanceView:
        """The view of one instance, of the first one by default; ``placed``: what others have decided just now."""
        name = name or min(self.instances, key=instance_order)
        instance, objects = self.instances[name], self.objects(name)
        nodes_of_others = {(v.instance, v.node) for v in self._volume_records() if not v.meta.deleting}
        nodes_of_others |= {(one.target.instance, one.node) for one in placed}
        identity = {"deploymentRef": {"name": "dep"}, "name": name}
        return InstanceView(
            namespace=objects.namespace,
            deployment=objects.deployment,
            deployment_uid=objects.deployment_uid,
            name=name,
            uid=objects.uid,
            has_finalizer=objects.has_finalizer,
            volumes=objects.volumes,
            claims=objects.claims,
            machines=objects.machines,
            policies=objects.policies,
            generation=instance.generation,
            deployment_generation=self.generation,
            settings=SystemInstanceSpec.model_validate({**identity, **instance.settings}),
            spec=self.spec,
            systems={name: self.resolved(name) for name in self.systems},
            nodes={
                name: NodeState(
                    name, ready=node.ready, memory_bytes=100 * GIB, cache_free_bytes=GIB, held=frozenset(node.held)
                )
                for name, node in self.nodes.items()
            },
            kubevirt=KubeVirtState("1.7.0", "Sidecar"),
            now=self.now,
            load=Counter(node for other, node in nodes_of_others if other != name),
            resets=tuple(
                request
                for request in self.requests
                if request.concerns(name) and refusal(request, self._scope()) is None
            ),
        )

    def objects(self, name: str) -> InstanceObjects:
        """What belongs to the instance, or was left by a former one of its name."""
        instance = self.instances.get(name)
        machines = [self._machine_state(vm, found) for vm, found in self.vms.items()]
        policies = [self._policy_record(policy, manifest) for policy, manifest in self.policies.items()]
        claims = [self._claim_record(claim, manifest, gone) for claim, (manifest, gone) in self.claims.items()]
        return InstanceObjects(
            namespace="ns",
            deployment="dep",
            deployment_uid=UID,
            name=name,
            uid=instance.uid if instance is not None else "",
            has_finalizer=instance is not None and instance.finalizer,
            volumes=tuple(record for record in self._volume_records() if record.instance == name),
            claims=tuple(record for record in claims if record.instance == name),
            machines=tuple(state for state in machines if state.vm.instance == name),
            policies=tuple(record for record in policies if record.instance == name),
        )

    def deployment_view(self) -> DeploymentView:
        parts = (*(v.manifest for v in self.volumes.values()), *(vm.manifest for vm in self.vms.values()))
        parts = (*parts, *(manifest for manifest, _ in self.claims.values()), *self.policies.values())
        found = {str(manifest["metadata"]["labels"][names.LABEL_INSTANCE]) for manifest in parts}
        known = {name for name, one in self.instances.items() if one.finalizer or self.spec.selects(name)}
        return DeploymentView(
            namespace="ns",
            name="dep",
            uid=UID,
            generation=self.generation,
            deleting=self.deleting,
            has_finalizer=self.finalizer,
            spec=self.spec,
            instances=tuple(self._observed(name, instance) for name, instance in self.instances.items()),
            leftovers=tuple(self.objects(name) for name in sorted(found - known)),
            now=self.now,
        )

    @property
    def now(self) -> datetime:
        return self.time(self.clock)

    def time(self, clock: int) -> datetime:
        """Time of a clock value, in whole seconds as the API server has them."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=min(clock, self.frozen) if self.frozen else clock)

    def _scope(self) -> ResetScope:
        machines: dict[str, frozenset[str]] = {}
        for name in self.spec.instance_names():
            settings = self.instances[name].settings if name in self.instances else {}
            state = self.resolved(settings.get("systemRef", {}).get("name") or self.spec.system_ref.name)
            if isinstance(state, ResolvedSystem):
                machines[name] = frozenset(machine.name for machine in state.machines)
        names_ = self.spec.instance_names()
        return ResetScope("dep", self.time(0), dict.fromkeys(names_, self.time(0)), machines, names_)

    def _observed(self, name: str, instance: Instance) -> ObservedInstance:
        return ObservedInstance(
            name=name,
            object_name=f"dep-{name}",
            uid=instance.uid,
            generation=instance.generation,
            deleting=instance.deleting,
            has_finalizer=instance.finalizer,
            owner_uids=instance.owner_uids,
            status=None,
        )

    def _volume_records(self) -> list[VolumeRecord]:
        return [self._volume_record(name, volume) for name, volume in self.volumes.items()]

    def node_view(self, name: str) -> NodeView:
        node = self.nodes.get(name)
        mine = {n: v for n, v in self.volumes.items() if v.node == name}
        layers = {i.digest: Layer(i.digest, i.size_bytes, i.virtual_size_bytes) for i in self.images.values()}

        present = NodeCacheSpec.model_validate(node.cache["spec"]) if node and node.cache else None
        return NodeView(
            name=name,
            node_exists=node is not None,
            has_driver=node is not None,
            cache_exists=node is not None and node.cache is not None,
            desired=tuple(
                DesiredChain(tuple(layers[d] for d in v.chain), purpose="Disk") for v in mine.values() if not v.deleting
            ),
            terminating=tuple((n, v.handle) for n, v in mine.items() if v.deleting),
            spec_current=node is not None and node.acted,
            discard=frozenset(present.discard_volumes if present else ()),
            volumes=frozenset(node.overlays if node else ()),
            without_volume=frozenset(node.overlays if node else ()) - {v.handle for v in self.volumes.values()},
            present=present,
        )

    def _volume_record(self, name: str, volume: Volume) -> VolumeRecord:
        meta = volume.manifest["metadata"]
        return VolumeRecord(
            meta=replace(_meta(None, name, deleting=volume.deleting), created=self.time(volume.made)),
            owner_uid=meta["annotations"][names.ANNOTATION_OWNER],
            deployment=("ns", "dep"),
            instance=meta["labels"][names.LABEL_INSTANCE],
            machine=meta["labels"][names.LABEL_MACHINE],
            disk=meta["labels"].get(names.LABEL_DISK, ""),
            revision=int(meta["labels"][names.LABEL_REVISION]),
            node=volume.node,
            handle=volume.handle,
            fingerprint=Fingerprint.from_text(meta["annotations"][names.ANNOTATION_FINGERPRINT]),
            chain=tuple(Layer(d, 1000, GIB) for d in volume.chain),
            claim_bound=volume.bound,
            is_available=False,
        )

    def _claim_record(self, name: str, manifest: Mapping[str, Any], deleting: bool) -> ClaimRecord:
        volume = manifest["spec"]["volumeName"]
        instance = manifest["metadata"]["labels"][names.LABEL_INSTANCE]
        meta = _meta("ns", name, deleting=deleting)
        return ClaimRecord(meta, ("ns", "dep"), instance, volume, bound=True, touched_for="")

    def _machine_state(self, name: str, vm: Vm) -> MachineState:
        labels = vm.manifest["metadata"]["labels"]
        record = MachineRecord(
            meta=_meta("ns", name, uid=vm.uid, deleting=vm.deleting),
            owner_uid=vm.owner_uid,
            deployment=("ns", "dep"),
            instance=labels[names.LABEL_INSTANCE],
            machine=labels[names.LABEL_MACHINE],
            claim=vm.claim,
            running=vm.running,
            template_hash=vm.manifest["metadata"]["annotations"]["kigi.dev/template-hash"],
            hardware=vm.annotations[ANNOTATION_HARDWARE_HASH],
            sidecars=vm.annotations.get(HOOK_SIDECARS, ""),
            halted_until=None,
            memory_bytes=None,
            printable_status="",
            message="",
        )
        vmi = self.vmis.get(name)
        return MachineState(record, self._vmi_record(name, vmi) if vmi is not None else None)

    def _vmi_record(self, name: str, vmi: Vmi) -> VmiRecord:
        return VmiRecord(
            meta=_meta("ns", name, uid=vmi.uid, deleting=vmi.deleting),
            deployment=("ns", "dep"),
            instance=self.vms[name].manifest["metadata"]["labels"][names.LABEL_INSTANCE],
            claim=vmi.claim,
            hardware=vmi.hardware,
            phase=vmi.phase,
            ready=vmi.phase == "Running",
            paused=vmi.paused,
            persistent_state="",
            agent=False,
            blocked_by_ghost_record=False,
            node=self._volume_of(vmi.claim).node,
            message="",
        )

    def _policy_record(self, name: str, manifest: Mapping[str, Any]) -> PolicyRecord:
        instance = manifest["metadata"]["labels"][names.LABEL_INSTANCE]
        owner = manifest["metadata"]["annotations"][names.ANNOTATION_OWNER]
        return PolicyRecord(_meta("ns", name), owner, ("ns", "dep"), instance, manifest["spec"])

    # Carrying out steps.

    def plan(self) -> InstancePlan:
        """The plans of the deployment and of all its instances, one after the other."""
        if self.gone:
            return InstancePlan()
        steps, placed, error = list(plan_deployment(self.deployment_view()).steps), [], None
        for name in sorted(self.instances, key=instance_order):
            plan = self.plan_of(name, tuple(placed))
            steps += plan.steps
            placed += plan.placed
            error = error or plan.error
        return InstancePlan(steps=tuple(steps), placed=tuple(placed), error=error)

    def plan_of(self, name: str, placed: tuple[PlacedTarget, ...] = ()) -> InstancePlan:
        """The plan of one instance; it is empty if the deployment does not select it."""
        instance = self.instances[name]
        if instance.deleting:
            return InstancePlan(steps=plan_teardown(self.objects(name)).steps)
        if self.deleting or not self.finalizer or not self.is_selected(name):
            return InstancePlan()
        return plan_instance(self.view(name, placed))

    def is_selected(self, name: str) -> bool:
        instance = self.instances.get(name)
        mine = instance is not None and (not instance.owner_uids or UID in instance.owner_uids)
        return mine and self.spec.selects(name)

    def apply(self, step: Step) -> None:
        self.clock += 1
        match step:
            case AddFinalizer(_, name, "SystemDeployment"):
                self.finalizer = True
            case AddFinalizer(_, name, "SystemInstance"):
                self.instances[name.removeprefix("dep-")].finalizer = True
            case RemoveFinalizer(_, name, "SystemDeployment"):
                assert not (self.instances or self.volumes or self.claims or self.vms or self.policies)
                self.finalizer, self.gone = False, True
            case RemoveFinalizer(_, name, "SystemInstance"):
                left = self.objects(name.removeprefix("dep-"))
                assert not (left.volumes or left.claims or left.machines or left.policies), "the finalizer is last"
                del self.instances[name.removeprefix("dep-")]
            case DeleteObject("SystemInstance", name):
                self.delete_instance(name.removeprefix("dep-"))
            case ApplyObject(manifest):
                self._apply_object(manifest)
            case PatchObject():
                self._patch_object(step)
            case RestartMachine(_, name, uid):
                if name in self.vmis and self.vmis[name].uid == uid:
                    self.vmis[name].deleting = True
            case DeleteObject("VirtualMachine", name):
                self.vms[name].deleting = True
            case DeleteObject("PersistentVolumeClaim", name):
                self.claims[name] = (self.claims[name][0], True)
            case DeleteObject("PersistentVolume", name):
                self.volumes[name].deleting = True
            case DeleteObject("NetworkPolicy", name):
                del self.policies[name]
            case DeleteObject("NodeCache", name):
                self.nodes[name].cache = None
            case ReleaseVolume(name):
                volume = self.volumes[name]
                node = self.nodes.get(volume.node)
                assert node is None or volume.handle not in node.overlays, "released with its overlay on the node"
                if not any(m["spec"]["volumeName"] == name for m, _ in self.claims.values()):
                    del self.volumes[name]
            case EmitEvent():
                pass

    def _apply_object(self, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "NodeCache":
            self.nodes[name].cache = manifest
            self.nodes[name].acted = False
            return
        if manifest["kind"] == "SystemInstance":
            assert self.finalizer, "nothing is created before the finalizer"
            assert not self.deleting
            owner_uids = tuple(owner["uid"] for owner in manifest["metadata"]["ownerReferences"])
            self.create_instance(manifest["spec"]["name"], finalizer=True, owner_uids=owner_uids)
            return
        instance = self.instances[manifest["metadata"]["labels"][names.LABEL_INSTANCE]]
        assert instance.finalizer, "nothing is created before the finalizer"
        assert manifest["metadata"].get("annotations", {}).get(names.ANNOTATION_OWNER, instance.uid) == instance.uid
        match manifest["kind"]:
            case "PersistentVolume":
                old = self.volumes.get(name)
                assert old is None or old.manifest["spec"] == manifest["spec"], "a PersistentVolume never changes"
                self.volumes.setdefault(name, Volume(manifest, made=self.clock))
            case "PersistentVolumeClaim":
                self.claims.setdefault(name, (manifest, False))
                self.volumes[manifest["spec"]["volumeName"]].bound = True
            case "NetworkPolicy":
                self.policies[name] = manifest
            case "VirtualMachine":
                known = self.vms.get(name)
                self.vms[name] = Vm(manifest, known.uid if known else f"vm{next(self.uids)}")

    def _patch_object(self, step: PatchObject) -> None:
        match step.kind:
            case "PersistentVolume":
                volume = self.volumes[step.name]
                volume.manifest = merge_patch(volume.manifest, step.patch)
            case "VirtualMachine":
                vm = self.vms[step.name]
                assert vm.uid == step.uid, "a patch of a recreated VM"
                vm.manifest = merge_patch(vm.manifest, step.patch)
            case kind:
                raise AssertionError(f"a patch of a {kind}")

    # All other components, one small move at a time.

    def moves(self) -> Iterator[tuple[str, Any]]:
        """Moves that other components could make now."""
        for name, node in self.nodes.items():
            if not node.ready or node.cache is None:
                continue
            wanted = [layer["digest"] for layer in node.cache["spec"].get("layers", [])]
            if any(d not in node.held for d in wanted):
                yield ("fill", name)
            if not node.acted:
                yield ("act", name)
        for name, vm in list(self.vms.items()):
            vmi = self.vmis.get(name)
            if vmi is None and vm.deleting:
                yield ("vm-gone", name)
            elif vmi is None and vm.running and self._can_start(vm):
                yield ("start", name)
            elif vmi is not None and (vmi.deleting or vm.deleting or not vm.running):
                yield ("stop", name)
            elif vmi is not None and vmi.phase == "Scheduling":
                yield ("run", name)
        for name, (_, deleting) in list(self.claims.items()):
            if deleting and not any(name in vmi.claims for vmi in self.vmis.values()):
                yield ("claim-gone", name)

    def _can_start(self, vm: Vm) -> bool:
        for name in vm.claims:
            claim = self.claims.get(name)
            volume = self.volumes.get(claim[0]["spec"]["volumeName"]) if claim is not None else None
            if volume is None or volume.node not in self.nodes or not self.nodes[volume.node].ready:
                return False
        return True

    def move(self, kind: str, name: str) -> None:
        self.clock += 1
        match kind:
            case "fill":
                node = self.nodes[name]
                assert node.cache is not None
                layer = next(e["digest"] for e in node.cache["spec"]["layers"] if e["digest"] not in node.held)
                node.held.add(layer)
                self.moved[name].append(layer)
            case "act":
                node = self.nodes[name]
                assert node.cache is not None
                mounted = {self._volume_of(claim).handle for vmi in self.vmis.values() for claim in vmi.claims}
                for handle in node.cache["spec"].get("discardVolumes", []):
                    if handle not in mounted:
                        node.overlays.pop(handle, None)
                node.acted = not any(h in node.overlays for h in node.cache["spec"].get("discardVolumes", []))
            case "vm-gone":
                del self.vms[name]
            case "start":
                for claim in self.vms[name].claims:
                    volume = self._volume_of(claim)
                    owner = volume.manifest["metadata"]["annotations"][names.ANNOTATION_OWNER]
                    assert owner == self.vms[name].owner_uid, "a VM starts on the disk of another instance"
                    node = self.nodes[volume.node]
                    assert set(volume.chain) <= node.held, "a VM starts above a missing layer"
                    node.overlays.setdefault(volume.handle, self.clock)
                vm = self.vms[name]
                self.vmis[name] = Vmi(f"vmi{next(self.uids)}", vm.claims, vm.annotations[ANNOTATION_HARDWARE_HASH])
            case "run":
                self.vmis[name].phase = "Running"
            case "stop":
                del self.vmis[name]
            case "claim-gone":
                del self.claims[name]

    def _volume_of(self, claim: str) -> Volume:
        return self.volumes[self.claims[claim][0]["spec"]["volumeName"]]

    def lose_node(self, name: str) -> None:
        """The Node object is deleted; its disk may come back with ``return_node``."""
        self.lost[name] = self.nodes.pop(name)
        for vm, vmi in list(self.vmis.items()):
            if self._volume_of(vmi.claim).node == name:
                del self.vmis[vm]
        self.clock += 1

    def return_node(self, name: str) -> None:
        """The node returns with its disk, but without its NodeCache."""
        disk = self.lost.pop(name)
        self.nodes[name] = Node(held=disk.held, overlays=disk.overlays)
        self.clock += 1

    # Checks.

    def check_invariants(self) -> None:
        for vmi in self.vmis.values():
            for claim in vmi.claims:
                volume = self._volume_of(claim)
                node = self.nodes[volume.node]
                assert set(volume.chain) <= node.held, "a layer under a running VM is missing"
                assert volume.handle in node.overlays, "the overlay of a running VM is gone"
            volumes = [self._volume_of(claim) for claim in vmi.claims]
            assert len({volume.node for volume in volumes}) == 1, "disks of one VM on two nodes"
            assert len({volume.revision for volume in volumes}) == 1, "disks of two revisions in one VM"
        if self.volumes or self.claims or self.vms:
            assert self.finalizer

    def targets(self) -> tuple[MachineTarget, ...]:
        """Every VM as it should be, with the content that it keeps while an edit of its state waits."""
        views = [self.view(name) for name in self.spec.instance_names() if self.is_selected(name)]
        found = [desired_targets(view, ObservedDisks(view)) for view in views]
        return tuple(target for targets in found for target in targets)

    def older(self) -> set[tuple[str, str]]:
        """Slots that keep older content than their state has."""
        return {target.slot for target in self.targets() if target.is_older}

    def settle(self, limit: int = 2000) -> None:
        """Lets the operator and all other components act until there is nothing left to do."""
        for number in range(limit):
            progressed = self.node_cache_pass()
            steps = self.plan().steps
            if steps:
                self.apply(steps[0])
                progressed = True
            moves = list(self.moves())
            if moves:
                self.move(*moves[number % len(moves)])
                progressed = True
            self.check_invariants()
            if not progressed:
                return
        raise AssertionError(f"not settled: {self.plan().steps[:3]} {list(self.moves())[:3]}")

    def node_cache_pass(self) -> bool:
        names_ = set(self.nodes) | {volume.node for volume in self.volumes.values()}
        progressed = False
        for name in sorted(names_):
            for step in plan_node_cache(self.node_view(name)).steps:
                if isinstance(step, ReleaseVolume) and any(
                    m["spec"]["volumeName"] == step.name for m, _ in self.claims.values()
                ):
                    continue
                self.apply(step)
                progressed = True
        return progressed

    def overlay_times(self) -> dict[Slot, int]:
        """Clock value at which the overlay of each running machine was created."""
        times: dict[Slot, int] = {}
        for name, vmi in self.vmis.items():
            state = self._machine_state(name, self.vms[name])
            volume = self._volume_of(vmi.claim)
            times[state.slot] = self.nodes[volume.node].overlays[volume.handle]
        return times

    def check_settled(self) -> None:
        """Asserts that the world is as the spec asks, without leftovers."""
        if self.gone or self.deleting:
            assert not (self.volumes or self.claims or self.vms or self.vmis or self.finalizer or self.instances)
            assert not any(node.overlays for node in self.nodes.values())
            return
        selected = [name for name in self.spec.instance_names() if self.is_selected(name)]
        assert len(selected) == len(self.spec.instance_names())
        others = [one for name, one in self.instances.items() if name not in selected]
        assert not any(one.finalizer or one.owner_uids for one in others), "an instance is left that is not selected"
        targets = self.targets()
        assert len(self.vms) == len(targets)
        isolated = set(selected) if self.spec.isolated else set()
        assert {m["metadata"]["labels"][names.LABEL_INSTANCE] for m in self.policies.values()} == isolated
        assert len(self.volumes) == len(self.claims) == sum(len(target.chains) for target in targets)
        assert len(self.vmis) == sum(target.running for target in targets)
        for target in targets:
            vm = self.vms[target.vm_name]
            assert vm.running == target.running
            if target.running:
                hardware = target.blueprint.hardware_hash
                assert self.vmis[target.vm_name].hardware == hardware, "it runs with the other hardware"
            wanted = [[layer.digest for layer in chain] for chain in target.chains]
            assert [self._volume_of(claim).chain for claim in vm.claims] == wanted
            revisions = {self._volume_of(claim).revision for claim in vm.claims}
            assert len(revisions) == 1, "disks of two revisions in one VM"
        overlays = {handle for node in self.nodes.values() for handle in node.overlays}
        assert overlays <= {volume.handle for volume in self.volumes.values()}, "an overlay was left behind"
