"""When each node's daemon was last heard, by this process's own clock.

The clocks of two machines may differ by hours, so the time that a Lease contains is compared with a clock only once:
when this process sees the Lease for the first time and cannot know how long it has been unchanged. A wrong clock then
lets a node seem silent until its next heartbeat. The other error, a dead node that counts as alive, would place disks
there for good; it ends after SILENT_AFTER_S at the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kigi.domain.heartbeat import SILENT_AFTER_S, node_of_lease


@dataclass(frozen=True, slots=True)
class _Beat:
    version: int
    """resourceVersion of the Lease; an older one is a late event."""
    text: str
    """``spec.renewTime``."""
    heard_s: float | None
    """The clock's time at which the daemon was heard; None: it may have been silent for long."""


class Heartbeats:
    """The last heartbeat of each node.

    ``clock`` returns monotonic seconds; ``changed`` is called with a node that is alive from now on, or has no Lease.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[str], None] = lambda node: None) -> None:
        self._clock, self._changed = clock, changed
        self._beats: dict[str, _Beat] = {}
        self._alive: dict[str, float] = {}
        """When each node was heard, the oldest first; without those that ``fallen_silent`` has returned."""

    def __iter__(self) -> Iterator[str]:
        """Nodes with a Lease."""
        return iter(tuple(self._beats))

    def put(self, lease: Mapping[str, Any], now: datetime, *, is_event: bool = False) -> str | None:
        """Takes in a Lease. The node if its daemon was silent before, and is not any more.

        ``now`` is the time of the wall clock. ``is_event``: the Lease changed while this process watched it.
        """
        node, version = node_of_lease(dict(lease)), int(lease["metadata"].get("resourceVersion") or 0)
        before = self._beats.get(node) if node is not None else None
        if node is None or (before is not None and before.version >= version):
            return None
        was_alive = self.is_alive(node)
        text = str((lease.get("spec") or {}).get("renewTime") or "")
        self._set(node, _Beat(version, text, self._heard_s(text, before, now, is_event=is_event)))
        if was_alive or not self.is_alive(node):
            return None
        self._changed(node)
        return node

    def _heard_s(self, text: str, before: _Beat | None, now: datetime, *, is_event: bool) -> float | None:
        if before is not None and before.text == text:
            return before.heard_s  # another field changed
        if before is not None or is_event or _is_recent(text, now):
            return self._clock()
        return None

    def assume(self, node: str) -> None:
        """The node's daemon counts as heard now, for a caller who cannot read Leases."""
        self._set(node, _Beat(0, "", self._clock()))
        self._changed(node)

    def forget(self, node: str) -> None:
        """The node's Lease does not exist any more."""
        self._beats.pop(node, None)
        self._changed(node)

    def fallen_silent(self) -> Iterator[str]:
        """Nodes whose daemon has been silent for SILENT_AFTER_S, each once. O(nodes returned)."""
        while self._alive and self._clock() - next(iter(self._alive.values())) >= SILENT_AFTER_S:
            node = next(iter(self._alive))
            del self._alive[node]
            yield node

    def _set(self, node: str, beat: _Beat) -> None:
        before = self._beats.get(node)
        self._beats[node] = beat
        if beat.heard_s is not None and (before is None or before.heard_s != beat.heard_s):
            self._alive.pop(node, None)  # it goes to the end
            self._alive[node] = beat.heard_s

    def is_alive(self, node: str) -> bool:
        """Whether the node's daemon was heard in the last SILENT_AFTER_S."""
        beat = self._beats.get(node)
        return beat is not None and beat.heard_s is not None and self._clock() - beat.heard_s < SILENT_AFTER_S


def _is_recent(text: str, now: datetime) -> bool:
    try:
        return abs((now - datetime.fromisoformat(text)).total_seconds()) < SILENT_AFTER_S
    except (ValueError, TypeError):
        return False
