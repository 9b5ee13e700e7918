"""The content of the exercise: ten machines, the levels of their image tree, and the three states of the system.

The story: a user opens a mail with a malicious attachment on desktop1. The intruder's program spreads to desktop2 and
to one server of each kind. It opens the mail relay, changes a DNS name to the intruder's address, empties the proxy's
block list and damages the shared files (*infected*). Then the program is removed, but its changes are not yet repaired
(*cleaned*). Then the servers get their former configuration and work again (*restored*). The other machines do not
change.

Pure, except that it reads the contents of the levels from the files below ``levels/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LEVELS_DIR = Path(__file__).with_name("levels")

Kind = Literal["base", "role", "machine", "state"]
DOMAIN = "lab.example"
ORIGINAL = "original"
"""Name of the state that an unchanged machine reports."""


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


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the ten VMs; ``address`` is its fixed IP address inside the exercise."""

    name: str
    role: str
    address: str


@dataclass(frozen=True, slots=True)
class State:
    """One node of the system tree; ``images``: machine -> image, only those that differ from the parent."""

    name: str
    parent: str | None
    description: str
    images: Mapping[str, str]


MACHINES = (
    Machine("mail1", "mail", "10.20.0.11"),
    Machine("mail2", "mail", "10.20.0.12"),
    Machine("dns1", "dns", "10.20.0.21"),
    Machine("dns2", "dns", "10.20.0.22"),
    Machine("proxy1", "proxy", "10.20.0.31"),
    Machine("fileserver1", "fileserver", "10.20.0.41"),
    Machine("desktop1", "desktop", "10.20.0.101"),
    Machine("desktop2", "desktop", "10.20.0.102"),
    Machine("desktop3", "desktop", "10.20.0.103"),
    Machine("desktop4", "desktop", "10.20.0.104"),
)
ROLE_PARENT = {
    "mail": "server-base",
    "dns": "server-base",
    "proxy": "server-base",
    "fileserver": "server-base",
    "desktop": "desktop-base",
}
INFECTED = ("mail1", "dns1", "proxy1", "fileserver1", "desktop1", "desktop2")
"""Machines that *infected* changes; *cleaned* changes each of them too."""
REPAIRED = ("mail1", "dns1", "proxy1", "fileserver1")
"""Machines that *restored* changes; the desktops need no repair after *cleaned*."""

CHANGED_BY = {"infected": INFECTED, "cleaned": INFECTED, "restored": REPAIRED}
STATE_PARENT = {"infected": None, "cleaned": "infected", "restored": "cleaned"}
STATE_TEXT = {
    "infected": "A program of the intruder runs on six machines and has changed their configuration.",
    "cleaned": "The program is removed; the configuration that it changed is not yet repaired.",
    "restored": "The servers are configured as before the incident and work.",
}


def image_levels() -> tuple[Level, ...]:
    """All levels of the image tree, parents before children."""
    levels = [
        _level("base", None, "base"),
        _level("server-base", "base", "base"),
        _level("desktop-base", "base", "base"),
        *(_level(role, parent, "role") for role, parent in ROLE_PARENT.items()),
        *(_machine_level(machine) for machine in MACHINES),
    ]
    top = {machine.name: machine.name for machine in MACHINES}
    for state, machines in CHANGED_BY.items():
        for machine in machines:
            level = _state_level(machine, state, top[machine])
            top[machine] = level.name
            levels.append(level)
    return tuple(levels)


def system_states() -> tuple[State, ...]:
    """The states of the system, parents first; the root names all ten machines."""
    return tuple(
        State(
            state,
            STATE_PARENT[state],
            STATE_TEXT[state],
            {
                machine.name: f"{machine.name}-{state}" if machine.name in changed else machine.name
                for machine in MACHINES
                if machine.name in changed or STATE_PARENT[state] is None
            },
        )
        for state, changed in CHANGED_BY.items()
    )


def resolved_images(state: str) -> dict[str, str]:
    """Machine -> image for all ten machines in this state."""
    by_name = {node.name: node for node in system_states()}
    chain: list[State] = []
    name: str | None = state
    while name is not None:
        chain.append(by_name[name])
        name = by_name[name].parent
    images: dict[str, str] = {}
    for node in reversed(chain):
        images.update(node.images)
    return images


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


def _state_level(machine: str, state: str, parent: str) -> Level:
    """Level of a machine in a state: files of ``levels/<state>`` (all machines) and ``levels/<machine>-<state>``."""
    name = f"{machine}-{state}"
    files = {
        "/etc/kigi/state": Entry(f"{state}\n".encode()),
        **read_files(state),
        **read_files(name),
    }
    removed = _lines(state, "removed.txt") + _lines(name, "removed.txt")
    return Level(name, parent, "state", files=files, removed=removed, machine=machine, state=state)


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
