"""KubeVirt, simulated, on nodes whose daemons and mounts are real: each VM's disk is published through CSI."""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from kigi.adapters.kubernetes.resources import CLAIM, MACHINE, VMI, VOLUME
from kigi.errors import Waiting
from kigi_cache.disks.overlay_files import DISK, MOUNT
from kigi_cache.rpc import csi_pb2 as pb
from tests.support.actors import Actors, Key
from tests.support.daemons import Node

GUEST_OFFSET = 2 * 2**20
"""Behind everything that qemu-img writes into a new overlay of a small disk."""
GUEST_BYTES = 8192
CSI_S = 20.0


@dataclass
class Guest:
    """What a guest has written to its disk, once it was told that the disk is there."""

    node: str
    content: bytes
    starts: int = 0


@dataclass
class Mounted:
    """A volume in use by a pod."""

    node: str
    handle: str
    target: str


@dataclass
class Guests:
    """Every overlay that a caller was told about, by handle; and what went wrong with one."""

    known: dict[str, Guest] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    """Last answer of each volume that was not published."""


def disk_of(root: Path, handle: str) -> Path:
    """The file of an overlay, in the present form or in the one of v1alpha1."""
    inner = root / "volumes" / handle / MOUNT
    return (inner if inner.is_dir() else root / "volumes" / handle) / DISK


def content_of(disk: Path) -> bytes | None:
    """What the guest wrote; None if there is no disk."""
    try:
        with disk.open("rb") as file:
            file.seek(GUEST_OFFSET)
            return file.read(GUEST_BYTES)
    except FileNotFoundError:
        return None


class Kubelets(Actors):
    """Actors whose kubelets call the daemons of ``nodes``, and whose guests write to their disks."""

    def __init__(self, kubeconfig: str, nodes: Mapping[str, Node], seed: int = 1) -> None:
        super().__init__(kubeconfig, nodes=len(nodes), play=(MACHINE, VMI, VOLUME, CLAIM))
        assert list(nodes) == self.node_names
        self.nodes = nodes
        self.guests = Guests()
        self._chance = random.Random(seed)
        self._pods: dict[Key, Mounted] = {}
        self._locks: dict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._numbers = iter(range(10**9))

    def mounted(self) -> dict[Key, Mounted]:
        """What is in use, by VM."""
        return dict(self._pods)

    def running(self) -> dict[Key, str]:
        """Uid of each VMI that runs."""
        return {key: body["metadata"]["uid"] for key, body in self._seen["VirtualMachineInstance"].items()}

    async def crash(self, key: Key) -> None:
        """The VM's pod ends; KubeVirt starts another one on the same disk."""
        vmi = self._seen["VirtualMachineInstance"].get(key)
        if vmi is not None:
            await self._end(key, vmi)

    async def _publish(self, key: Key, volume: dict[str, Any], node: str) -> None:
        handle = volume["spec"]["csi"]["volumeHandle"]
        before = self._pods.get(key)
        if before is not None and before.handle != handle:
            await self._unpublish(key)
        if key not in self._pods:
            target = str(self.nodes[node].pods / f"pod-{next(self._numbers)}" / "mount")
            self._pods[key] = Mounted(node, handle, target)
        await asyncio.to_thread(self._mount, self._pods[key], volume["spec"]["csi"]["volumeAttributes"])

    def _mount(self, pod: Mounted, attributes: dict[str, str]) -> None:
        """What the kubelet calls again and again until it succeeds; then the guest starts."""
        node = self.nodes[pod.node]
        capability = pb.VolumeCapability(
            mount=pb.VolumeCapability.MountVolume(),
            access_mode=pb.VolumeCapability.AccessMode(mode=pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER),
        )
        request = pb.NodePublishVolumeRequest(
            volume_id=pod.handle, target_path=pod.target, volume_capability=capability, volume_context=attributes
        )
        try:
            node.call("Node/NodePublishVolume", request, pb.NodePublishVolumeResponse, timeout_s=CSI_S)
        except grpc.RpcError as exc:
            self.guests.refusals[pod.handle] = f"{exc.code().name}: {exc.details()}"  # type: ignore[attr-defined]
            raise Waiting(f"{pod.handle} is not published") from exc
        self.guests.refusals.pop(pod.handle, None)
        self._boot(pod, node.seen(pod.target) / DISK)

    def _boot(self, pod: Mounted, disk: Path) -> None:
        known = self.guests.known.get(pod.handle)
        if known is None:
            content = self._chance.randbytes(GUEST_BYTES)
            descriptor = os.open(disk, os.O_WRONLY)
            try:
                os.pwrite(descriptor, content, GUEST_OFFSET)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self.guests.known[pod.handle] = Guest(pod.node, content, 1)
            return
        known.starts += 1
        if content_of(disk) != known.content:
            self.guests.faults.append(f"{pod.handle} starts without what its guest wrote")

    async def _vm(self, key: Key) -> None:
        async with self._locks[key]:
            if key not in self._seen["VirtualMachine"]:
                await self._end_pod(key)
            await super()._vm(key)

    async def _vmi(self, key: Key) -> None:
        async with self._locks[key]:
            await self._end_pod(key)
            await super()._vmi(key)

    async def _end_pod(self, key: Key) -> None:
        vmi = self._seen["VirtualMachineInstance"].get(key)
        if key in self._pods and (vmi is None or vmi["metadata"].get("deletionTimestamp")):
            await self._unpublish(key)

    async def _unpublish(self, key: Key) -> None:
        pod = self._pods[key]
        request = pb.NodeUnpublishVolumeRequest(volume_id=pod.handle, target_path=pod.target)
        call = self.nodes[pod.node].call
        try:
            answer = pb.NodeUnpublishVolumeResponse
            await asyncio.to_thread(call, "Node/NodeUnpublishVolume", request, answer, timeout_s=CSI_S)
        except grpc.RpcError as exc:
            raise Waiting(f"{pod.handle} is not unpublished") from exc
        self._pods.pop(key, None)
