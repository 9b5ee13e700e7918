"""Script that runs inside a node and prints its mounts, Kigi's processes and their logs as JSON.

The argument is a JSON object: ``offsets`` maps each log file to the number of bytes read so far. null: nothing was read
yet; the script then reads nothing and returns the ends of all files. It uses the standard library only.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROGRAMS = frozenset({"kigi-operator", "kigi-cache", "kigi-capture-publisher", "kigi-disk-hook"})
PROC = Path("/proc")
LOGS = Path("/var/log/pods")
SYSTEM_NAMESPACE = "kigi-system"
SIDECAR = "hook-sidecar"
"""Prefix of the names of KubeVirt's hook containers; a number follows."""
MAX_READ = 4 * 2**20
"""Bytes of one file that one run examines; of the rest only the size counts."""
_EXAMPLES, _CUT = 5, 400
_PLAIN_ERROR = re.compile(r"\b(error|exception|traceback|refused|cannot|fatal|panic)\b", re.IGNORECASE)
_PLAIN_WARNING = re.compile(r"\bwarn(ing)?\b", re.IGNORECASE)


def main() -> None:
    """Print mounts, processes, growth of logs and the next offsets as one JSON object."""
    offsets: dict[str, int] | None = json.loads(sys.argv[1])["offsets"]
    logs, read = read_logs(LOGS, offsets)
    print(json.dumps({"mounts": mounts((PROC / "1/mountinfo").read_text()), "processes": processes(), "logs": logs,
                      "offsets": read}))  # fmt: skip


def mounts(mountinfo: str) -> list[str]:
    """Sorted ``mount point (type)``. Source: proc_pid_mountinfo(5): optional fields end with a dash."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        found.append(f"{left.split()[4]} ({right.split()[0]})")
    return sorted(found)


def processes(proc: Path = PROC) -> dict[str, dict[str, float]]:
    """``program pid@start`` -> descriptors, resident bytes and CPU seconds of Kigi's processes."""
    found = {}
    for path in proc.iterdir():
        if path.name.isdigit():
            try:
                program = program_of((path / "cmdline").read_bytes())
                if program:
                    fields = (path / "stat").read_text().rpartition(")")[2].split()
                    found[f"{program} {path.name}@{fields[19]}"] = _figures(path, fields)
            except OSError:
                continue  # the process has ended
    return found


def program_of(command_line: bytes) -> str | None:
    """Name of Kigi's program with this command line, run directly or by an interpreter; None for other programs."""
    arguments = command_line.decode(errors="replace").split("\0")
    return next((name for name in map(os.path.basename, arguments[:3]) if name in PROGRAMS), None)


def _figures(path: Path, stat: list[str]) -> dict[str, float]:
    resident = re.search(r"^VmRSS:\s+(\d+) kB", (path / "status").read_text(), re.MULTILINE)
    return {
        "descriptors": len(os.listdir(path / "fd")),
        "memory_bytes": int(resident[1]) * 1024 if resident else 0,
        "cpu_s": (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
    }


def read_logs(root: Path, offsets: Mapping[str, int] | None) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """``pod/container`` -> growth of its logs since ``offsets``, and the next offsets.

    A file that is shorter than its offset was rotated and is read from its start.
    """
    growth: dict[str, dict[str, Any]] = {}
    read: dict[str, int] = {}
    for name, file in _files(root):
        size = file.stat().st_size
        start = size if offsets is None else offsets.get(str(file), 0)
        start = start if start <= size else 0
        with file.open("rb") as source:
            source.seek(start)
            data = source.read(min(size - start, MAX_READ))
        entry = growth.setdefault(name, {"lines": 0, "size_bytes": 0, "warnings": 0, "errors": 0, "examples": []})
        _count(entry, data.decode(errors="replace"))
        entry["size_bytes"] += size - start
        read[str(file)] = size
    return growth, read


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """(``namespace/pod/container``, log file); the kubelet's layout is ``NAMESPACE_POD_UID/CONTAINER/RESTARTS.log``."""
    for file in sorted(root.glob("*/*/*.log")):
        namespace, pod, _ = file.parent.parent.name.split("_")
        container = file.parent.name
        if namespace == SYSTEM_NAMESPACE or container.startswith(SIDECAR):
            yield f"{namespace}/{pod}/{container}", file


def _count(entry: dict[str, Any], text: str) -> None:
    for line in text.splitlines():
        entry["lines"] += 1
        kind = severity(line)
        if kind:
            entry[kind] += 1
            if len(entry["examples"]) < _EXAMPLES:
                entry["examples"].append(line[:_CUT])


def severity(line: str) -> str | None:
    """``errors``, ``warnings`` or None for a line of a CRI log (time, stream, tag, text).

    Decided by the JSON field ``level``, or by words of a plain text.
    """
    text = line.split(" ", 3)[-1]
    try:
        level = str(json.loads(text)["level"]).lower()
    except (ValueError, KeyError, TypeError):
        if _PLAIN_ERROR.search(text):
            return "errors"
        return "warnings" if _PLAIN_WARNING.search(text) else None
    return {"error": "errors", "critical": "errors", "warning": "warnings"}.get(level)


if __name__ == "__main__":
    main()
