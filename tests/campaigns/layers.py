"""Writes to layers: by pods that mount a volume, by the publisher of captures, and by root of the node.

Real mounts, a real store and real copies, as the daemon makes them. What must hold: no pod and no publisher changes a
byte, the owner or the mode of a layer, also not while the daemon deletes what they made. Root of the node can write;
then the change is detected before the layer is used by the next start, in the running daemon and in one that starts
later. Needs root.

    python -m tests.campaigns.layers [--seed 1] [--count 2000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kigi.errors import LayerMissing, OverlayMismatch
from kigi_cache.captures.files import COPY, CopyFiles
from tests.campaigns.ending import finish
from tests.campaigns.layer_writes import NODE_WRITES, PLACES, PUBLISHER_ATTACKS, RACE
from tests.support.chains import LayerFile, build_chain
from tests.support.mountns import private_mounts
from tests.support.publishers import ROOT, as_publisher
from tests.support.volume_attacks import ACTORS, ATTACKS, SHAPES, Attack, attempt, pod_volume
from tests.support.volume_world import HANDLE, OTHER, World

Attempt = Callable[[World, Path], "Outcome"]
DAEMON = {"running": False, "restarted": True}
"""Whether the daemon starts again between the write and the next start of a machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``changed``: what differs of the layers; ``detected``: the next start does not use it."""

    changed: tuple[str, ...] = ()
    detected: bool = False


@dataclass
class Result:
    """Numbers and faults of a campaign."""

    seed: int
    attempts: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    """Attempts after which a layer differed."""
    faults: list[str] = field(default_factory=list)
    """Changed by a pod or the publisher, or changed and not detected."""

    def add(self, actor: str, name: str, outcome: Outcome) -> None:
        """Counts one attempt."""
        self.attempts[actor] = self.attempts.get(actor, 0) + 1
        self.changed[actor] = self.changed.get(actor, 0) + bool(outcome.changed)
        is_fault = bool(outcome.changed) and (actor != "node" or not outcome.detected)
        if is_fault:
            self.faults.append(f"{actor}: {name}: {', '.join(outcome.changed)}")

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "campaign": "layers",
            "seed": self.seed,
            "attempts": self.attempts,
            "attemptsTotal": sum(self.attempts.values()),
            "layersChanged": self.changed,
            "faults": self.faults,
            "holds": not self.faults,
        }


def differences(world: World) -> tuple[str, ...]:
    """Layers whose bytes, owner or mode are not those of a layer."""
    return tuple(wrong for layer in world.chain if (wrong := _difference(world.store.path(layer.digest))))


def _difference(path: Path) -> str:
    if not path.exists():
        return f"{path.name} is gone"
    if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
        return f"bytes of {path.name}"
    found = path.stat()
    is_layer = (found.st_uid, found.st_mode & 0o7777) == (0, 0o444)
    return "" if is_layer else f"owner {found.st_uid} or mode {found.st_mode:o} of {path.name}"


def pod_attempts() -> Iterator[tuple[str, str, Attempt]]:
    """Pods that mount a volume, as in ``tests/support/volume_attacks``."""
    for actor, (shape, part), keep, attack in itertools.product(ACTORS, SHAPES.items(), (True, False), ATTACKS):
        name = f"{attack.name}, {shape}, options {'kept' if keep else 'dropped'}"
        yield f"pod, {actor}", name, functools.partial(_by_pod, actor, part, keep, attack)


def _by_pod(actor: str, part: str, keep: bool, attack: Attack, world: World, place: Path) -> Outcome:
    target = world.publish()
    with pod_volume(target, part, world.layer, place, keep_options=keep) as seen:
        attempt(actor, attack, part, target, seen, world.layer, world.scratch)
    world.unpublish()
    return Outcome(differences(world))


def publisher_attempts() -> Iterator[tuple[str, str, Attempt]]:
    """The publisher's user with a copy that the daemon has made for it; afterwards the daemon deletes the copy."""
    for attack, (when, restart) in itertools.product([*ATTACKS, *PUBLISHER_ATTACKS, RACE], DAEMON.items()):
        yield "publisher", f"{attack.name}, daemon {when}", functools.partial(_by_publisher, attack, restart)


def _by_publisher(attack: Attack, restart: bool, world: World, place: Path) -> Outcome:
    files = make_copy(world)
    command, env = as_publisher(files.root, "sh", "-c", attack.command), _environment(world)
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if attack is not RACE:
        process.wait(60)
    found = differences(world)
    _read_and_delete(files, restart=restart)
    process.wait(60)
    found += differences(world)
    files.delete("c1")
    world.unpublish()
    return Outcome(found)


def make_copy(world: World) -> CopyFiles:
    """A durable copy of a running machine's overlay, as the daemon gives it to the publisher."""
    world.publish()
    files = CopyFiles(world.store.root, world.volumes.delete_links)
    files.recover()
    building, top = files.begin("c1"), world.chain[-1]
    parent, size = top.digest, top.virtual_size_bytes
    asyncio.run(world.volumes.copy(HANDLE, building, COPY, parent=parent, size=size, mounted=True))
    files.commit("c1")
    files.make_durable("c1", {"parent": parent, "copyUid": "u"})
    return files


def _environment(world: World) -> dict[str, str]:
    copy, layer = f"{ROOT}/captures/c1", world.layer
    places = {"V": copy, "C": f"{copy}/chain", "F": f"{copy}/chain/{layer}", "S": f"{copy}/out"}
    return {**os.environ, "P": sys.executable, "L": layer, **places}


def _read_and_delete(files: CopyFiles, *, restart: bool) -> None:
    files.result("c1")
    files.publisher_seen_s()
    if restart:
        files.recover()
    for _ in range(3):  # the publisher may make files while they are deleted
        try:
            files.delete("c1")
            files.recover()
        except OSError:
            continue


def node_attempts() -> Iterator[tuple[str, str, Attempt]]:
    """Root of the node, who can write; the daemon runs on, or starts again."""
    for (place, where), write, (when, restart) in itertools.product(PLACES.items(), NODE_WRITES, DAEMON.items()):
        yield "node", f"{write.name} by {place}, daemon {when}", functools.partial(_by_root, where, write, restart)


def _by_root(where: str, write: Attack, restart: bool, world: World, place: Path) -> Outcome:
    files = make_copy(world)
    world.unpublish()
    path = where.format(root=world.store.root, handle=HANDLE, layer=world.layer)
    script = f"set -e; F={path}; {write.command}"
    env = {**os.environ, "P": sys.executable}
    subprocess.run(["sh", "-c", script], check=True, capture_output=True, cwd=world.scratch, env=env)
    found = differences(world)
    outcome = Outcome(found, is_detected(world, restart=restart)) if found else Outcome(after_start(world))
    files.delete("c1")
    world.repair()
    return outcome


def is_detected(world: World, *, restart: bool) -> bool:
    """Whether the next start of a machine is refused, and the content is found to be wrong."""
    if restart:
        world.reopen()
    try:
        world.publish(OTHER)
    except LayerMissing:
        return not all(world.store.verify(layer) for layer in world.chain)
    world.unpublish(OTHER)
    return False


def after_start(world: World) -> tuple[str, ...]:
    """Differences of the layers that the next start has, if a link was replaced and the layer itself is right."""
    assert all(world.store.verify(layer) for layer in world.chain)  # its number of links has changed
    try:
        chain = world.publish() / "chain"
    except OverlayMismatch:  # a link is missing: no start
        asyncio.run(world.volumes.discard(HANDLE))
        return ()
    wrong = tuple(difference for path in sorted(chain.iterdir()) if (difference := _difference(path)))
    world.unpublish()
    return wrong


def run(seed: int, count: int, folder: Path) -> Result:
    """At most ``count`` attempts, in the order of the seed."""
    chosen = [*pod_attempts(), *publisher_attempts(), *node_attempts()]
    random.Random(seed).shuffle(chosen)
    result = Result(seed)
    files: list[LayerFile] = build_chain(folder / "chain", length=2, size_bytes=2**20)
    with private_mounts():
        world = World(folder, files)
        for number, (actor, name, act) in enumerate(chosen[:count]):
            result.add(actor, name, act(world, folder / f"pod{number}"))
            world.repair()
    return result


def main() -> None:
    """Runs one campaign; exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="at most; by default all attempts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-campaign-") as folder:
        result = run(options.seed, options.count, Path(folder))
    finish(result.summary(), not result.faults, options.json)


if __name__ == "__main__":
    main()
