"""Which other daemons exist, and on which nodes: the ready endpoints of the headless Service."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from kigi.errors import KigiError
from kigi_cache.clock import REAL_TIME, Clock

logger = logging.getLogger(__name__)

REFRESH_S = 15.0
"""Interval in which the members are listed."""


class MembersApi(Protocol):
    """What is requested of the API server."""

    async def peer_addresses(self, namespace: str, service: str) -> dict[str, str]:
        """IP addresses of the ready pods behind a Service, each with the node of its pod."""


class Members:
    """The other daemons, as listed last; while the API server is silent they stay the same."""

    def __init__(
        self,
        api: MembersApi,
        namespace: str,
        service: str,
        *,
        ips: Sequence[str],
        port: int,
        clock: Clock = REAL_TIME,
    ) -> None:
        """``ips``: this daemon's own addresses, the preferred family first. All daemons use ``port``."""
        self._api = api
        self._namespace, self._service = namespace, service
        self._ips, self._port = ips, port
        self._clock = clock
        self._members: dict[str, str] = {}

    def __call__(self) -> Collection[str]:
        """Addresses of the others, host:port."""
        return self._members.keys()

    def node_of(self, peer: str) -> str | None:
        """The node of a member, by its address; None for any other."""
        return self._members.get(peer)

    async def run(self) -> None:
        """List the members in intervals until cancelled."""
        while True:
            try:
                found = await self._api.peer_addresses(self._namespace, self._service)
                chosen = one_for_each_node(found, self._ips)
                self._members = {address(ip, self._port): node for ip, node in chosen.items()}
            except KigiError as exc:
                logger.warning("peers not listed", extra={"cause": str(exc)})
            await self._clock.sleep(REFRESH_S)


def one_for_each_node(found: Mapping[str, str], own: Sequence[str]) -> dict[str, str]:
    """One address of each other node: of the family of ``own[0]`` if the node has one. Both map addresses to nodes.

    A dual-stack Service has two EndpointSlices: without a choice, each daemon would be two peers.
    """
    here = {found[ip] for ip in own if ip in found}
    is_other = ":" not in own[0]
    best: dict[str, str] = {}
    for ip in sorted(found, key=lambda ip: ((":" in ip) == is_other, ip)):
        if found[ip] not in here and ip not in own:
            best.setdefault(found[ip], ip)
    return {ip: node for node, ip in best.items()}


def address(ip: str, port: str | int) -> str:
    """host:port, with IPv6 addresses in brackets: ``[fd00::2]:9781``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
