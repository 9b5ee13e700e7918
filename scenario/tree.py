"""The content of the exercise's levels: what each node of its image tree changes in its parent.

Machines, trees and states are those of ``kigi demo`` (``kigi.cli.demo.exercise``). In *infected* the intruder's program
opens the mail relay, changes a DNS name to the intruder's address, empties the proxy's block list and damages the
shared files.

Pure, except that it reads the contents of the levels from the files below ``levels/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kigi.cli.demo.exercise import (
    INFECTED,
    MACHINES,
    ORIGINAL,
    REPAIRED,
    Branch,
    Kind,
    Machine,
    State,
    image_branches,
    resolved_images,
    system_states,
)

__all__ = [
    "INFECTED",
    "MACHINES",
    "ORIGINAL",
    "REPAIRED",
    "Machine",
    "State",
    "resolved_images",
    "system_states",
]

LEVELS_DIR = Path(__file__).with_name("levels")
DOMAIN = "lab.example"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a level: its text and mode, or the target of a symbolic link."""

    text: bytes = b""
    mode: int = 0o644
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One node of the image tree, with its changes to the parent in order of their application.

    ``removed``: absolute paths to delete; ``files``: absolute path -> content; ``packages``: Debian packages;
    ``script``: shell script to run in the guest's file system. Only the real variant uses packages and script.
    """

    name: str
    parent: str | None
    kind: Kind
    files: Mapping[str, Entry] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    script: str = ""
    machine: str | None = None
    state: str | None = None


def image_levels() -> tuple[Level, ...]:
    """All levels of the image tree, parents before children."""
    machines = {machine.name: machine for machine in MACHINES}
    levels: list[Level] = []
    for branch in image_branches():
        if branch.machine is None:
            levels.append(_level(branch.name, branch.parent, branch.kind))
        elif branch.kind == "machine":
            levels.append(_machine_level(machines[branch.machine]))
        else:
            levels.append(_state_level(branch))
    return tuple(levels)


def _level(name: str, parent: str | None, kind: Kind) -> Level:
    return Level(
        name,
        parent,
        kind,
        files=read_files(name),
        removed=_lines(name, "removed.txt"),
        packages=_lines(name, "packages.txt"),
        script=_text(name, "script.sh"),
    )


def _machine_level(machine: Machine) -> Level:
    hosts = "".join(f"{other.address}\t{other.name}.{DOMAIN} {other.name}\n" for other in MACHINES)
    texts = {
        "/etc/hostname": f"{machine.name}\n",
        "/etc/hosts": f"127.0.0.1\tlocalhost\n{hosts}",
        "/etc/kigi/machine": f"{machine.name}\n",
        "/etc/kigi/role": f"{machine.role}\n",
        "/etc/kigi/state": f"{ORIGINAL}\n",
        "/etc/systemd/network/10-exercise.network": (
            "[Match]\nType=ether\n\n[Link]\nRequiredForOnline=no\n\n"
            f"[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nAddress={machine.address}/24\n"
        ),
    }
    files = {path: Entry(text.encode()) for path, text in texts.items()} | read_files(machine.name)
    return Level(machine.name, machine.role, "machine", files=files, machine=machine.name, state=ORIGINAL)


def _state_level(branch: Branch) -> Level:
    """Level of a machine in a state: files of ``levels/<state>`` (all machines) and ``levels/<machine>-<state>``."""
    name, state = branch.name, branch.state or ""
    files = {
        "/etc/kigi/state": Entry(f"{state}\n".encode()),
        **read_files(state),
        **read_files(name),
    }
    removed = _lines(state, "removed.txt") + _lines(name, "removed.txt")
    return Level(name, branch.parent, "state", files=files, removed=removed, machine=branch.machine, state=state)


def read_files(level: str) -> dict[str, Entry]:
    """Contents of ``levels/<level>/files``: absolute path in the guest -> entry; empty if there is no such folder."""
    root = LEVELS_DIR / level / "files"
    entries: dict[str, Entry] = {}
    for path in sorted(root.rglob("*")):
        inside = "/" + path.relative_to(root).as_posix()
        if path.is_symlink():
            entries[inside] = Entry(link=str(path.readlink()))
        elif path.is_file():
            # git stores only the executable bit; the umask of a checkout must not affect the guest.
            entries[inside] = Entry(path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
    return entries


def _text(level: str, name: str) -> str:
    path = LEVELS_DIR / level / name
    return path.read_text() if path.is_file() else ""


def _lines(level: str, name: str) -> tuple[str, ...]:
    lines = (line.split("#")[0].strip() for line in _text(level, name).splitlines())
    return tuple(line for line in lines if line)
