"""QEMU without a guest system, as KubeVirt starts it: with QEMU's user, disks in volumes, and a monitor.

A test writes to the disk as a guest would, through a second monitor, which stands for libvirt's.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kigi.domain.names import MONITOR_DIRECTORY, MONITOR_SOCKET
from kigi_cache.disks.overlay_files import QEMU_GID, QEMU_UID
from tests.support.cluster import eventually

PROGRAM = "qemu-system-x86_64"
PRIVATE = f"volumes/kubernetes.io~empty-dir/{MONITOR_DIRECTORY}"


@contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary directory that QEMU's user can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="kigi-qemu-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def pod_of(directory: Path, uid: str) -> Path:
    """A pod's directory of the kubelet, with what KubeVirt mounts for virt-launcher."""
    pod = directory / "pods" / uid
    (pod / PRIVATE).mkdir(parents=True)
    (pod / PRIVATE).chmod(0o777)  # as the kubelet makes an emptyDir
    return pod


def target_in(pod: Path, volume: str = "kigi-root") -> str:
    """Where the kubelet has a volume of the pod mounted."""
    return str(pod / "volumes" / "kubernetes.io~csi" / volume / "mount")


class Qemu:
    """A running QEMU. ``disks``: paths of qcow2 files, which become the drives disk0, disk1, ..."""

    def __init__(self, pod: Path, disks: Sequence[str] = ()) -> None:
        self.monitor = pod / PRIVATE / MONITOR_SOCKET
        own = pod / PRIVATE / "libvirt.sock"
        own.unlink(missing_ok=True)  # of an earlier QEMU of the pod
        drives: list[str] = []
        for number, path in enumerate(disks):
            node = json.dumps(
                {"driver": "qcow2", "node-name": f"disk{number}", "file": {"driver": "file", "filename": path}}
            )
            drives += ["-blockdev", node, "-device", f"virtio-blk-pci,drive=disk{number},id=device{number}"]
        # It ends with this process, whatever ends that.
        user = ["setpriv", f"--reuid={QEMU_UID}", f"--regid={QEMU_GID}", "--clear-groups", "--pdeathsig=KILL"]
        command = [
            *user, PROGRAM, "-accel", "tcg", "-machine", "q35", "-m", "16", "-nodefaults", "-no-user-config",
            "-display", "none", "-qmp", f"unix:{own},server=on,wait=off",
            "-qmp", f"unix:{self.monitor},server=on,wait=off", *drives,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd="/")
        eventually(lambda: self._is_up(own), 30, "QEMU listens")
        self._own = socket.socket(socket.AF_UNIX)
        self._own.settimeout(30)
        self._own.connect(str(own))
        self._lines = self._own.makefile("r")
        self.events: list[dict[str, Any]] = []
        json.loads(self._lines.readline())
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End QEMU like a power cut of the VM."""
        self.process.kill()
        self.process.wait()
        self._own.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """A command on libvirt's monitor; its answer. Events before it go into ``events``."""
        self._own.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            else:
                return answer["return"]

    def is_running(self) -> bool:
        """Whether the processors run."""
        running: bool = self.execute("query-status")["running"]
        return running

    def write(self, pattern: int, offset: int, size: int = 65536, disk: int = 0) -> None:
        """Write like a guest, and flush."""
        device = f"/machine/peripheral/device{disk}/virtio-backend"
        for command in (f"write -P {pattern} {offset} {size}", "flush"):
            answer = self.execute("human-monitor-command", **{"command-line": f'qemu-io -d {device} "{command}"'})
            assert "rror" not in answer, answer

    def changes(self) -> list[str]:
        """STOP and RESUME so far, in their order."""
        self.execute("query-status")
        return [event["event"] for event in self.events if event["event"] in ("STOP", "RESUME")]

    def _is_up(self, own: Path) -> bool:
        assert self.process.stderr is not None
        assert self.process.poll() is None, self.process.stderr.read()
        return own.exists() and self.monitor.exists()
