"""What the daemon and the confined process that speaks with QEMU agree on: commands, and limits of time and size."""

from __future__ import annotations

HOLD, RELEASE = b"hold\n", b"release\n"
CONNECT_S = 2.0
"""For the greeting and the state of all VMs. Another client may have the monitor: then nothing comes."""
STOP_S = 1.0
"""For stopping all VMs, which includes flushing their disks."""
KEEP_S = 2.0
"""Longest time for which VMs stay stopped for the copies."""
CONTINUE_S = 1.0
"""For the proof, and again for continuing all VMs."""
MAX_ERROR = 200
