"""A layer under construction: a writable qcow2 above its parent, mounted and changed in place, then reduced.

The layer is never copied as a whole. qemu-storage-daemon exports the qcow2 file as a raw file (FUSE). A shell in its
own mount namespace mounts the partition and changes it. The clusters that differ from the parent form the final layer.
The kernel removes the mounts and the loop device with the namespace, and ends the daemon with this process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kigi.publishing.layer_writer import CLUSTER, ZEROS, Difference, ReadCluster, compare, write_layer
from localcluster.bounded import DOWNLOAD_S
from scenario.packages import BuildFailed, run

START_TIMEOUT_S = 20
_SCRIPT_S = 2 * DOWNLOAD_S
"""Timeout of one level's script, which downloads and installs packages."""
PARTITION_START = 1 << 20
"""Offset of the only partition in bytes; the boot loader's first stage is before it."""


@dataclass(frozen=True, slots=True)
class Export:
    """A qcow2 image to export as a raw file with the guest's view of the disk."""

    image: Path
    writable: bool


@contextmanager
def exported(*exports: Export) -> Iterator[tuple[Path, ...]]:
    """Raw files with the disks of these images, in the same order, until the context ends.

    Raises BuildFailed if qemu-storage-daemon does not start or does not end in time.
    """
    folder = Path(tempfile.mkdtemp(prefix="kigi-export-"))
    shown = tuple(folder / f"disk{number}" for number in range(len(exports)))
    # The daemon must not outlive a killed build: it would keep its files and mount points.
    command = ["setpriv", "--pdeathsig", "TERM", "qemu-storage-daemon", "--pidfile", str(folder / "pid")]
    for number, (export, path) in enumerate(zip(exports, shown, strict=True)):
        path.touch()
        command += _export_options(number, export, path)
    try:
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_start(daemon, folder)
            yield shown
        finally:
            daemon.terminate()
            try:
                daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                raise BuildFailed("qemu-storage-daemon does not end; a process still uses its disk") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _export_options(number: int, export: Export, shown: Path) -> list[str]:
    # An unfinished layer is discarded after a crash, so flushes to the disk are not needed.
    mode = {"cache": {"no-flush": True}, "discard": "unmap", "detect-zeroes": "unmap"} if export.writable else {}
    file = {"driver": "file", "filename": str(export.image), "locking": "off"}
    node = {"driver": "qcow2", "node-name": f"disk{number}", "read-only": not export.writable, "file": file, **mode}
    return [
        "--blockdev",
        json.dumps(node),
        "--export",
        f"type=fuse,id=export{number},node-name=disk{number},mountpoint={shown}"
        f",writable={'on' if export.writable else 'off'}",
    ]


def _await_start(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    # The daemon writes its pid file when all exports exist.
    while not (folder / "pid").exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise BuildFailed(f"qemu-storage-daemon does not start: {(folder / 'log').read_text().strip()}")
        time.sleep(0.02)


def create(path: Path, size_bytes: int, backing: str | None) -> None:
    """An empty qcow2 file; ``backing`` is the name of its parent in the same folder."""
    above = ("-b", backing, "-F", "qcow2") if backing else ()
    run("qemu-img", "create", "-q", "-f", "qcow2", *above, path, str(size_bytes), cwd=path.parent)


def reduce(dirty: Path, parent: Path | None, final: Path, size_bytes: int) -> Difference:
    """Write ``final`` with the clusters in which ``dirty`` differs from ``parent``, its backing file.

    ``parent`` must also be the backing file of ``dirty``: then every cluster that may differ is allocated in ``dirty``.
    """
    candidates = _candidates(dirty, parent)
    exports = [Export(dirty, writable=False)] + ([Export(parent, writable=False)] if parent else [])
    with exported(*exports) as shown:
        descriptors = [os.open(path, os.O_RDONLY) for path in shown]
        try:
            child = _reader(descriptors[0])
            below = _reader(descriptors[1]) if parent else lambda _: ZEROS
            difference = compare(size_bytes, candidates, child, below)
            write_layer(final, size_bytes, parent.name if parent else None, difference, child)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    return difference


def _reader(descriptor: int) -> ReadCluster:
    return lambda index: os.pread(descriptor, CLUSTER, index * CLUSTER)


def _candidates(dirty: Path, parent: Path | None) -> list[int]:
    """Clusters allocated in ``dirty``, without those that the tables mark as zeros both there and in ``parent``.

    Discarding free blocks marks most of a disk as zeros; reading those clusters would take most of the build's time.
    """
    held, zeros = _mapped(dirty)
    if parent is None:
        return sorted(held - zeros)
    _, below = _mapped(parent)
    return sorted(held - (zeros & below))


def _mapped(image: Path) -> tuple[set[int], set[int]]:
    """Clusters at least partly allocated in the file itself, and clusters that the chain's tables mark as all zeros."""
    held: set[int] = set()
    zeros: set[int] = set()
    for extent in json.loads(run("qemu-img", "map", "--output=json", image)):
        first, end = extent["start"], extent["start"] + extent["length"]
        if extent["depth"] == 0 and extent.get("present", True):
            held.update(range(first // CLUSTER, -(-end // CLUSTER)))
        if extent["zero"]:
            zeros.update(range(-(-first // CLUSTER), end // CLUSTER))
    return held, zeros


def run_mounted(export: Path, script: str, shares: dict[str, Path], content: Path) -> None:
    """Run a shell script in its own namespaces; its function ``attach`` mounts the export's partition at ``$root``.

    ``shares``: path in the guest -> folder of this machine to mount there (package caches). ``content``: tar archive,
    available as ``$content``. ``inside CMD`` runs a command in the guest's file system. After the script, all data is
    written and all file systems are unmounted.
    """
    binds = "\n".join(
        f'mkdir -p "$root{inside}" && mount --bind "{folder}" "$root{inside}"' for inside, folder in shares.items()
    )
    with tempfile.TemporaryDirectory(prefix="kigi-root-") as root:
        whole = _PROLOGUE.format(start=PARTITION_START) + "share() {\n:\n" + binds + "\n}\n" + script + _EPILOGUE
        # unshare gets SIGKILL when the build ends, and the namespace's first process when unshare ends.
        run(
            "setpriv", "--pdeathsig", "KILL",
            "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
            "bash", "-euo", "pipefail", "-c", whole,
            env={"root": root, "disk": str(export), "content": str(content), "LC_ALL": "C"},
            timeout_s=_SCRIPT_S,
        )  # fmt: skip


_PROLOGUE = """
attach() {{
    mount -t ext4 -o "loop,offset={start},noatime,lazytime,nobarrier,discard" "$disk" "$root"
}}
inside() {{
    mountpoint -q "$root/proc" || {{
        mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp"
        mount -t proc proc "$root/proc"
        mount -t sysfs -o ro sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/run"
        mount -t tmpfs tmpfs "$root/tmp"
    }}
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root \
        DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes chroot "$root" "$@"
}}
"""
_EPILOGUE = """
for inner in $(awk -v root="$root/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r); do
    umount --lazy "$inner"
done
sync -f "$root"
umount "$root"
"""
