"""The CSI driver ``disk.kigi.dev``: Identity and Node services.

Volumes are static: the operator writes a PersistentVolume whose attributes carry the chain. Publishing one waits for
its layers, creates the overlay if there is none, and mounts it.
Source of methods and codes: https://github.com/container-storage-interface/spec/blob/master/spec.md
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue
from grpc import StatusCode

from kigi.domain.layers import Chain
from kigi.domain.names import CSI_DRIVER, TOPOLOGY_NODE
from kigi.errors import KigiError
from kigi_cache.clock import Clock
from kigi_cache.disks.csi_errors import Refused, describe
from kigi_cache.disks.csi_requests import chain_of, check_capability, check_node, check_pod, handle_and_target
from kigi_cache.disks.grpc_server import Context, Method, build_service
from kigi_cache.disks.overlay_files import is_handle
from kigi_cache.disks.volumes import Volumes
from kigi_cache.rpc import csi_pb2 as pb

logger = logging.getLogger(__name__)

VENDOR_VERSION = "0.1.0"
RESPOND_BEFORE_DEADLINE_S = 5.0
"""The kubelet's deadline is 2 minutes. A response with a cause reaches the pod's events; a missed deadline has none."""
FILL_TIMEOUT_S = 110.0
"""How long a publish call without a deadline waits for its layers."""
_Request = TypeVar("_Request", pb.NodePublishVolumeRequest, pb.NodeUnpublishVolumeRequest, pb.NodeGetVolumeStatsRequest)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")


class ChainFiller(Protocol):
    """The part of the filler that the driver depends on."""

    async def ensure(self, chain: Chain) -> None:
        """Return when every layer of the chain is held and verified. Raises KigiError if that is impossible."""

    def describe(self, chain: Chain) -> str:
        """Progress of the chain as text: ``1 of 3 layers (1.0 MiB of 3.0 MiB)``."""


class Observer(Protocol):
    """Receives the outcome of calls, for metrics, the NodeCache's status and events."""

    def called(self, method: str, code: str, seconds: float) -> None:
        """A call has ended with this code after this time."""

    def volumes_changed(self) -> None:
        """An overlay was created, mounted or unmounted."""

    def failed(self, handle: str, error: KigiError) -> None:
        """A volume could not be published."""


class NodePlugin:
    """Identity and Node services of one node."""

    def __init__(
        self,
        node_name: str,
        volumes: Volumes,
        filler: ChainFiller,
        observer: Observer,
        *,
        clock: Clock,
        is_ready: Callable[[], bool] = lambda: True,
        max_volumes: int = 0,
    ) -> None:
        """``max_volumes``: disks that the node may run, as reported to the kubelet; 0: no limit."""
        self._node_name = node_name
        self._volumes = volumes
        self._filler = filler
        self._observer = observer
        self._clock = clock
        self._is_ready = is_ready
        self._max_volumes = max_volumes
        self._running: set[asyncio.Task[object]] = set()
        """The event loop itself keeps only weak references to its tasks."""
        self._fills: dict[Chain, asyncio.Task[None]] = {}
        """Fills in progress. A call that gives up leaves its task, and the next call for the chain joins it."""

    def services(self) -> list[grpc.GenericRpcHandler]:
        """Handlers of both services, for a gRPC server."""
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
                self._responding("NodePublishVolume", self._publish),
                pb.NodePublishVolumeRequest,
                pb.NodePublishVolumeResponse,
            ),
            "NodeUnpublishVolume": (
                self._responding("NodeUnpublishVolume", self._unpublish),
                pb.NodeUnpublishVolumeRequest,
                pb.NodeUnpublishVolumeResponse,
            ),
            "NodeGetVolumeStats": (
                self._responding("NodeGetVolumeStats", self._volume_stats),
                pb.NodeGetVolumeStatsRequest,
                pb.NodeGetVolumeStatsResponse,
            ),
        }
        return [build_service("csi.v1.Identity", identity), build_service("csi.v1.Node", node)]

    async def _plugin_info(self, _: pb.GetPluginInfoRequest, __: Context) -> pb.GetPluginInfoResponse:
        return pb.GetPluginInfoResponse(name=CSI_DRIVER, vendor_version=VENDOR_VERSION)

    async def _plugin_capabilities(
        self, _: pb.GetPluginCapabilitiesRequest, __: Context
    ) -> pb.GetPluginCapabilitiesResponse:
        return pb.GetPluginCapabilitiesResponse()

    async def _probe(self, _: pb.ProbeRequest, __: Context) -> pb.ProbeResponse:
        return pb.ProbeResponse(ready=BoolValue(value=self._is_ready()))

    async def _node_capabilities(self, _: pb.NodeGetCapabilitiesRequest, __: Context) -> pb.NodeGetCapabilitiesResponse:
        rpc = pb.NodeServiceCapability.RPC(type=pb.NodeServiceCapability.RPC.GET_VOLUME_STATS)
        return pb.NodeGetCapabilitiesResponse(capabilities=[pb.NodeServiceCapability(rpc=rpc)])

    async def _node_info(self, _: pb.NodeGetInfoRequest, __: Context) -> pb.NodeGetInfoResponse:
        return pb.NodeGetInfoResponse(
            node_id=self._node_name,
            max_volumes_per_node=self._max_volumes,
            accessible_topology=pb.Topology(segments={TOPOLOGY_NODE: self._node_name}),
        )

    async def _publish(self, request: pb.NodePublishVolumeRequest, timeout_s: float) -> pb.NodePublishVolumeResponse:
        handle, target = handle_and_target(request.volume_id, request.target_path)
        check_capability(request)
        check_node(request, self._node_name)
        check_pod(request)
        chain = chain_of(request)
        if not self._is_ready():
            raise Refused(StatusCode.UNAVAILABLE, "the cache of this node is being read, or its disk is broken")
        try:
            await self._fill(chain, timeout_s)
            await self._complete(self._volumes.publish(handle, chain, target), timeout_s)
        except KigiError as exc:
            self._observer.failed(handle, exc)
            raise
        return pb.NodePublishVolumeResponse()

    async def _fill(self, chain: Chain, timeout_s: float) -> None:
        """Wait for the layers. After the timeout the fill continues, and the kubelet's next call joins it."""
        filling = self._fills.get(chain)
        if filling is None:
            filling = self._fills[chain] = self._start(self._filler.ensure(chain))
            filling.add_done_callback(lambda _: self._fills.pop(chain, None))
        if not await self._ends_within(filling, timeout_s):
            raise Refused(StatusCode.ABORTED, f"layers are being fetched: {self._filler.describe(chain)}")
        filling.result()

    async def _ends_within(self, task: asyncio.Task[None], timeout_s: float) -> bool:
        timer = asyncio.ensure_future(self._clock.sleep(max(0.0, timeout_s)))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return task.done()

    async def _unpublish(
        self, request: pb.NodeUnpublishVolumeRequest, timeout_s: float
    ) -> pb.NodeUnpublishVolumeResponse:
        handle, target = handle_and_target(request.volume_id, request.target_path)
        await self._complete(self._volumes.unpublish(handle, target), timeout_s)
        return pb.NodeUnpublishVolumeResponse()

    async def _volume_stats(self, request: pb.NodeGetVolumeStatsRequest, _: float) -> pb.NodeGetVolumeStatsResponse:
        if not request.volume_id or not request.volume_path:
            raise Refused(StatusCode.INVALID_ARGUMENT, "volume_id and volume_path are required")
        if not is_handle(request.volume_id):
            raise Refused(StatusCode.NOT_FOUND, f"no volume {request.volume_id[:80]!r} on this node")
        usage = await asyncio.to_thread(self._volumes.usage, request.volume_id, request.volume_path)
        total = usage.used_bytes + usage.available_bytes
        unit = pb.VolumeUsage.BYTES
        figures = pb.VolumeUsage(unit=unit, used=usage.used_bytes, available=usage.available_bytes, total=total)
        return pb.NodeGetVolumeStatsResponse(usage=[figures])

    def _responding(
        self, method: str, call: Callable[[_Request, float], Coroutine[object, object, _Response]]
    ) -> Callable[[_Request, Context], Coroutine[object, object, _Response]]:
        """``call`` as a gRPC method: with a timeout below the caller's deadline, errors as codes, and counted."""

        async def respond(request: _Request, context: Context) -> _Response:
            started, code = self._clock.monotonic_s(), StatusCode.CANCELLED
            remaining = context.time_remaining()
            timeout_s = FILL_TIMEOUT_S if remaining is None else remaining - RESPOND_BEFORE_DEADLINE_S
            try:
                response = await call(request, timeout_s)
                code = StatusCode.OK
                return response
            except (Refused, KigiError, OSError) as exc:
                code, text = describe(exc)
            finally:
                self._observer.called(method, code.name, self._clock.monotonic_s() - started)
            volume = request.volume_id[:253]
            logger.warning("call refused", extra={"method": method, "volume": volume, "code": code.name, "cause": text})
            await context.abort(code, text)
            raise AssertionError("abort never returns")

        return respond

    async def _complete(self, change: Coroutine[object, object, None], timeout_s: float) -> None:
        """Complete a change of the volumes even if the caller hangs up, so that no call finds it half done.

        A change that a disk holds up goes on after the timeout; until it ends, further calls find the volume busy.
        """
        task = self._start(change)
        task.add_done_callback(lambda _: self._observer.volumes_changed())
        if not await self._ends_within(task, timeout_s):
            raise Refused(StatusCode.ABORTED, "the node's disk has not answered yet")
        await task

    def _start(self, work: Coroutine[object, object, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: asyncio logs a traceback for an error that no call waits for
