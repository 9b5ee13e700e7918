"""Registers the CSI driver with the kubelet: a second socket, in the directory of the kubelet's plugin watcher.

Source: https://github.com/kubernetes/kubelet/tree/master/pkg/apis/pluginregistration (v1).
"""

from __future__ import annotations

import asyncio
import logging

from kigi.domain.names import CSI_DRIVER
from kigi_cache.clock import Clock
from kigi_cache.disks.grpc_server import Context, SocketServer, build_service
from kigi_cache.rpc import registration_pb2 as pb

logger = logging.getLogger(__name__)

RETRY_S = 10.0
CSI_VERSIONS = ("1.0.0",)


class Registration:
    """Serves ``disk.kigi.dev-reg.sock``.

    A kubelet that starts later finds the socket. After a refusal the socket is bound again in RETRY_S seconds, because
    the kubelet asks only once for each socket.
    """

    def __init__(self, directory: str, endpoint: str, *, clock: Clock) -> None:
        """``directory``: the kubelet's plugin registry. ``endpoint``: path of the CSI socket as the kubelet sees it."""
        self._endpoint = endpoint
        self._clock = clock
        self._retry = asyncio.Event()
        self.registered = False
        """Last status that the kubelet reported."""
        services = [
            build_service(
                "pluginregistration.Registration",
                {
                    "GetInfo": (self.get_info, pb.InfoRequest, pb.PluginInfo),
                    "NotifyRegistrationStatus": (
                        self.notify_registration_status,
                        pb.RegistrationStatus,
                        pb.RegistrationStatusResponse,
                    ),
                },
            )
        ]
        self._server = SocketServer(f"{directory}/{CSI_DRIVER}-reg.sock", services, clock=clock)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._server.run())
            group.create_task(self._rebind_after_refusals())

    async def get_info(self, _: pb.InfoRequest, __: Context) -> pb.PluginInfo:
        """Name of the driver and path of its CSI socket."""
        return pb.PluginInfo(
            type="CSIPlugin", name=CSI_DRIVER, endpoint=self._endpoint, supported_versions=CSI_VERSIONS
        )

    async def notify_registration_status(
        self, request: pb.RegistrationStatus, _: Context
    ) -> pb.RegistrationStatusResponse:
        """Record what the kubelet reports; a refusal schedules another registration."""
        self.registered = request.plugin_registered
        if self.registered:
            logger.info("registered with the kubelet")
        else:
            logger.warning("the kubelet refused the driver", extra={"error": request.error, "retry_s": RETRY_S})
            self._retry.set()
        return pb.RegistrationStatusResponse()

    async def _rebind_after_refusals(self) -> None:
        while True:
            await self._retry.wait()
            self._retry.clear()
            await self._clock.sleep(RETRY_S)
            self._server.rebind()
