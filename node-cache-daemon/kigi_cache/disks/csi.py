"""The CSI driver ``disk.kigi.dev``: Identity and Node services.

Volumes are static: the operator writes a PersistentVolume whose attributes carry the chain. Publishing one makes sure
that its layers are here, makes the overlay when there is none, and mounts it.
Source of methods and codes: https://github.com/container-storage-interface/spec/blob/master/spec.md
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import BoolValue
from grpc import StatusCode
from pydantic import Field, TypeAdapter, ValidationError

from kigi.api.base import DNS_LABEL, DigestText, Model
from kigi.api.node_cache import MAX_FILE_BYTES
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH, Chain, Digest, Layer
from kigi.domain.names import CSI_DRIVER, TOPOLOGY_NODE
from kigi.errors import (
    BudgetExceeded,
    KigiError,
    LayerCorrupt,
    NeedsAction,
    NoRoom,
    Unreachable,
    VolumeBusy,
    VolumeUnknown,
    Waiting,
)
from kigi_cache.disks.grpc_server import Method, build_service
from kigi_cache.disks.volumes import Volumes, is_handle
from kigi_cache.rpc import csi_pb2 as pb

logger = logging.getLogger(__name__)

VENDOR_VERSION = "0.1.0"
MAX_CONTEXT_BYTES = 64 * 1024
"""A chain of 64 layers takes 14 KB of JSON."""
ANSWER_BEFORE_DEADLINE_S = 5.0
"""The kubelet gives 2 minutes; an answer with a cause reaches the pod's events, a deadline does not say why."""
FILL_WAIT_S = 110.0
"""How long a publish without a deadline waits for its layers."""
_MODES = {
    pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER,
    pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER,
}
_Answer = TypeVar("_Answer")


class ChainFiller(Protocol):
    """What the driver needs of the filler."""

    async def ensure(self, chain: Chain, *, priority: int) -> None:
        """Return when every layer of the chain is held and verified; raise what prevents that."""

    def describe(self, chain: Chain) -> str:
        """How far the chain is, for a person."""


class Observer(Protocol):
    """Who hears of calls: metrics, the NodeCache's status, events."""

    def called(self, method: str, code: str, seconds: float) -> None:
        """A call was answered."""

    def volumes_changed(self) -> None:
        """An overlay was made, mounted or unmounted."""

    def failed(self, handle: str, error: KigiError) -> None:
        """A volume could not be published."""


class Refused(Exception):
    """Ends a call with a code and a text."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class ChainLayer(Model):
    """One layer of the volume attribute ``chain``."""

    digest: DigestText
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES)
    virtual_size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES, multiple_of=512)
    repository: str = Field(default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL)


_CHAIN = TypeAdapter(list[ChainLayer])


def parse_chain(text: str) -> Chain:
    """The volume attribute ``chain`` (JSON, root first) as layers; ValueError with the cause."""
    if len(text) > MAX_CONTEXT_BYTES:
        raise ValueError(f"{len(text)} characters; expected at most {MAX_CONTEXT_BYTES}")
    try:
        entries = _CHAIN.validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
    if not 1 <= len(entries) <= MAX_DEPTH:
        raise ValueError(f"{len(entries)} layers; expected 1 to {MAX_DEPTH}")
    if len({entry.digest for entry in entries}) != len(entries):
        raise ValueError("a layer stands in it twice")
    layers: list[Layer] = []
    for entry in entries:
        parent = layers[-1] if layers else None
        if parent is not None and entry.virtual_size_bytes < parent.virtual_size_bytes:
            raise ValueError(f"{entry.digest}: virtual size {entry.virtual_size_bytes} is below its parent's")
        layers.append(
            Layer(
                Digest(entry.digest),
                entry.size_bytes,
                entry.virtual_size_bytes,
                parent.digest if parent else None,
                entry.repository,
            )
        )
    return tuple(layers)


def code_of(error: KigiError) -> StatusCode:
    """How the kubelet shall read an error: each code but INVALID_ARGUMENT and FAILED_PRECONDITION means try again."""
    for kind, code in (
        (BudgetExceeded, StatusCode.RESOURCE_EXHAUSTED),
        (NoRoom, StatusCode.RESOURCE_EXHAUSTED),
        (VolumeUnknown, StatusCode.NOT_FOUND),
        (VolumeBusy, StatusCode.ABORTED),
        (Unreachable, StatusCode.UNAVAILABLE),
        (LayerCorrupt, StatusCode.UNAVAILABLE),
        (NeedsAction, StatusCode.FAILED_PRECONDITION),
        (Waiting, StatusCode.FAILED_PRECONDITION),
    ):
        if isinstance(error, kind):
            return code
    return StatusCode.INTERNAL


class NodePlugin:
    """Identity and Node services of one node."""

    def __init__(
        self,
        node_name: str,
        volumes: Volumes,
        filler: ChainFiller,
        observer: Observer,
        *,
        is_ready: Callable[[], bool] = lambda: True,
        max_volumes: int = 0,
        priority: int = 1000,
    ) -> None:
        self._node_name = node_name
        self._volumes = volumes
        self._filler = filler
        self._observer = observer
        self._is_ready = is_ready
        self._max_volumes = max_volumes
        self._priority = priority
        self._running: set[asyncio.Task[Any]] = set()
        self._fills: dict[Chain, asyncio.Task[None]] = {}
        """Chains that are waited for. A call that gave up leaves its task, and the next one joins it."""

    def services(self) -> list[grpc.GenericRpcHandler]:
        """Handlers for a server."""
        identity: dict[str, Method] = {
            "GetPluginInfo": (self._plugin_info, pb.GetPluginInfoRequest, pb.GetPluginInfoResponse),
            "GetPluginCapabilities": (
                self._plugin_capabilities,
                pb.GetPluginCapabilitiesRequest,
                pb.GetPluginCapabilitiesResponse,
            ),
            "Probe": (self._probe, pb.ProbeRequest, pb.ProbeResponse),
        }
        node: dict[str, Method] = {
            "NodeGetCapabilities": (
                self._node_capabilities,
                pb.NodeGetCapabilitiesRequest,
                pb.NodeGetCapabilitiesResponse,
            ),
            "NodeGetInfo": (self._node_info, pb.NodeGetInfoRequest, pb.NodeGetInfoResponse),
            "NodePublishVolume": (
                self._answering("NodePublishVolume", self._publish),
                pb.NodePublishVolumeRequest,
                pb.NodePublishVolumeResponse,
            ),
            "NodeUnpublishVolume": (
                self._answering("NodeUnpublishVolume", self._unpublish),
                pb.NodeUnpublishVolumeRequest,
                pb.NodeUnpublishVolumeResponse,
            ),
            "NodeGetVolumeStats": (
                self._answering("NodeGetVolumeStats", self._volume_stats),
                pb.NodeGetVolumeStatsRequest,
                pb.NodeGetVolumeStatsResponse,
            ),
        }
        return [build_service("csi.v1.Identity", identity), build_service("csi.v1.Node", node)]

    async def _plugin_info(self, _: pb.GetPluginInfoRequest, __: Any) -> pb.GetPluginInfoResponse:
        return pb.GetPluginInfoResponse(name=CSI_DRIVER, vendor_version=VENDOR_VERSION)

    async def _plugin_capabilities(
        self, _: pb.GetPluginCapabilitiesRequest, __: Any
    ) -> pb.GetPluginCapabilitiesResponse:
        return pb.GetPluginCapabilitiesResponse()

    async def _probe(self, _: pb.ProbeRequest, __: Any) -> pb.ProbeResponse:
        return pb.ProbeResponse(ready=BoolValue(value=self._is_ready()))

    async def _node_capabilities(self, _: pb.NodeGetCapabilitiesRequest, __: Any) -> pb.NodeGetCapabilitiesResponse:
        rpc = pb.NodeServiceCapability.RPC(type=pb.NodeServiceCapability.RPC.GET_VOLUME_STATS)
        return pb.NodeGetCapabilitiesResponse(capabilities=[pb.NodeServiceCapability(rpc=rpc)])

    async def _node_info(self, _: pb.NodeGetInfoRequest, __: Any) -> pb.NodeGetInfoResponse:
        return pb.NodeGetInfoResponse(
            node_id=self._node_name,
            max_volumes_per_node=self._max_volumes,
            accessible_topology=pb.Topology(segments={TOPOLOGY_NODE: self._node_name}),
        )

    async def _publish(self, request: pb.NodePublishVolumeRequest, remaining_s: float) -> pb.NodePublishVolumeResponse:
        handle, target = _volume_and_path(request.volume_id, request.target_path)
        _check_capability(request)
        node = request.volume_context.get("node", self._node_name)
        if node != self._node_name:
            raise Refused(
                StatusCode.FAILED_PRECONDITION,
                f"{handle} is a volume of node {node}, and this is {self._node_name}; the pod must be scheduled there",
            )
        try:
            chain = parse_chain(request.volume_context.get("chain", "[]"))
        except ValueError as exc:
            raise Refused(StatusCode.INVALID_ARGUMENT, f"volume attribute chain: {exc}") from exc
        try:
            await self._fill(chain, remaining_s)
            await self._to_the_end(self._volumes.publish(handle, chain, target))
        except KigiError as exc:
            self._observer.failed(handle, exc)
            raise
        return pb.NodePublishVolumeResponse()

    async def _fill(self, chain: Chain, remaining_s: float) -> None:
        """Wait for the layers as long as the caller does; a longer fill goes on, and the next call finds it."""
        filling = self._fills.get(chain)
        if filling is None:
            filling = self._fills[chain] = self._keep(self._filler.ensure(chain, priority=self._priority))
            filling.add_done_callback(lambda _: self._fills.pop(chain, None))
        done, _ = await asyncio.wait({filling}, timeout=max(0.0, remaining_s))
        if not done:
            raise Refused(StatusCode.ABORTED, f"layers are on their way: {self._filler.describe(chain)}")
        filling.result()

    async def _unpublish(self, request: pb.NodeUnpublishVolumeRequest, _: float) -> pb.NodeUnpublishVolumeResponse:
        handle, target = _volume_and_path(request.volume_id, request.target_path)
        await self._to_the_end(self._volumes.unpublish(handle, target))
        return pb.NodeUnpublishVolumeResponse()

    async def _volume_stats(self, request: pb.NodeGetVolumeStatsRequest, _: float) -> pb.NodeGetVolumeStatsResponse:
        if not request.volume_id or not request.volume_path:
            raise Refused(StatusCode.INVALID_ARGUMENT, "volume_id and volume_path are required")
        if not is_handle(request.volume_id):
            raise Refused(StatusCode.NOT_FOUND, f"no volume {request.volume_id[:80]!r} on this node")
        usage = await asyncio.to_thread(self._volumes.usage, request.volume_id, request.volume_path)
        return pb.NodeGetVolumeStatsResponse(
            usage=[
                pb.VolumeUsage(
                    unit=pb.VolumeUsage.BYTES,
                    used=usage.used_bytes,
                    available=usage.available_bytes,
                    total=usage.used_bytes + usage.available_bytes,
                )
            ]
        )

    def _answering(
        self, method: str, call: Callable[[Any, float], Awaitable[_Answer]]
    ) -> Callable[[Any, Any], Awaitable[_Answer]]:
        """``call`` with its errors as codes, counted."""

        async def answer(request: Any, context: Any) -> _Answer:
            started, code = time.monotonic(), StatusCode.CANCELLED
            remaining = context.time_remaining()
            limit = FILL_WAIT_S if remaining is None else remaining - ANSWER_BEFORE_DEADLINE_S
            try:
                result = await call(request, limit)
                code = StatusCode.OK
                return result
            except Refused as exc:
                code, text = exc.code, str(exc)
            except KigiError as exc:
                code, text = code_of(exc), f"{exc.reason}: {exc}"
            except OSError as exc:
                full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
                code = StatusCode.RESOURCE_EXHAUSTED if full else StatusCode.INTERNAL
                text = f"{exc.strerror}: {exc.filename}"
            finally:
                self._observer.called(method, code.name, time.monotonic() - started)
            volume = request.volume_id[:253]
            logger.warning("call refused", extra={"method": method, "volume": volume, "code": code.name, "cause": text})
            await context.abort(code, text)
            raise AssertionError("abort returns never")

        return answer

    async def _to_the_end(self, change: Awaitable[None]) -> None:
        """Finish a change of the volumes even when the caller hangs up: the next call may not find it half made."""
        task = self._keep(change)
        task.add_done_callback(lambda _: self._observer.volumes_changed())
        await asyncio.shield(task)

    def _keep(self, work: Awaitable[_Answer]) -> asyncio.Task[_Answer]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio logs a traceback when nobody waits for it any more


def _volume_and_path(volume_id: str, path: str) -> tuple[str, str]:
    if not volume_id:
        raise Refused(StatusCode.INVALID_ARGUMENT, "volume_id is required")
    if not path:
        raise Refused(StatusCode.INVALID_ARGUMENT, "target_path is required")
    if not is_handle(volume_id):
        raise Refused(StatusCode.INVALID_ARGUMENT, f"volume_id {volume_id[:80]!r} is not a Kigi volume handle")
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path or path.strip("/") == "":
        raise Refused(StatusCode.INVALID_ARGUMENT, f"target_path {path[:200]!r} is not a plain absolute path")
    return volume_id, path


def _check_capability(request: pb.NodePublishVolumeRequest) -> None:
    if not request.HasField("volume_capability"):
        raise Refused(StatusCode.INVALID_ARGUMENT, "volume_capability is required")
    capability = request.volume_capability
    if capability.WhichOneof("access_type") != "mount":
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk is a mounted volume (volumeMode: Filesystem)")
    if capability.access_mode.mode not in _MODES:
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk has one writer (accessModes: ReadWriteOnce)")
    if request.readonly:
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk is writable: leave readOnly unset")
    if capability.mount.fs_type or capability.mount.mount_flags or capability.mount.volume_mount_group:
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk takes no fsType, mount options or mount group")
