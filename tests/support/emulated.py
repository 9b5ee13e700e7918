"""A guest of the exercise in qemu on this machine, by emulation, with its serial console as text."""

from __future__ import annotations

import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QEMU = "qemu-system-x86_64"


class Guest:
    """A running guest. ``said`` is all that its serial console has shown so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.said = ""

    def expect(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """First match in what the console shows from now on, lines already matched left out.

        Raises AssertionError with the console's last lines when it does not come in time.
        """
        deadline = time.monotonic() + timeout_s
        start = len(self.said)
        assert self._process.stdout is not None
        while True:
            if match := re.search(pattern, self.said[start:]):
                return match
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            piece = self._process.stdout.read1(65536) if ready else b""  # type: ignore[attr-defined]
            if not piece:
                raise AssertionError(f"the guest did not say {pattern!r} in {timeout_s} s; last: {self.said[-2000:]!r}")
            self.said += piece.decode(errors="replace")

    def type(self, line: str) -> None:
        """Type a line on the serial console."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def ended(self, timeout_s: float) -> bool:
        """Whether qemu ends by itself in time, as it does when the guest powers off."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def booted(disk: Path, memory_mib: int = 96, serial: str = "KIGI-SERIAL") -> Iterator[Guest]:
    """A guest that starts from ``disk`` (qcow2, written to) on a machine like KubeVirt's, and is killed at the end."""
    process = subprocess.Popen(
        [
            QEMU, "-accel", "tcg", "-machine", "q35", "-m", str(memory_mib), "-display", "none", "-monitor", "none",
            "-serial", "stdio", "-drive", f"if=none,id=disk,file={disk},format=qcow2",
            "-device", "virtio-blk-pci,drive=disk", "-netdev", "user,id=net,restrict=on",
            "-device", "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:07",
            "-smbios", f"type=1,serial={serial},uuid=00000000-0000-4000-8000-000000000007",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Guest(process)
    finally:
        process.kill()
        process.communicate()


def overlay(path: Path, image: Path) -> Path:
    """A fresh overlay over ``image``; an older one of this name is gone."""
    path.unlink(missing_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", path], check=True)
    return path
