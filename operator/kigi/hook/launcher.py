"""Detects that virt-launcher has ended, so that its sidecar ends too.

A sidecar that outlives virt-launcher keeps the pod from ending: KubeVirt then waits for the pod and does not start the
VM again. virt-launcher calls Shutdown when it ends in order. When it panics or is killed, it calls nothing. But the
containers of a pod share a network namespace, and ``/proc/net/unix`` lists the unix sockets that are bound in it.

The kernel lists the path under which a socket was *bound*; renaming its file changes nothing. virt-launcher binds
``launcher-init-sock``, and renames the file to ``launcher-sock`` when it is ready (KubeVirt 1.7, 1.8 and 1.9,
cmd/virt-launcher: ``startCmdServer``, ``markReady``). The table of a pod therefore never shows ``launcher-sock``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

SOCKETS = frozenset({"launcher-init-sock", "launcher-sock"})
"""File names under which virt-launcher may bind its command socket. A release without the rename binds the second."""
HOOKS = "kubevirt-hooks"
"""Folder of the sockets of all hook sidecars: they do not show that virt-launcher lives."""
TABLE = "/proc/net/unix"
PERIOD_S = 10.0
MISSES = 3
"""Consecutive checks without the socket after which virt-launcher counts as ended."""
APPEARS_WITHIN_S = 420.0
"""virt-launcher binds its socket within seconds; it waits for its hooks for at most 360 s."""
_ACCEPTS = 0x10000
"""Flag of a socket that listens (``__SO_ACCEPTCON``, Linux include/linux/net.h)."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """What one reading of the table shows."""

    launcher: bool
    """virt-launcher's command socket listens."""
    others: bool
    """Another socket listens, not of a hook. libvirt's and QEMU's do while virt-launcher lives."""


def read_sockets(table: str) -> Sockets:
    """The listening sockets in the text of ``TABLE``; lines of another form are skipped.

    Columns: Num RefCount Protocol Flags Type St Inode Path, of which Path may be absent.
    """
    paths = [path for line in table.splitlines() if (path := _listening_path(line))]
    launcher = [path for path in paths if path.name in SOCKETS]
    hooks = [path for path in paths if HOOKS in path.parts]
    return Sockets(bool(launcher), len(paths) > len(launcher) + len(hooks))


def _listening_path(line: str) -> PurePosixPath | None:
    fields = line.split(maxsplit=7)
    try:
        listens = len(fields) == 8 and int(fields[3], 16) & _ACCEPTS
    except ValueError:  # the header line
        return None
    return PurePosixPath(fields[7].strip()) if listens else None


@dataclass
class LauncherWatch:
    """Decides from successive readings when virt-launcher has ended. Times are seconds of one monotonic clock."""

    started_s: float
    _seen: bool = False
    _missed: int = 0

    def is_gone(self, sockets: Sockets, now_s: float) -> bool:
        """Records one reading; True once virt-launcher has ended.

        After its socket was seen: ``MISSES`` readings without it. If it was never seen: ``APPEARS_WITHIN_S`` after the
        start, and only if nothing else listens either. A release that binds another name must not lose its sidecar.
        """
        if sockets.launcher:
            self._seen, self._missed = True, 0
            return False
        if self._seen:
            self._missed += 1
            return self._missed >= MISSES
        self._missed = 0 if sockets.others else self._missed + 1
        return self._missed >= MISSES and now_s - self.started_s > APPEARS_WITHIN_S
