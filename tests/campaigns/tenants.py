"""A tenant with the rights of `edit` attacks another one whose deployment runs.

The tenant has three namespaces, with the Pod Security levels privileged, baseline and restricted, and in each the
Kubernetes role `edit`, to which Kigi's and KubeVirt's roles for users are added. It tries pods, claims, VMs and
Kigi's objects in all forms. After each batch, nothing of the victim may differ: uids and specs of its objects, its
runs, the layers that the nodes hold, and their bytes. Its new images must become Ready, and reach the nodes.

Without --cluster: a real API server, controller manager and operator; kubelets, KubeVirt and daemons are simulated.
With --cluster: the running local cluster, with real ones. Not tried, because docs/security.md names them as not
defended: hostPath and CAP_SYS_ADMIN at the level privileged.

    python -m tests.campaigns.tenants [--seed 1] [--count 2000] [--cluster] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns import tenant_objects, tenant_pods
from tests.campaigns.ending import finish
from tests.campaigns.objects import quantile
from tests.campaigns.tenant_attack import LEVELS, Attack, Tenant, Victim, clean
from tests.campaigns.tenant_state import State, differences, held_layers, state_of
from tests.campaigns.tenant_worlds import ClusterWorld, PlaneWorld, World

NOT_TRIED = "hostPath volumes and CAP_SYS_ADMIN at the Pod Security level privileged: documented as not defended"
SLOWER = 3.0
"""The victim's slowest steps (p99) may take this many times as long as before or after the attacks, or SLACK_S more."""
SLACK_S = 3.0
WHEN = ("before", "during", "after")


@dataclass
class Result:
    """Numbers and faults of a campaign."""

    seed: int
    where: str
    attacks: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrongly_accepted: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Answers that are errors of the server."""
    changed: list[str] = field(default_factory=list)
    lost_layers: list[str] = field(default_factory=list)
    altered_layers: list[str] = field(default_factory=list)
    pods_run: int = 0
    """Pods of the tenant that ran; on a cluster with a kubelet."""
    mounted: list[str] = field(default_factory=list)
    """Pods of the tenant in which a disk of Kigi was mounted."""
    times: dict[str, list[float]] = field(default_factory=dict)
    layers: int = 0

    def holds(self) -> bool:
        """Whether all that must hold does; the times are judged by ``is_as_fast``."""
        faults = (self.wrongly_accepted, self.errors, self.changed, self.lost_layers, self.altered_layers, self.mounted)
        return not any(faults)

    def is_as_fast(self) -> bool:
        """Whether the victim waited no longer than without attacks."""
        for step in ("reconcile", "fill"):
            before, during, after = (quantile(self.times.get(f"{step} {when}", []), 0.99) for when in WHEN)
            alone = max(before, after)  # other load of the machine differs during a run
            if during > max(alone * SLOWER, alone + SLACK_S):
                return False
        return True

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "campaign": "tenants",
            "seed": self.seed,
            "where": self.where,
            "attacks": self.attacks,
            "accepted": dict(sorted(self.accepted.items())),
            "refused": dict(sorted(self.refused.items())),
            "wronglyAccepted": self.wrongly_accepted,
            "serverErrors": self.errors,
            "changed": self.changed,
            "layers": self.layers,
            "lostLayers": self.lost_layers,
            "alteredLayers": self.altered_layers,
            "podsThatRan": self.pods_run,
            "podsWithAKigiDisk": self.mounted,
            "p50Seconds": {name: round(quantile(found, 0.5), 2) for name, found in sorted(self.times.items())},
            "p99Seconds": {name: round(quantile(found, 0.99), 2) for name, found in sorted(self.times.items())},
            "notTried": NOT_TRIED,
            "holds": self.holds(),
            "asFast": self.is_as_fast(),
        }


def attacks_of(namespace: str, level: str, victim: Victim, *, start: bool) -> Iterator[Attack]:
    """Every attack in one namespace, in the order in which they build on each other."""
    numbers = itertools.count(1)
    yield from tenant_pods.needed(namespace, victim)
    yield from tenant_pods.pod_attacks(namespace, level, victim, numbers)
    yield from tenant_pods.wrapper_attacks(namespace, level, numbers)
    yield from tenant_pods.identity_attacks(namespace, level, victim, numbers)
    yield from tenant_objects.tree_attacks(namespace, victim, numbers)
    yield from tenant_objects.request_attacks(namespace, victim, numbers)
    yield from tenant_objects.status_attacks(namespace, victim)
    yield from tenant_objects.label_attacks(namespace, victim, numbers)
    yield from tenant_objects.machine_attacks(namespace, victim, numbers, start=start)
    yield from tenant_objects.foreign_attacks(namespace, victim, numbers)


def choose(victim: Victim, seed: int, count: int, *, start: bool) -> list[tuple[str, Attack]]:
    """Namespace and attack, in the order of the seed; the claims that pods name are first."""
    every = [(level, each) for level in LEVELS for each in attacks_of(namespace_of(level), level, victim, start=start)]
    first = [pair for pair in every if pair[1].group == "claims"]
    others = [pair for pair in every if pair[1].group != "claims"]
    chance = random.Random(seed)
    chance.shuffle(others)
    if len(others) > count:
        groups = {pair[1].group: pair for pair in others}  # at least one of each group
        others = [*groups.values(), *others][:count]
    return [*first, *others]


def namespace_of(level: str) -> str:
    """The tenant's namespace with this level."""
    return f"tenant-{level}"


class Campaign:
    """One run in a world."""

    def __init__(self, world: World, result: Result) -> None:
        self._world, self._result = world, result
        self._victim = world.victim
        self._tenants = {level: Tenant(world.tenant(namespace_of(level))) for level in LEVELS}
        self._before: State = state_of(world.admin, self._victim)
        self._held = held_layers(world.admin)
        self._files = world.files()
        result.layers = len(self._files) or sum(map(len, self._held.values()))

    def run(self, count: int, batch: int, probes: int) -> None:
        """``count`` attacks in batches, with a check after each."""
        for _ in range(probes):
            self._probe("before")
        chosen = choose(self._victim, self._result.seed, count, start=self._world.has_kubelet)
        while chosen:
            now, chosen = chosen[:batch], chosen[batch:]
            for level, attack in now:
                self._attack(level, attack)
            self._probe("during")
            self._result.pods_run += self._world.settle([namespace_of(level) for level in LEVELS])
            self._result.mounted += self._world.disks_of_pods([namespace_of(level) for level in LEVELS])
            self._check(now)
            for level, tenant in self._tenants.items():
                kept = [path for path in tenant.made if "/persistentvolumeclaims/" in path and chosen]
                clean(self._world.admin, [path for path in tenant.made if path not in kept])
                self._tenants[level] = Tenant(self._world.tenant(namespace_of(level)), kept)
        for _ in range(probes):
            self._probe("after")
        self._check([])
        self._check_files()

    def _attack(self, level: str, attack: Attack) -> None:
        code, text = self._tenants[level].attack(attack)
        self._result.attacks += 1
        what = f"{attack.group}: {attack.name}: {code} {text[:300]}"
        if code < 300:
            self._result.accepted[attack.group] += 1
            if attack.refused:
                self._result.wrongly_accepted.append(what)
        else:
            self._result.refused[attack.group] += 1
            if code >= 500 and not attack.path.startswith("/apis/subresources."):
                self._result.errors.append(what)

    def _probe(self, when: str) -> None:
        try:
            found = self._world.probe()
        except AssertionError as exc:
            self._result.changed.append(f"{when}: {exc}")
            return
        for step, seconds in found.items():
            self._result.times.setdefault(f"{step} {when}", []).append(seconds)

    def _check(self, batch: list[tuple[str, Attack]]) -> None:
        found = differences(self._before, state_of(self._world.admin, self._victim))
        if found:
            names = sorted({f"{attack.group}: {attack.name}" for _, attack in batch})
            self._result.changed += [f"{each} (after one of {names})" for each in found]
            self._before = state_of(self._world.admin, self._victim)
        held = held_layers(self._world.admin)
        for node, digests in self._held.items():
            self._result.lost_layers += [f"{node}: {digest}" for digest in digests - held.get(node, set())]
        self._held = {node: held.get(node, set()) & digests for node, digests in self._held.items()}

    def _check_files(self) -> None:
        now = self._world.files()
        wrong = {name for name, digest in now.items() if digest not in name}
        self._result.altered_layers += sorted(wrong | (self._files.keys() - now.keys()))


def run(seed: int, count: int, folder: Path, *, cluster: bool = False, batch: int = 40, probes: int = 10) -> Result:
    """One campaign."""
    with contextlib.ExitStack() as stack:
        namespaces = {namespace_of(level): level for level in LEVELS}
        world: World = ClusterWorld(folder, namespaces) if cluster else PlaneWorld(folder, namespaces)
        stack.enter_context(world)
        result = Result(seed, "local cluster" if cluster else "API server and operator; the rest simulated")
        Campaign(world, result).run(count, batch, probes)
    return result


def main() -> None:
    """Runs one campaign; exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5000, help="at most; by default all attacks")
    parser.add_argument("--cluster", action="store_true", help="on the running local cluster")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kigi-campaign-") as folder:
        result = run(options.seed, options.count, Path(folder), cluster=options.cluster)
    finish(
        result.summary() | {"minutes": round((time.monotonic() - started) / 60, 1)},
        result.holds() and result.is_as_fast(),
        options.json,
    )


if __name__ == "__main__":
    main()
