"""Simulated parts of a cluster that a bare control plane lacks: KubeVirt, kubelets and node daemons, over the real API.

They behave like the real ones as far as the operator can observe. A VM that should run gets a VMI when its claim is
bound and the node holds the chain. A deleted VMI ends, and the next one starts from the VM's template. A node holds the
layers that its NodeCache lists. The first start on a volume creates its overlay; a discard deletes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import (
    CLAIM,
    CSI_NODE,
    HEARTBEAT,
    LEASE,
    MACHINE,
    NAMESPACE,
    NODE,
    NODE_CACHE,
    VMI,
    VOLUME,
    Resource,
)
from kigi.domain import names
from kigi.domain.heartbeat import build_lease
from kigi.domain.node_protocol import PROTOCOLS
from kigi.errors import Conflict, KigiError, NotFound, SpecInvalid, Waiting

VM_FINALIZER = "kubevirt.io/virtualMachineControllerFinalize"
VMI_FINALIZER = "foregroundDeleteVirtualMachine"
Key = tuple[str, str]


@dataclass
class NodeDisk:
    """Content of the disk of one node."""

    held: dict[str, int] = field(default_factory=dict)
    """Digest -> bytes."""
    overlays: dict[str, int] = field(default_factory=dict)
    """Handle -> number in the order of creation."""
    moved_bytes: int = 0
    written: dict[str, int] = field(default_factory=dict)
    """Handle -> bytes that the guest has written; absent: none."""
    copies: dict[str, str] = field(default_factory=dict)
    """Capture -> volume."""


class Actors:
    """An async context manager that creates ``nodes`` on entry. ``violations`` must stay empty."""

    def __init__(
        self,
        kubeconfig: str,
        nodes: int = 2,
        *,
        start_s: float = 0.0,
        fill_s: float = 0.0,
        play: tuple[Resource, ...] = (MACHINE, VMI, NODE_CACHE, VOLUME, CLAIM),
        namespace: str = "kigi-system",
        connect: Callable[[], Awaitable[KubeClient]] | None = None,
    ) -> None:
        """``namespace``: of the operator and the nodes' Leases. ``connect`` opens another client than the real one."""
        self._connect = connect or self._open
        self._kubeconfig, self._namespace = kubeconfig, namespace
        self._beat_s: dict[str, float] = {}
        """When each node's Lease was last renewed; the event loop's time."""
        self.node_names = [f"node-{number}" for number in range(nodes)]
        self.disks: dict[str, NodeDisk] = defaultdict(NodeDisk)
        self.violations: list[str] = []
        self.starts: list[tuple[str, str]] = []
        """(VM, claim) of each VMI that was started."""
        self.pauses: dict[str, int] = {}
        """Number of pauses by VM."""
        self.paused_vms: set[tuple[str, str]] = set()
        """Paused VMs: (namespace, name)."""
        self.freeze_error: KigiError | None = None
        """Answer of every guest agent that is to freeze; None: it freezes."""
        self.protocols = list(PROTOCOLS)
        """Protocols that the daemons understand."""
        self.lose_copies = 0
        """Number of copies that are lost after they were reported."""
        self.hold_layers = False
        """The daemons act on no order."""
        self.hold_copies = False
        """The publishers create no layers."""
        self.refuse_copies: dict[str, str] = {}
        """Report of every node when copies are requested; empty: copies are possible."""
        self.alive: set[str] = set(self.node_names)
        """Nodes whose daemon and kubelet work."""
        self._start_s, self._fill_s, self._play = start_s, fill_s, play
        self._seen: dict[str, dict[Key, dict[str, Any]]] = {
            r.kind: {} for r in (MACHINE, VMI, NODE_CACHE, VOLUME, CLAIM)
        }
        self._work: asyncio.Queue[tuple[str, Key]] = asyncio.Queue()
        self._pending: set[tuple[str, Key]] = set()
        self._order = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []

    async def _open(self) -> KubeClient:
        return KubeClient(await load_configuration(self._kubeconfig), concurrency=64)

    async def __aenter__(self) -> Self:
        self.kube = await self._connect()
        with contextlib.suppress(Conflict):
            await self.kube.create(NAMESPACE, {"metadata": {"name": self._namespace}})
        for node in self.node_names:
            await self.add_node(node)
        for kind in self._play:
            self._tasks.append(asyncio.create_task(self._watch(kind)))
        self._tasks.extend(asyncio.create_task(self._worker()) for _ in range(16))
        self._tasks.append(asyncio.create_task(self._heartbeats()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.kube.close()

    # Nodes.

    async def add_node(self, name: str, memory: str = "64Gi") -> None:
        """Creates a Ready node with the CSI driver."""
        labels = {"kubernetes.io/hostname": name}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        with contextlib.suppress(Conflict):
            await self.kube.create(NODE, node)
        await self._renew(name)
        await self._report_ready(name, memory)
        await self._merge(NODE, None, name, {"spec": {"taints": None}})
        driver = {"name": names.CSI_DRIVER, "nodeID": name, "topologyKeys": []}
        csi = {
            "apiVersion": CSI_NODE.api_version,
            "kind": "CSINode",
            "metadata": {"name": name},
            "spec": {"drivers": [driver]},
        }
        with contextlib.suppress(Conflict):
            await self.kube.create(CSI_NODE, csi)
        self.alive.add(name)
        for key in list(self._seen["VirtualMachine"]):  # VMs whose disks are on it start again
            self._enqueue("vm", key)

    async def _report_ready(self, name: str, memory: str = "64Gi") -> None:
        now = _now()
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        status = {
            "allocatable": {"memory": memory, "cpu": "64", "pods": "500"},
            "capacity": {"memory": memory, "cpu": "64", "pods": "500"},
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }
        await self._merge(NODE, None, name, {"status": status}, "status")

    async def lose_node(self, name: str, *, keep_disk: bool = False) -> None:
        """Deletes the Node object and everything on the node; with ``keep_disk``, ``add_node`` brings its disk back."""
        self.alive.discard(name)
        if not keep_disk:
            self.disks.pop(name, None)
        await self.kube.delete(CSI_NODE, None, name)
        await self.kube.delete(NODE, None, name)
        for key, vmi in list(self._seen["VirtualMachineInstance"].items()):
            if vmi.get("status", {}).get("nodeName") == name:
                await self.kube.delete(VMI, *key)

    async def _renew(self, name: str) -> None:
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now(micro=True)},
        }
        try:
            await self.kube.create(LEASE, lease)
        except Conflict:
            await self._merge(LEASE, "kube-node-lease", name, {"spec": lease["spec"]})
        except (Waiting, SpecInvalid):
            # The API server creates the namespace some seconds after its start.
            return

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(8)
            for name in sorted(self.alive):
                with contextlib.suppress(KigiError):
                    await self._renew(name)
                    await self._report_ready(name)
                    if (None, name) in self._seen["NodeCache"]:
                        await self._report(name)

    # Watching.

    async def _watch(self, resource: Resource) -> None:
        while True:
            with contextlib.suppress(KigiError):
                await self._relist(resource)
                # Without a version, the watch begins with every object that exists.
                watch = self.kube.watch(resource, resource_version="", duration_s=300, silence_s=400)
                async with contextlib.aclosing(watch):
                    async for event in watch:
                        self._see(resource, event.object, gone=event.type == "DELETED")
            await asyncio.sleep(0.2)

    async def _relist(self, resource: Resource) -> None:
        """Reads all objects; those that were deleted between two watches are gone, as no event reports them."""
        listed = {_key(body): body async for body in self.kube.list_all(resource)}
        for key, body in list(self._seen[resource.kind].items()):
            if key not in listed:
                self._see(resource, body, gone=True)
        for body in listed.values():
            self._see(resource, body)

    def _see(self, resource: Resource, body: Mapping[str, Any], gone: bool = False) -> None:
        meta = body.get("metadata", {})
        if "name" not in meta:
            return
        key = _key(body)
        store = self._seen[resource.kind]
        if gone:
            store.pop(key, None)
        else:
            store[key] = body
        match resource.kind:
            case "VirtualMachine":
                self._enqueue("vm", key)
            case "VirtualMachineInstance":
                self._enqueue("vmi", key)
                self._enqueue("vm", key)
            case "NodeCache":
                self._enqueue("cache", key)
            case _:
                # A claim or a volume that changes may let a VM start.
                owner = _vm_of(body)
                if owner is not None:
                    self._enqueue("vm", owner)

    def _enqueue(self, what: str, key: Key) -> None:
        if (what, key) not in self._pending:
            self._pending.add((what, key))
            self._work.put_nowait((what, key))

    async def _worker(self) -> None:
        act = {"vm": self._vm, "vmi": self._vmi, "cache": self._cache}
        while True:
            what, key = await self._work.get()
            self._pending.discard((what, key))
            try:
                await act[what](key)
            except KigiError:
                await asyncio.sleep(0.1)
                self._enqueue(what, key)

    # KubeVirt.

    async def _vm(self, key: Key) -> None:
        vm = self._seen["VirtualMachine"].get(key)
        vmi = self._seen["VirtualMachineInstance"].get(key)
        if vm is None:
            if vmi is not None and not vmi["metadata"].get("deletionTimestamp"):
                await self._end(key, vmi)
            return
        finalizers = vm["metadata"].get("finalizers") or []
        if vm["metadata"].get("deletionTimestamp"):
            if vmi is not None:
                await self._end(key, vmi)
            elif VM_FINALIZER in finalizers:
                rest = [item for item in finalizers if item != VM_FINALIZER]
                await self.kube.set_finalizers(MACHINE, key[0], vm, rest)
            return
        if VM_FINALIZER not in finalizers:
            await self.kube.set_finalizers(MACHINE, key[0], vm, [*finalizers, VM_FINALIZER])
        if vm["spec"].get("runStrategy") != "Always":
            if vmi is not None:
                await self._end(key, vmi)
            return
        if vmi is None:
            await self._start(key, vm)

    async def _start(self, key: Key, vm: dict[str, Any]) -> None:
        template = vm["spec"]["template"]
        claim = next(
            v["persistentVolumeClaim"]["claimName"]
            for v in template["spec"]["volumes"]
            if v["name"] == names.DISK_VOLUME
        )
        pvc = self._seen["PersistentVolumeClaim"].get((key[0], claim))
        if pvc is None or pvc.get("status", {}).get("phase") != "Bound" or pvc["metadata"].get("deletionTimestamp"):
            return
        volume = self._seen["PersistentVolume"].get((None, pvc["spec"]["volumeName"]))
        if volume is None:
            return
        node = _node_of(volume)
        if node not in self.alive:
            return
        await self._publish(key, volume, node)
        if self._start_s:
            await asyncio.sleep(self._start_s)
        owner = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "name": key[1],
            "uid": vm["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        meta = {
            **template.get("metadata", {}),
            "name": key[1],
            "namespace": key[0],
            "ownerReferences": [owner],
            "finalizers": [VMI_FINALIZER],
        }
        body = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": meta,
            "spec": template["spec"],
            "status": {
                "phase": "Running",
                "nodeName": node,
                "conditions": [
                    {"type": "Ready", "status": "True", "lastProbeTime": None, "lastTransitionTime": _now()}
                ],
            },
        }
        with contextlib.suppress(Conflict):
            made = await self.kube.create(VMI, body)
            self.starts.append((key[1], claim))
            self._see(VMI, made)
        await self._merge(MACHINE, key[0], key[1], {"status": {"printableStatus": "Running", "ready": True}}, "status")

    async def _publish(self, key: Key, volume: dict[str, Any], node: str) -> None:
        """Mounts the volume for a VM that starts. Raises KigiError if it must be tried again."""
        chain = json.loads(volume["spec"]["csi"]["volumeAttributes"]["chain"])
        disk = self.disks[node]
        missing = [item["digest"] for item in chain if item["digest"] not in disk.held]
        if missing:
            self.violations.append(f"{key[1]} starts on {node} above missing layers {missing}")
        disk.overlays.setdefault(volume["spec"]["csi"]["volumeHandle"], next(self._order))
        self._enqueue("cache", (None, node))  # type: ignore[arg-type]

    async def _end(self, key: Key, vmi: dict[str, Any]) -> None:
        if not vmi["metadata"].get("deletionTimestamp"):
            await self.kube.delete(VMI, key[0], key[1], uid=vmi["metadata"]["uid"])

    async def _vmi(self, key: Key) -> None:
        vmi = self._seen["VirtualMachineInstance"].get(key)
        if vmi is not None and vmi["metadata"].get("deletionTimestamp") and vmi["metadata"].get("finalizers"):
            await self.kube.set_finalizers(VMI, key[0], vmi, [])
        if vmi is None:
            # Its claim and its overlay may be deleted now.
            for name in self.alive:
                if self.disks[name].overlays:
                    self._enqueue("cache", (None, name))  # type: ignore[arg-type]

    # Node daemons.

    async def _cache(self, key: Key) -> None:
        name = key[1]
        body = self._seen["NodeCache"].get(key)
        if body is None or name not in self.alive:
            return
        if self.hold_layers or body["spec"]["protocol"] not in self.protocols:
            await self._report(name)
            return
        disk = self.disks[name]
        for layer in body.get("spec", {}).get("layers") or ():
            if layer["digest"] not in disk.held:
                if self._fill_s:
                    await asyncio.sleep(self._fill_s)
                disk.held[layer["digest"]] = layer["sizeBytes"]
                disk.moved_bytes += layer["sizeBytes"]
        mounted = self._mounted()
        for handle in body.get("spec", {}).get("discardVolumes") or ():
            if handle not in mounted:
                disk.overlays.pop(handle, None)
        await self._report(name)

    def _mounted(self) -> set[str]:
        handles = set()
        for (namespace, _), vmi in self._seen["VirtualMachineInstance"].items():
            for volume in vmi["spec"].get("volumes") or ():
                claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
                pv = self._seen["PersistentVolume"].get((None, f"kigi.{namespace}.{claim}"))  # type: ignore[arg-type]
                if pv is not None:
                    handles.add(pv["spec"]["csi"]["volumeHandle"])
        return handles

    async def vmi_request(self, namespace: str, name: str, verb: str, options: Mapping[str, Any] | None = None) -> None:
        """KubeVirt's requests to a VMI, which a bare API server does not serve; returns when the request is done."""
        vmi = self._seen["VirtualMachineInstance"].get((namespace, name))
        if vmi is None:
            raise NotFound(f"no instance {name}")
        if verb in ("freeze", "unfreeze"):
            if verb == "freeze" and self.freeze_error is not None:
                raise self.freeze_error
            return
        if ((namespace, name) in self.paused_vms) == (verb == "pause"):
            raise Conflict(f"{name} is not in a state for {verb}")
        if verb == "pause":
            self.pauses[name] = self.pauses.get(name, 0) + 1
            self.paused_vms.add((namespace, name))
        else:
            self.paused_vms.discard((namespace, name))
        others = [item for item in vmi["status"].get("conditions", []) if item["type"] != "Paused"]
        paused = [{"type": "Paused", "status": "True"}] if verb == "pause" else []
        await self._merge(VMI, namespace, name, {"status": {"conditions": [*others, *paused]}})

    async def connect_agents(self, namespace: str) -> None:
        """The guest agents of all VMIs of the namespace are connected."""
        for where, name in list(self._seen["VirtualMachineInstance"]):
            if where == namespace:
                connected = [{"type": "AgentConnected", "status": "True"}]
                await self._merge(VMI, where, name, {"status": {"conditions": connected}})

    def _captures(self, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Reports of the node's copies: copied immediately, and stored when the VMs may run again."""
        reports = []
        copies = self.disks[name].copies
        for order in body.get("spec", {}).get("captures") or ():
            if order["action"] == "Check":
                answer = self.refuse_copies
                reports.append({"id": order["id"], **(answer or {"state": "Possible"})})
                continue
            if order["action"] == "Copy" and order["id"] not in copies:
                copies[order["id"]] = order["volume"]
                namespace, vm = self._vm_of_handle(order["volume"])
                if order["mounted"] and (namespace, vm) not in self.paused_vms:
                    self.violations.append(f"{order['volume']} is copied while its VM runs")
            state = "Copied" if order["action"] == "Copy" or self.hold_copies else "Stored"
            if order["action"] == "Keep" and self.lose_copies > 0 and order["id"] in copies:
                self.lose_copies -= 1
                del copies[order["id"]]
            if order["id"] not in copies:
                reports.append({"id": order["id"], "state": "Lost"})
                continue
            digest = "sha256:" + hashlib.sha256(order["volume"].encode()).hexdigest()
            stored = {"digest": digest, "sizeBytes": 4096, "uploadedBytes": 4096} if state == "Stored" else {}
            reports.append({"id": order["id"], "state": state, "copiedBytes": 5000, "copyMilliseconds": 7, **stored})
        for gone in copies.keys() - {order["id"] for order in body.get("spec", {}).get("captures") or ()}:
            del copies[gone]
        return reports

    @staticmethod
    def _vm_of_handle(handle: str) -> tuple[str, str]:
        _, namespace, deployment, instance, machine, *_ = handle.split(".")
        return namespace, names.machine_name(deployment, instance, machine)

    async def _report(self, name: str) -> None:
        body = self._seen["NodeCache"].get((None, name))  # type: ignore[arg-type]
        if body is None:
            return
        disk, mounted = self.disks[name], self._mounted()
        new = {
            "observedGeneration": body["metadata"]["generation"],
            "daemon": {"version": "simulated", "protocols": self.protocols},
            "layers": [{"digest": d, "state": "Held", "need": "Wanted"} for d in sorted(disk.held)],
            "volumes": [
                {"name": handle, "mounted": handle in mounted, "writtenBytes": disk.written.get(handle, 0)}
                for handle in sorted(disk.overlays)
            ],
            "captures": self._captures(name, body),
            "budgetBytes": 2**40,
            "usedBytes": sum(disk.held.values()),
            "freeBytes": 2**40,
        }
        old = body.get("status") or {}
        if any(old.get(field) != value for field, value in new.items()):
            answer = await self._merge(NODE_CACHE, None, name, {"status": new}, "status")
            if answer is not None:
                self._seen["NodeCache"][None, name] = answer  # type: ignore[index]
        if asyncio.get_running_loop().time() - self._beat_s.get(name, float("-inf")) > 5:
            await self.beat(name)

    async def beat(self, name: str, renewed: str = "") -> None:
        """Renews the node's Lease, as its daemon does; ``renewed`` replaces the current time."""
        self._beat_s[name] = asyncio.get_running_loop().time()
        cache = (name, self._seen["NodeCache"][None, name]["metadata"]["uid"])  # type: ignore[index]
        lease = build_lease(name, self._namespace, cache=cache, time=renewed or _now(micro=True))
        if await self._merge(HEARTBEAT, self._namespace, lease["metadata"]["name"], lease) is None:
            with contextlib.suppress(Conflict):
                await self.kube.create(HEARTBEAT, lease)

    async def _merge(
        self, resource: Resource, namespace: str | None, name: str, patch: dict[str, Any], subresource: str = ""
    ) -> dict[str, Any] | None:
        return await self.kube.merge_patch(resource, namespace, name, patch, subresource)


def _key(body: Mapping[str, Any]) -> Key:
    return (body["metadata"].get("namespace"), body["metadata"]["name"])


def _vm_of(body: dict[str, Any]) -> Key | None:
    labels = body["metadata"].get("labels") or {}
    try:
        name = names.machine_name(
            labels[names.LABEL_DEPLOYMENT], labels[names.LABEL_INSTANCE], labels[names.LABEL_MACHINE]
        )
        return (labels[names.LABEL_NAMESPACE], name)
    except KeyError:
        return None


def _node_of(volume: dict[str, Any]) -> str:
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    return str(terms[0]["matchExpressions"][0]["values"][0])


def _now(micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
