"""Leader election: one operator works at a time.

The leader holds a coordination Lease. A guard forbids every write once the lease may have ended. Clocks of different
machines are never compared: another process's lease has ended when this process saw it unchanged for its whole
duration. The leader stops a third of the duration before another process may begin.
Source: Kubernetes client-go tools/leaderelection.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

from kigi.adapters.kubernetes.resources import LEASE, Resource
from kigi.domain.names import ANNOTATION_VERSION, OPERATOR_LEASE
from kigi.errors import Conflict, KigiError, LostLeadership
from kigi.runtime import metrics
from kigi.runtime.clock import utc_now

logger = logging.getLogger(__name__)

LEASE_NAME = OPERATOR_LEASE
ATTEMPTS = 10
"""Attempts to renew or take the lease within its duration."""
WRITABLE = 2 / 3
"""Part of the duration, from the last renewal, in which the leader may write."""


def running_s() -> float:
    """Seconds of a clock that is never set, and that goes on while the machine is suspended, as a lease does."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()  # the operator runs on Linux; elsewhere only the command line imports this module


class LeaseApi(Protocol):
    """The part of the API client that an election uses."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object; None if it does not exist."""

    async def create(self, resource: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        """A new object; Conflict if the name is taken."""

    async def replace(self, resource: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        """Replaces the whole object; Conflict if it has changed."""


class Election:
    """One candidate. ``clock`` gives monotonic seconds, ``now`` the time that the lease shows; tests replace them.

    ``version``: of Kigi; the lease of the leader shows it.
    """

    def __init__(
        self,
        api: LeaseApi,
        *,
        namespace: str,
        identity: str,
        lease_s: float = 15.0,
        version: str = "",
        clock: Callable[[], float] = running_s,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        attempting: Callable[[], None] = lambda: None,
    ) -> None:
        """``attempting`` is called before each attempt to take or renew the lease."""
        self._api, self._namespace, self.identity, self._version = api, namespace, identity, version
        self._lease_s, self._clock, self._now, self._sleep = lease_s, clock, now, sleep
        self._attempting = attempting
        self._valid_until = float("-inf")
        self._seen: tuple[Any, float] = (None, clock())
        """Holder and renewal time of another process's lease, and when this process first saw them."""

    @property
    def is_leader(self) -> bool:
        """Whether this process may write now."""
        return self._clock() < self._valid_until

    def guard(self) -> float:
        """Seconds for which this process may write: no request may take longer. Raises LostLeadership if it may not."""
        left_s = self._valid_until - self._clock()
        if left_s <= 0:
            raise LostLeadership("this operator's lease has ended; another operator may lead now")
        return left_s

    async def acquire(self) -> None:
        """Returns when this process leads."""
        while not await self.attempt():
            await self._sleep(self._lease_s / ATTEMPTS)
        metrics.LEADER.set(1)
        logger.info("leading", extra={"identity": self.identity})

    async def hold(self) -> None:
        """Renews the lease until it is lost, then returns. The guard forbids writes from that moment."""
        while self.is_leader:
            await self._sleep(self._lease_s / ATTEMPTS)
            await self.attempt()
        metrics.LEADER.set(0)
        logger.warning("leadership lost", extra={"identity": self.identity})

    async def release(self) -> None:
        """Gives up the lease, so that the next candidate can begin immediately."""
        held, self._valid_until = self.is_leader, float("-inf")
        metrics.LEADER.set(0)
        if not held:
            return
        try:
            lease = await self._api.get(LEASE, self._namespace, LEASE_NAME)
            if lease and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASE, lease)
        except KigiError as exc:
            logger.info("lease not released", extra={"error": str(exc)})

    async def attempt(self) -> bool:
        """Attempts once to take or renew the lease; whether this process leads afterwards."""
        self._attempting()
        # The lease counts from before the request, because the server may have written it at any moment since.
        began = self._clock()
        try:
            lease = await self._api.get(LEASE, self._namespace, LEASE_NAME)
            if lease is None:
                await self._api.create(LEASE, self._manifest({}, {}))
            elif self._may_take(lease["spec"]):
                await self._api.replace(LEASE, self._manifest(lease["metadata"], lease["spec"]))
            else:
                self._valid_until = float("-inf")
                return False
        except Conflict:
            return self.is_leader
        except KigiError as exc:
            logger.warning("lease not renewed", extra={"error": str(exc)})
            return self.is_leader
        self._valid_until = began + self._lease_s * WRITABLE
        return self.is_leader

    def _may_take(self, spec: dict[str, Any]) -> bool:
        if spec.get("holderIdentity") in (self.identity, "", None):
            return True
        now = self._clock()
        state = (spec.get("holderIdentity"), spec.get("renewTime"))
        if self._seen[0] != state:
            self._seen = (state, now)
        return now - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._lease_s)

    def _metadata(self, stored: dict[str, Any]) -> dict[str, Any]:
        metadata = stored or {"name": LEASE_NAME, "namespace": self._namespace}
        if not self._version:
            return metadata
        return {**metadata, "annotations": {**(stored.get("annotations") or {}), ANNOTATION_VERSION: self._version}}

    def _manifest(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = spec.get("holderIdentity") == self.identity
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": self._metadata(metadata),
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(self._lease_s),
                "acquireTime": spec.get("acquireTime") if mine else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not mine),
            },
        }
