"""What the file system of a node's cache can do, tested with files of its own. All functions block."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kigi.api.node_facts import NodeFacts
from kigi_cache import filesystem
from kigi_cache.disks.cloning import share_blocks
from kigi_cache.disks.mounts import MOUNTINFO
from kigi_cache.layers.verity import seal

HARD_LINKS, REFLINK, FS_VERITY, PROJECT_QUOTAS = "HardLinks", "Reflink", "FsVerity", "ProjectQuotas"
PROBE = ".kigi-probe"
"""Directory below the cache's root that exists while it is tested."""
_QUOTA_OPTIONS = frozenset({"prjquota", "pquota"})
_MAX_KIND = 32


def node_facts(root: Path) -> NodeFacts:
    """Type and features of the file system that holds ``root``. Writes 4 KiB, and deletes it again. Raises OSError."""
    kind, options = _mounted_as(root, MOUNTINFO.read_text(errors="replace"))
    probe = root / PROBE
    filesystem.remove(probe)  # of a daemon that was killed while it tested
    probe.mkdir(mode=0o700)
    try:
        found = {
            HARD_LINKS: _links(probe),
            REFLINK: _shares(probe),
            FS_VERITY: _seals(probe),
            PROJECT_QUOTAS: bool(options & _QUOTA_OPTIONS),
        }
    finally:
        filesystem.remove(probe)
    return NodeFacts(file_system=kind[:_MAX_KIND], features=sorted(name for name, works in found.items() if works))


def _links(probe: Path) -> bool:
    """Whether a file of the one directory can be linked and renamed into another: volumes link to layers."""
    source, linked, moved = probe / "file", probe / "other" / "link", probe / "other" / "moved"
    source.write_bytes(bytes(4096))
    linked.parent.mkdir()
    try:
        os.link(source, linked)
        os.rename(linked, moved)
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise
    return os.stat(moved).st_ino == os.stat(source).st_ino


def _shares(probe: Path) -> bool:
    with (probe / "file").open("rb") as source, (probe / "clone").open("wb") as target:
        return share_blocks(source.fileno(), target.fileno())


def _seals(probe: Path) -> bool:
    path = probe / "sealed"
    path.write_bytes(bytes(4096))
    return seal(path)


def _mounted_as(root: Path, mountinfo: str) -> tuple[str, frozenset[str]]:
    """Type and options of the file system by its device number; empty if the mount table does not have it.

    Source: proc_pid_mountinfo(5): after the dash come type, source, and the options of the whole file system.
    """
    device = os.stat(root).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if dash and len(fields) > 2 and fields[2] == wanted and len(tail) > 2:
            return tail[0], frozenset(tail[2].split(","))
    return "", frozenset()
