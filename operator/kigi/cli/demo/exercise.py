"""The exercise: ten machines of a small office, the levels of their image tree, and three states of the system.

The story: a user opens a mail with a malicious attachment on desktop1. The intruder's program spreads to desktop2 and
to one server of each kind (*infected*). Then the program is removed (*cleaned*). Then the servers get their former
configuration and work again (*restored*). The other machines do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["base", "role", "machine", "state"]
ORIGINAL = "original"
"""Name of the state that an unchanged machine reports."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One of the ten VMs; ``address`` is its fixed IP address inside the exercise."""

    name: str
    role: str
    address: str


@dataclass(frozen=True, slots=True)
class Branch:
    """One node of the image tree; ``machine`` and ``state`` are None for levels of several machines."""

    name: str
    parent: str | None
    kind: Kind
    machine: str | None = None
    state: str | None = None


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


def image_branches() -> tuple[Branch, ...]:
    """All 34 nodes of the image tree, parents before children."""
    branches = [
        Branch("base", None, "base"),
        Branch("server-base", "base", "base"),
        Branch("desktop-base", "base", "base"),
        *(Branch(role, parent, "role") for role, parent in ROLE_PARENT.items()),
        *(Branch(machine.name, machine.role, "machine", machine.name, ORIGINAL) for machine in MACHINES),
    ]
    top = {machine.name: machine.name for machine in MACHINES}
    for state, machines in CHANGED_BY.items():
        for machine in machines:
            branches.append(Branch(f"{machine}-{state}", top[machine], "state", machine, state))
            top[machine] = f"{machine}-{state}"
    return tuple(branches)


def longest_chain() -> int:
    """Layers of the longest chain of the image tree."""
    depths: dict[str | None, int] = {None: 0}
    for branch in image_branches():
        depths[branch.name] = 1 + depths[branch.parent]
    return max(depths.values())


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
