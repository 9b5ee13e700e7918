"""NodeCache: what a node shall hold and forget; its status is the daemon's alone."""

from __future__ import annotations

from kigi.apply import apply_steps
from kigi.gather import gather_node
from kigi.planning.node_cache import plan_node_cache
from kigi.ports import Ports
from kigi.queue import Key


async def reconcile_node(ports: Ports, key: Key) -> float | None:
    """Writes the wishes of every deployment, and releases volumes whose overlays are gone."""
    plan = plan_node_cache(gather_node(ports.mirror, key.name))
    await apply_steps(ports, plan.steps)
    return plan.retry_after_s
