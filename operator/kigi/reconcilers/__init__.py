"""Reconcilers: one file per kind, each of which gathers a view, plans, applies the plan and writes the status."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from kigi.errors import Conflict, KigiError, LostLeadership, NeedsAction, Waiting
from kigi.mirror.keys import Key, KeyKind
from kigi.reconcilers.captures import reconcile_capture
from kigi.reconcilers.claims import reconcile_claim
from kigi.reconcilers.deployments import reconcile_deployment
from kigi.reconcilers.grants import reconcile_grant
from kigi.reconcilers.images import reconcile_image
from kigi.reconcilers.instances import reconcile_instance
from kigi.reconcilers.node_caches import reconcile_node
from kigi.reconcilers.plugin import reconcile_plugin
from kigi.reconcilers.prefetches import reconcile_prefetch
from kigi.reconcilers.quotas import reconcile_quota
from kigi.reconcilers.repositories import reconcile_repository
from kigi.reconcilers.resets import reconcile_reset
from kigi.reconcilers.systems import reconcile_system
from kigi.runtime import metrics
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

Reconciler = Callable[[Ports, Key], Awaitable[float | None]]
"""Returns the seconds until the next reconcile without a trigger; None: a trigger enqueues the key."""

RECONCILERS: Mapping[KeyKind, Reconciler] = {
    "image": reconcile_image,
    "system": reconcile_system,
    "grant": reconcile_grant,
    "deployment": reconcile_deployment,
    "instance": reconcile_instance,
    "reset": reconcile_reset,
    "capture": reconcile_capture,
    "prefetch": reconcile_prefetch,
    "repository": reconcile_repository,
    "quota": reconcile_quota,
    "node": reconcile_node,
    "claim": reconcile_claim,
    "plugin": reconcile_plugin,
}
STALLED_RETRY_S = 60.0
"""Shortest delay after an error that needs a person: the remedy may be in an object that Kigi does not watch."""
WAITING_RETRY_LONGEST_S = 5.0
"""Longest delay by which the backoff of repeated failures extends a ``retry_after_s``."""


async def work(ports: Ports, key: Key, reconcilers: Mapping[KeyKind, Reconciler] = RECONCILERS) -> None:
    """Reconciles one key. An error decides when the next attempt is; none escapes, so that a bug stops one object only.

    Supervises the reconcilers for the work queue: hence the broad ``except``.
    """
    started = ports.clock()
    try:
        again_s = await reconcilers[key.kind](ports, key)
    except KigiError as exc:
        metrics.RECONCILE_ERRORS.labels(key.kind, exc.reason).inc()
        ports.queue.add_after(key, retry_delay(exc, ports.queue.backoff(key)))
        level = logging.DEBUG if isinstance(exc, Conflict | LostLeadership) else logging.WARNING
        logger.log(level, "reconcile failed", extra={"key": "/".join(key), "reason": exc.reason, "error": str(exc)})
    except Exception:
        metrics.RECONCILE_ERRORS.labels(key.kind, "Bug").inc()
        logger.exception("reconcile raised an unexpected error", extra={"key": "/".join(key)})
        ports.queue.add_after(key, ports.queue.backoff(key))
    else:
        ports.queue.succeeded(key)
        if again_s is not None:
            ports.queue.add_after(key, again_s)
    metrics.RECONCILE_SECONDS.labels(key.kind).observe(ports.clock() - started)


def retry_delay(error: KigiError, backoff_s: float) -> float:
    """Seconds until the next attempt after an error. ``backoff_s`` grows with each failure of the key."""
    if isinstance(error, NeedsAction):
        return max(backoff_s, STALLED_RETRY_S)
    if isinstance(error, Waiting) and error.retry_after_s is not None:
        return max(error.retry_after_s, min(backoff_s, WAITING_RETRY_LONGEST_S))
    return backoff_s
