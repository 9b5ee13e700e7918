"""Tells the kubelet of the CSI driver, as its plugin watcher asks: a second socket in its registry directory."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from kigi.domain.names import CSI_DRIVER
from kigi_cache.disks.grpc_server import SocketServer, build_service
from kigi_cache.rpc import registration_pb2 as pb

logger = logging.getLogger(__name__)

RETRY_S = 10.0
CSI_VERSIONS = ("1.0.0",)


class Registration:
    """Serves ``disk.kigi.dev-reg.sock``. A kubelet that starts finds it; one that refused us is asked again."""

    def __init__(self, directory: str, endpoint: str) -> None:
        """``endpoint``: path of the CSI socket as the kubelet sees it."""
        self._endpoint = endpoint
        self.registered = False
        """The kubelet's last word."""
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
        self._server = SocketServer(f"{directory}/{CSI_DRIVER}-reg.sock", services)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._server.run()

    async def get_info(self, _: pb.InfoRequest, __: Any) -> pb.PluginInfo:
        """Who we are and where the driver listens."""
        return pb.PluginInfo(
            type="CSIPlugin", name=CSI_DRIVER, endpoint=self._endpoint, supported_versions=CSI_VERSIONS
        )

    async def notify_registration_status(self, request: pb.RegistrationStatus, _: Any) -> pb.RegistrationStatusResponse:
        """Note the kubelet's answer; after a refusal show the socket anew, for the kubelet asks only once."""
        self.registered = request.plugin_registered
        if self.registered:
            logger.info("registered with the kubelet")
        else:
            logger.warning("the kubelet refused the driver", extra={"error": request.error, "retry_s": RETRY_S})
            asyncio.get_running_loop().call_later(RETRY_S, self._server.rebind)
        return pb.RegistrationStatusResponse()
