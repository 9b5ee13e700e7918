"""What a node shows of mounts, Kigi's processes and their logs, as JSON; runs inside the node by its path.

Takes one argument, a JSON object: ``offsets`` maps each log file to the bytes that were read of it. null: nothing was
read yet, and all files are taken as read to their ends. Needs nothing but the standard library.
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
"""KubeVirt names the containers of hooks so, with a number."""
MAX_READ = 4 * 2**20
"""Bytes of one file that are looked at in one run; the rest counts as bytes only."""
_EXAMPLES, _CUT = 5, 400
_PLAIN_ERROR = re.compile(r"\b(error|exception|traceback|refused|cannot|fatal|panic)\b", re.IGNORECASE)
_PLAIN_WARNING = re.compile(r"\bwarn(ing)?\b", re.IGNORECASE)


def main() -> None:
    """Print everything."""
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
                continue  # it ended meanwhile
    return found


def program_of(command_line: bytes) -> str | None:
    """Which of Kigi's programs runs: as the command itself, or as the script of an interpreter."""
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
    """Growth of each of Kigi's containers since ``offsets``, and the next offsets.

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
    """``pod/container`` and log file. The kubelet's layout: ``NAMESPACE_POD_UID/CONTAINER/RESTARTS.log``."""
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
    """``errors``, ``warnings`` or None of a line of a CRI log (time, stream, tag, text), by its JSON level or words."""
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
