"""Whether virt-launcher still lives.

A sidecar that outlives virt-launcher keeps the pod from ending: KubeVirt then waits for the pod, and the VM is not
started again. virt-launcher says Shutdown when it ends in order, and nothing when it panics or is killed. But the
containers of a pod share a network namespace, and that lists the unix sockets which are listened on in it.
"""

from __future__ import annotations

from dataclasses import dataclass

SOCKET = "launcher-sock"
"""The file name of the socket that virt-handler commands virt-launcher by, open as long as it lives."""
TABLE = "/proc/net/unix"
PERIOD_S = 10.0
MISSES = 3
"""Looks in a row without the socket before it counts as gone."""
APPEARS_WITHIN_S = 420.0
"""virt-launcher opens it within seconds; it gives up on its own after at most 360 s without a domain."""


def is_listening(table: str) -> bool:
    """Whether virt-launcher's socket is in the text of ``TABLE``."""
    return any(line.rstrip().rpartition("/")[2] == SOCKET for line in table.splitlines())


@dataclass
class LauncherWatch:
    """Tells from one look after the other when virt-launcher has ended. Times are seconds of any one clock."""

    started_s: float
    _seen: bool = False
    _missed: int = 0

    def is_gone(self, listening: bool, now_s: float) -> bool:
        """Take one look into account: whether it was there and is no more, or never came."""
        if listening:
            self._seen, self._missed = True, 0
            return False
        self._missed += 1
        return self._missed >= MISSES if self._seen else now_s - self.started_s > APPEARS_WITHIN_S
