"""A guest of the exercise in qemu on this machine, emulated, with its serial console as text."""

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
    """A running guest; ``output`` is the output of its serial console so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.output = ""

    def expect(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """First match in the console's output after this call.

        Raises AssertionError with the last output if there is no match within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        start = len(self.output)
        assert self._process.stdout is not None
        while True:
            if match := re.search(pattern, self.output[start:]):
                return match
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            piece = self._process.stdout.read1(65536) if ready else b""  # type: ignore[attr-defined]
            if not piece:
                raise AssertionError(f"no {pattern!r} from the guest in {timeout_s} s; last: {self.output[-2000:]!r}")
            self.output += piece.decode(errors="replace")

    def type(self, line: str) -> None:
        """Type a line on the serial console."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def ended(self, timeout_s: float) -> bool:
        """Whether qemu ends within ``timeout_s``, because the guest powered off."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def booted(disk: Path, memory_mib: int = 96, serial: str = "KIGI-SERIAL") -> Iterator[Guest]:
    """Boot a guest from ``disk`` (qcow2, writable) on hardware like KubeVirt's; it is killed at the end."""
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
    """Create a fresh overlay over ``image``; replaces an existing file of this name."""
    path.unlink(missing_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", path], check=True)
    return path
