"""Upgrades under load: from the previous version to this one and back, as docs/upgrade.md describes.

API server, controller manager, S3 server, operators, daemons and mounts are real; KubeVirt and its guests are
simulated. Users switch, reset, scale, create and delete deployments all the time, also while objects are converted.
Daemons are replaced before, while and after the operator is, in any order, with a clean end or a kill. What must hold:
every overlay that a caller was told about keeps what its guest wrote, no VM that users leave alone is restarted or gets
another disk, no accepted order is forgotten, and in the end every object can be deleted.

    python -m tests.campaigns.upgrade [--seed 1] [--rounds 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns.upgrade_load import NEW, OLD
from tests.campaigns.upgrade_world import World
from tests.support.releases import PRESENT, has_previous

MIGRATIONS = 10
"""Most calls of ``kigi migrate`` until it succeeds, while users write."""


@dataclass
class Result:
    """What was done, and what did not hold."""

    seed: int
    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    orders: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            "campaign": "upgrade",
            "seed": self.seed,
            "rounds": self.rounds,
            **self.counts,
            "orders": dict(self.orders),
            "failed": len(self.faults),
            "failures": self.faults[:40],
            "seconds": round(self.seconds, 1),
            "holds": not self.faults and self.rounds > 0,
        }


class Round:
    """One cluster: installed with the previous version, upgraded and brought back; then all of it is deleted."""

    def __init__(self, world: World, result: Result, load_s: float) -> None:
        self.world, self.result, self.load_s = world, result, load_s
        self._exports = iter(range(10**9))

    def run(self) -> None:
        """All steps; what does not hold is in ``world.faults``."""
        world = self.world
        self._say("installed")
        world.settle("previous version")
        self._upgrade("present version")
        self._go_back("back")
        if world.chance.random() < 0.5:
            self._upgrade("present version again")
        self._count()
        self._say("deleting everything")
        self.result.counts["objects that cannot be deleted"] += world.delete_everything()

    def _upgrade(self, what: str) -> None:
        """All steps of docs/upgrade.md, and a crash of every VM."""
        world = self.world
        self.backup = world.folder / f"before-{next(self._exports)}.json"
        world.users.start()
        self._wait()
        early = [name for name in world.nodes if world.chance.random() < 0.3]
        for name in early:
            world.replace_daemon(name, PRESENT)
            self.result.counts["daemons before the operator"] += 1
            self._wait(0.5)
        self._look_first()
        world.stop_operator(kill=world.chance.random() < 0.3)
        self._wait(0.5)
        self._say("converting")
        self._convert()
        self._say("converted")
        world.version = world.users.version = NEW
        world.install_present()
        self._start_present([name for name in world.nodes if name not in early])
        self._wait()
        world.users.stop()
        self.result.counts["upgrades"] += 1
        self._settle(what)

    def _go_back(self, what: str) -> None:
        """All steps of "Go back" in docs/upgrade.md."""
        world = self.world
        world.users.start()
        self._wait()
        self._say("turning off")
        world.users.power(on=False)
        world.wait_off()
        for name in world.nodes:
            world.replace_daemon(name, PRESENT, KIGI_OVERLAY_FORM=OLD)
            self._wait(0.2)
        world.wait_earlier_form()
        world.stop_operator(kill=world.chance.random() < 0.3)
        self._say("converting back")
        self._convert("--back")
        world.version = world.users.version = OLD
        world.install_previous()
        world.start_operator(world.old)
        for name in world.nodes:
            world.replace_daemon(name, world.old)
            self._wait(0.2)
        world.users.power(on=True)
        self._wait()
        world.users.stop()
        self.result.counts["ways back"] += 1
        self._settle(what)

    def _settle(self, what: str) -> None:
        self._say(f"settling: {what}")
        self.world.settle(what)
        self.world.crash(f"{what}, after crashes")
        self.world.settle(f"{what}, after crashes")

    def _say(self, what: str) -> None:
        """Progress on standard error: a round takes minutes."""
        print(f"{time.strftime('%H:%M:%S')} {what}; faults: {self.world.faults}", file=sys.stderr, flush=True)

    def _wait(self, part: float = 1.0) -> None:
        time.sleep(self.load_s * part)

    def _look_first(self) -> None:
        """Step 2, while users go on."""
        done = self.world.migrate(self.backup, "--dry-run")
        if done.returncode != 0:
            self.world.faults.append(f"dry run: {done.stderr[-600:]}")
        self._wait(0.5)

    def _convert(self, *arguments: str) -> None:
        """Users write meanwhile, so that it may have to be called again."""
        for _ in range(MIGRATIONS):
            done = self.world.migrate(self.backup, *arguments)
            self.result.counts["calls of kigi migrate"] += 1
            if done.returncode == 0:
                return
            time.sleep(1)
        self.world.faults.append(f"kigi migrate {' '.join(arguments)} does not succeed: {done.stderr[-1000:]}")

    def _start_present(self, late: list[str]) -> None:
        """Step 5: the operator, with daemons of the previous version at first; it is killed once."""
        world = self.world
        world.start_operator(PRESENT)
        for name in late:
            self._wait(0.4)
            world.replace_daemon(name, PRESENT)
            self.result.counts["daemons after the operator"] += 1
        if world.chance.random() < 0.5:
            world.stop_operator(kill=True)
            world.start_operator(PRESENT)
            self.result.counts["kills of the operator"] += 1

    def _count(self) -> None:
        guests = self.world.background.kubelets.guests
        self.result.counts["overlays"] += len(guests.known)
        self.result.counts["starts on an overlay that exists"] += sum(g.starts - 1 for g in guests.known.values())


def campaign(seed: int, rounds: int, *, nodes: int = 3, load_s: float = 15.0, keep: Path | None = None) -> Result:
    """``rounds`` clusters, one after the other. ``keep``: folder where their logs stay."""
    if not has_previous():
        raise SystemExit("the campaign needs the previous version: a clone with its whole history, and git")
    result = Result(seed)
    began = time.monotonic()
    for number in range(rounds):
        own = random.Random(f"{seed}-{number}").randrange(2**31)
        with tempfile.TemporaryDirectory(prefix="kigi-u-") as name:
            folder = keep / str(number) if keep is not None else Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            with World(folder, own, nodes) as world:
                try:
                    Round(world, result, load_s).run()
                except Exception as exc:
                    world.faults.append(f"{type(exc).__name__}: {exc}"[:1500])
                result.faults += [f"round {number}: {text}" for text in world.faults]
                result.orders += world.users.orders.done
        result.rounds += 1
    result.seconds = time.monotonic() - began
    return result


def main() -> int:
    """Print the result; 1 if something does not hold."""
    parser = argparse.ArgumentParser(description="Upgrades from the previous version and back under load")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--load-seconds", type=float, default=15.0)
    parser.add_argument("--keep", type=Path, help="folder for the clusters' files and logs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = campaign(
        arguments.seed,
        arguments.rounds,
        nodes=arguments.nodes,
        load_s=arguments.load_seconds,
        keep=arguments.keep,
    )
    text = json.dumps(result.summary(), indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    return 0 if result.summary()["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
