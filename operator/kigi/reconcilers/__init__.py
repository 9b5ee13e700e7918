"""One file per kind: gather, plan, apply, status."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from kigi.errors import Conflict, KigiError, LostLeadership, NeedsAction, Unreachable
from kigi.mirror.keys import Key
from kigi.reconcilers.captures import reconcile_capture
from kigi.reconcilers.claims import reconcile_claim
from kigi.reconcilers.deployments import reconcile_deployment
from kigi.reconcilers.images import reconcile_image
from kigi.reconcilers.node_caches import reconcile_node
from kigi.reconcilers.plugin import reconcile_plugin
from kigi.reconcilers.prefetches import reconcile_prefetch
from kigi.reconcilers.systems import reconcile_system
from kigi.runtime import metrics
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

RECONCILERS: Mapping[str, Callable[[Ports, Key], Awaitable[float | None]]] = {
    "image": reconcile_image,
    "system": reconcile_system,
    "deployment": reconcile_deployment,
    "capture": reconcile_capture,
    "prefetch": reconcile_prefetch,
    "node": reconcile_node,
    "claim": reconcile_claim,
    "plugin": reconcile_plugin,
}
"""Each gives the seconds after which to look again without being woken, or None."""
STALLED_AGAIN_S = 60.0
"""A refusal that only a person can lift is tried again now and then: what lifts it may not be an object we watch."""


async def work(ports: Ports, key: Key) -> None:
    """One pass over one key: its error decides when the next one is."""
    started = time.monotonic()
    try:
        again_s = await RECONCILERS[key.kind](ports, key)
    except KigiError as exc:
        metrics.RECONCILE_ERRORS.labels(key.kind, exc.reason).inc()
        ports.queue.add_after(key, _again(ports, key, exc))
        level = logging.DEBUG if isinstance(exc, Conflict | LostLeadership) else logging.WARNING
        logger.log(level, "pass failed", extra={"key": "/".join(key), "reason": exc.reason, "error": str(exc)})
    except Exception:
        # The one place where any error is caught: a bug in one object's pass must not stop the others.
        metrics.RECONCILE_ERRORS.labels(key.kind, "Bug").inc()
        logger.exception("pass broke", extra={"key": "/".join(key)})
        ports.queue.add_after(key, ports.queue.backoff(key))
    else:
        ports.queue.succeeded(key)
        if again_s is not None:
            ports.queue.add_after(key, again_s)
    metrics.RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - started)


def _again(ports: Ports, key: Key, exc: KigiError) -> float:
    backoff = ports.queue.backoff(key)
    if isinstance(exc, NeedsAction):
        return max(backoff, STALLED_AGAIN_S)
    if isinstance(exc, Unreachable):
        return backoff
    wanted: float | None = getattr(exc, "retry_after_s", None)
    return backoff if wanted is None else max(wanted, min(backoff, 5.0))
