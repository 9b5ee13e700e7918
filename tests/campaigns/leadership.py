"""Two operators, of which one leads at a time, while all goes wrong: stalls, clocks, lost events, a restored etcd.

Each schedule runs about nine minutes of virtual time. Both operators run on a simulated API server with simulated nodes
and KubeVirt. Processes freeze and end, requests wait in the server's queue, networks are cut, events are lost, labels
vanish and come back, clocks are set by an hour, etcd is restored from a backup, and users switch, scale, reset and
delete. Five quiet minutes follow.

What must hold: no write arrives after its sender's lease has ended. Afterwards the leader knows each object as it is,
and everything is as the users asked for. At no time there are two VMs of one machine.

    python -m tests.campaigns.leadership [--seed 1] [--schedules 2000] [--first 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

from kigi.adapters.kubernetes.api_requests import MERGE_PATCH, Request
from kigi.adapters.kubernetes.resources import (
    CLAIM,
    DEPLOYMENT,
    INSTANCE,
    KUBEVIRT,
    MACHINE,
    NAMESPACE,
    NODE_CACHE,
    REPOSITORY,
    RESET,
    SECRET,
    VMI,
    VOLUME,
    WATCHED,
    Resource,
)
from kigi.domain import names
from kigi.runtime.leader import LEASE_NAME
from tests.campaigns.ending import finish
from tests.support.actors import Actors, NodeDisk
from tests.support.bodies import repository_body
from tests.support.deployments import deployment, trees
from tests.support.simulated_api import Backup, Event, Refused, SimulatedApi
from tests.support.simulated_operators import (
    START,
    ActorsClient,
    Arrival,
    Machine,
    SimulatedClient,
    SimulatedConnection,
    SimulatedOperator,
    holder_of,
    virtual,
)
from tests.support.virtual_time import run_virtually

TEAM = "team"
TROUBLE_S = 190.0
QUIET_S = 300.0
LEASE_S = 30.0
BEAT_S = 25.0
MACHINE_LABELS = (names.LABEL_NAMESPACE, names.LABEL_DEPLOYMENT, names.LABEL_INSTANCE, names.LABEL_MACHINE)


class World:
    """A simulated cluster with two nodes, and two operators."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.api = SimulatedApi(now=lambda: text_of(0.0))
        self.late: list[str] = []
        """Writes that arrived after the lease of their sender."""
        self.twice: list[str] = []
        """VMs that existed beside another one of the same machine."""
        self.writes = 0
        self.terms: list[str] = []
        self.machines = {name: Machine(random.Random(chance.random())) for name in ("a", "b")}
        self.operators: dict[str, SimulatedOperator] = {}
        self.pending: list[asyncio.Future[None]] = []
        """Troubles that are not over."""
        self.restarts = 0
        self.repairs: list[Callable[[], None]] = []
        self._lease_ends: dict[str, float] = {}
        self._connection = SimulatedConnection(self.api, "actors", Machine(random.Random(0)), lambda _: None)
        play = tuple(replace(each, selector="") for each in (MACHINE, VMI, NODE_CACHE, VOLUME, CLAIM))
        self.actors = VirtualActors("", nodes=2, play=play, connect=self._client)
        self.api.wrote.extend((self._bind, self._count))

    async def _client(self) -> SimulatedClient:
        return ActorsClient(self._connection, "actors")

    # Checks at each write.

    def arrived(self, arrival: Arrival) -> None:
        """A write of an operator was carried out."""
        if arrival.request.path.endswith(f"leases/{LEASE_NAME}") or arrival.request.path.endswith("/leases"):
            if holder_of(self.api) == arrival.who:
                self._lease_ends[arrival.who] = arrival.at + LEASE_S
                if self.terms[-1:] != [arrival.who]:
                    self.terms.append(arrival.who)
            return
        self.writes += 1
        ended = self._lease_ends.get(arrival.who, 0.0)
        if holder_of(self.api) != arrival.who or arrival.at > ended:
            self.late.append(f"{arrival.who} at {arrival.at:.1f}: {arrival.request}, lease until {ended:.1f}")

    def _count(self, event: Event) -> None:
        if event.key[0] != MACHINE.plural or event.new is None:
            return
        slot = slot_of(event.new)
        same = [key for key, body in self.api.objects.items() if key[0] == MACHINE.plural and slot_of(body) == slot]
        if len(same) > 1:
            self.twice.append(f"{slot}: {same}")

    # Parts of a cluster that neither operators nor actors play.

    def _bind(self, event: Event) -> None:
        """The volume binder, a moment later."""
        if event.key[0] in (CLAIM.plural, VOLUME.plural):
            asyncio.get_running_loop().call_later(0.3, self.bind_all)

    def bind_all(self) -> None:
        """Binds each claim whose volume exists."""
        for key, claim in list(self.api.objects.items()):
            if key[0] != CLAIM.plural or claim.get("status", {}).get("phase") == "Bound":
                continue
            volume = self.api.objects.get((VOLUME.plural, None, claim["spec"]["volumeName"]))
            if volume is not None and not volume["metadata"].get("deletionTimestamp"):
                reference = {"namespace": key[1], "name": key[2], "uid": claim["metadata"]["uid"]}
                name = volume["metadata"]["name"]
                self.patch(VOLUME, None, name, {"spec": {"claimRef": reference}})
                self.patch(VOLUME, None, name, {"status": {"phase": "Bound"}}, "status")
                self.patch(CLAIM, key[1], key[2], {"status": {"phase": "Bound"}}, "status")

    # Users.

    def create(self, resource: Resource, namespace: str | None, body: dict[str, Any]) -> None:
        """Creates the object, unless it exists."""
        body = {**body, "metadata": {**body["metadata"], **({"namespace": namespace} if namespace else {})}}
        self._do(Request("POST", resource.path(namespace), {**body, "kind": resource.kind}))

    def patch(self, resource: Resource, namespace: str | None, name: str, patch: dict[str, Any], sub: str = "") -> None:
        """Merge-patches the object, if it exists."""
        self._do(Request("PATCH", resource.path(namespace, name, sub), patch, MERGE_PATCH))

    def delete(self, resource: Resource, namespace: str | None, name: str) -> None:
        """Deletes the object, if it exists."""
        self._do(Request("DELETE", resource.path(namespace, name)))

    def _do(self, request: Request) -> None:
        try:
            self.api.handle(request)
        except Refused as exc:
            if exc.status not in (404, 409):
                raise

    def some(self, *resources: Resource) -> tuple[Resource, dict[str, Any]] | None:
        """Any object of these kinds."""
        kinds = {resource.plural: resource for resource in resources}
        found = sorted((key for key in self.api.objects if key[0] in kinds), key=str)
        if not found:
            return None
        key = self.chance.choice(found)
        return kinds[key[0]], self.api.objects[key]

    # Life.

    async def prepare(self) -> None:
        """A cluster with a running deployment."""
        for name in ("kigi-system", TEAM, "default"):
            self.create(NAMESPACE, None, {"metadata": {"name": name}})
        self.create(
            SECRET,
            "kigi-system",
            {"metadata": {"name": "reader"}, "data": {"accessKeyId": "YQ==", "secretAccessKey": "Yg=="}},
        )
        for name in ("kigi-daemon-repositories", "kigi-publisher-repositories"):
            self.create(SECRET, "kigi-system", {"metadata": {"name": name}})
        self.create(REPOSITORY, None, {"metadata": {"name": "default"}, "spec": repository_body()["spec"]})
        gates = {"configuration": {"developerConfiguration": {"featureGates": ["Sidecar"]}}}
        status = {"phase": "Deployed", "observedKubeVirtVersion": "v1.7.0"}
        self.create(KUBEVIRT, "default", {"metadata": {"name": "kubevirt"}, "spec": gates, "status": status})
        by_kind = {resource.kind: resource for resource in WATCHED}
        for body in (*trees(2), deployment(replicas=2)):
            self.create(by_kind[body["kind"]], TEAM, body)

    def start(self, name: str) -> None:
        """Starts an operator under a new identity."""
        identity = f"{name}{self.chance.randrange(10**6)}"
        again = partial(self._start_again, name)
        self.operators[name] = SimulatedOperator(self.api, identity, self.machines[name], self.arrived, again)
        self.operators[name].start()

    def _start_again(self, name: str) -> None:
        """The kubelet starts the container again."""
        self.restarts += 1
        restart(self, name, 2.0)

    @property
    def leader(self) -> SimulatedOperator | None:
        """The operator that may write."""
        leading = [one for one in self.operators.values() if one.election.is_leader]
        return leading[0] if leading else None


class VirtualActors(Actors):
    """Actors whose daemons renew their Leases in virtual time, and do nothing else periodically."""

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for name in sorted(self.alive):
                if (None, name) in self._seen["NodeCache"]:
                    await self.beat(name)

    async def beat(self, name: str, renewed: str = "") -> None:
        try:
            await super().beat(name, renewed or text_of(0.0, micro=True))
        except Exception as exc:
            logging.getLogger(__name__).info("no heartbeat", extra={"error": str(exc)})


def text_of(offset_s: float, *, micro: bool = False) -> str:
    """The server's time."""
    return (START + timedelta(seconds=virtual() + offset_s)).strftime(
        "%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ"
    )


def slot_of(body: dict[str, Any]) -> tuple[str, ...]:
    """The machine that a VM is for."""
    labels = body["metadata"].get("labels") or {}
    return tuple(labels.get(label, "?" + body["metadata"]["name"]) for label in MACHINE_LABELS)


# Troubles.


def freeze(world: World, machine: Machine) -> None:
    machine.frozen_until = virtual() + world.chance.choice([2.0, 8.0, 19.0, 25.0, 35.0, 70.0])


def freeze_at_write(world: World, machine: Machine) -> None:
    """It freezes when it has sent one of its next writes, which may wait on the server."""
    machine.stall_at, machine.stall_s = world.chance.randint(0, 12), world.chance.choice([8.0, 25.0, 70.0])
    world.chance.choice(REQUESTS)(world)


def cut(world: World, machine: Machine) -> None:
    machine.cut_until = virtual() + world.chance.choice([3.0, 12.0, 30.0, 80.0])


def lose_events(world: World, machine: Machine) -> None:
    machine.blind_until = virtual() + world.chance.uniform(1.0, 40.0)


def slow_down(world: World, machine: Machine) -> None:
    machine.slow_until = virtual() + world.chance.uniform(5.0, 40.0)
    if world.chance.random() < 0.7:  # and the process stops while its requests wait
        world.chance.choice(REQUESTS)(world)
        asyncio.get_running_loop().call_later(world.chance.uniform(0.0, 1.0), freeze, world, machine)


def delay_packets(world: World, machine: Machine) -> None:
    machine.late_until, machine.late_s = virtual() + world.chance.uniform(5.0, 40.0), LEASE_S / 3


def set_clock(world: World, machine: Machine) -> None:
    machine.clock_s = world.chance.choice([-3600.0, 3600.0, 0.0])


def kill(world: World, machine: Machine) -> None:
    name = next(name for name, one in world.machines.items() if one is machine)
    restart(world, name, world.chance.uniform(1.0, 20.0))


def restart(world: World, name: str, after_s: float) -> None:
    async def again() -> None:
        if not world.operators[name].tasks:
            return  # it is down already
        await world.operators[name].stop()
        await asyncio.sleep(after_s)
        world.start(name)

    world.pending.append(asyncio.ensure_future(again()))


def hide(world: World, machine: Machine) -> None:
    """Removes the label by which Kigi selects an object, and restores it."""
    found = world.some(MACHINE, VOLUME, CLAIM, VMI)
    if found is None:
        return
    resource, body = found
    meta = body["metadata"]
    label = (meta.get("labels") or {}).get(names.LABEL_DEPLOYMENT)
    if label is None:
        return  # it is hidden already
    where, name, uid = meta.get("namespace"), meta["name"], meta["uid"]

    def restore() -> None:
        patch = {"metadata": {"uid": uid, "labels": {names.LABEL_DEPLOYMENT: label}}}
        world.patch(resource, where, name, patch)

    world.repairs.append(restore)  # once more at the end: a backup may be without the label
    world.patch(resource, where, name, {"metadata": {"labels": {names.LABEL_DEPLOYMENT: None}}})
    asyncio.get_running_loop().call_later(world.chance.uniform(0.05, 40.0), restore)


def restore_etcd(world: World, machine: Machine) -> None:
    """All API servers stop, etcd is restored from a backup, and they start again, as Kubernetes' documentation says."""
    backup: Backup = world.api.backup()

    def stop() -> None:
        world.api.down_until = virtual() + world.chance.uniform(20.0, 60.0)
        asyncio.get_running_loop().call_at(world.api.down_until - 0.001, world.api.restore, backup)
        asyncio.get_running_loop().call_at(world.api.down_until + 1.0, world.bind_all)

    asyncio.get_running_loop().call_later(world.chance.uniform(1.0, 30.0), stop)


TROUBLES: tuple[Callable[[World, Machine], None], ...] = (
    freeze,
    freeze_at_write,
    cut,
    lose_events,
    slow_down,
    delay_packets,
    set_clock,
    kill,
    hide,
    restore_etcd,
)


# Users' requests.


def switch(world: World) -> None:
    state = world.chance.choice(["infected", "cleaned", "restored"])
    world.patch(DEPLOYMENT, TEAM, "class", {"spec": {"systemRef": {"name": state}}})


def scale(world: World) -> None:
    world.patch(DEPLOYMENT, TEAM, "class", {"spec": {"replicas": world.chance.choice([1, 2, 3])}})


def reset(world: World) -> None:
    name = f"reset-{world.chance.randrange(10**6)}"
    spec = {"deploymentRef": {"name": "class"}, "requestedBy": "alice"}
    world.create(RESET, TEAM, {"metadata": {"name": name}, "spec": spec})


def delete_instance(world: World) -> None:
    found = world.some(INSTANCE)
    if found is not None:
        world.delete(INSTANCE, TEAM, found[1]["metadata"]["name"])


def delete_machine(world: World) -> None:
    found = world.some(MACHINE)
    if found is not None:
        world.delete(MACHINE, TEAM, found[1]["metadata"]["name"])


REQUESTS = (switch, scale, reset, delete_instance, delete_machine)


# Schedules.


@dataclass
class Schedule:
    """One schedule and its result; empty lists are what must be."""

    number: int
    troubles: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    error: str = ""
    writes: int = 0
    terms: int = 0

    @property
    def holds(self) -> bool:
        """Whether all that must hold does."""
        return not (self.late or self.missed or self.twice or self.error)


@dataclass(frozen=True)
class Running:
    """The cluster in which every schedule begins: a deployment of two instances runs."""

    backup: Backup
    disks: dict[str, NodeDisk]


@cache
def running() -> Running:
    """Made once by an operator without troubles."""

    async def play() -> Running:
        world = World(random.Random(0))
        await world.prepare()
        async with world.actors:
            world.start("a")
            await asyncio.sleep(60.0)
            found = unfinished(world)
            assert not found, found
            await world.operators["a"].stop()
            await world.operators["a"].election.release()
            return Running(world.api.backup(), copy.deepcopy(dict(world.actors.disks)))

    return run_virtually(play)


async def _play(schedule: Schedule, chance: random.Random, begin: Running) -> None:
    world = World(chance)
    world.api.restore(begin.backup)
    world.actors.disks.update(copy.deepcopy(begin.disks))
    async with world.actors:
        for name in world.machines:
            world.start(name)
        await asyncio.sleep(10.0)
        plan: list[tuple[float, Callable[[], None], str]] = []
        for _ in range(chance.randint(2, 7)):
            trouble, machine = chance.choice(TROUBLES), chance.choice([*world.machines])
            plan.append(
                (
                    chance.uniform(0, 90),
                    lambda t=trouble, m=machine: t(world, world.machines[m]),
                    f"{trouble.__name__} {machine}",
                )
            )  # type: ignore[misc]
        for _ in range(chance.randint(1, 4)):
            request = chance.choice(REQUESTS)
            plan.append((chance.uniform(0, 100), lambda r=request: r(world), request.__name__))  # type: ignore[misc]
        start = virtual()
        for at, act, title in sorted(plan, key=lambda step: step[0]):
            await asyncio.sleep(max(0.0, start + at - virtual()))
            schedule.troubles.append(f"{virtual():.1f} {title}")
            act()
        await asyncio.sleep(start + TROUBLE_S - virtual())
        await asyncio.gather(*world.pending)
        for machine in world.machines.values():
            machine.stall_at = None
        for repair in world.repairs:
            repair()
        await asyncio.sleep(QUIET_S)
        schedule.missed = missing(world)
        schedule.late, schedule.twice = world.late, world.twice
        schedule.missed += [f"actors: {each}" for each in world.actors.violations]
        schedule.writes, schedule.terms = world.writes, len(world.terms)
        for operator in world.operators.values():
            await operator.stop()


def missing(world: World) -> list[str]:
    """What the leader does not know as it is, and what is not as users asked for."""
    leader = world.leader
    if leader is None or not leader.ports.mirror.synced:
        return ["there is no leader"]
    found = []
    for resource in WATCHED:
        known = {key: (uid, version) for uid, (key, version) in leader.ports.mirror.known_uids(resource.kind).items()}
        stored = {
            (body["metadata"].get("namespace"), body["metadata"]["name"]): (
                body["metadata"]["uid"],
                int(body["metadata"]["resourceVersion"]),
            )
            for body in world.api.select(resource.plural, None, resource.selector)
        }
        for key in sorted({*known, *stored}, key=str):
            if known.get(key) != stored.get(key):
                found.append(f"{resource.kind} {key}: {known.get(key)}, stored {stored.get(key)}")
    return found + unfinished(world)


def unfinished(world: World) -> list[str]:
    """Machines that do not run as the deployment asks for."""
    body = world.api.objects[DEPLOYMENT.plural, TEAM, "class"]
    ready = {each["type"]: each for each in body.get("status", {}).get("conditions", ())}.get("Ready", {})
    found = []
    if ready.get("status") != "True" or body["status"].get("observedGeneration") != body["metadata"]["generation"]:
        found.append(f"deployment: {ready.get('reason')} {ready.get('message')}")
    wanted = {
        names.machine_name("class", str(instance), f"m{machine}")
        for instance in range(1, body["spec"]["replicas"] + 1)
        for machine in range(2)
    }
    for plural in (MACHINE.plural, VMI.plural):
        here = {
            key[2]
            for key, one in world.api.objects.items()
            if key[0] == plural and not one["metadata"].get("deletionTimestamp")
        }
        if here != wanted:
            found.append(f"{plural}: {sorted(here ^ wanted)} differ")
    return found


def run_schedule(seed: int, number: int) -> Schedule:
    """One schedule."""
    schedule = Schedule(number)
    chance = random.Random(f"{seed}/{number}")
    try:
        begin = running()
        run_virtually(lambda: _play(schedule, chance, begin))
    except Exception as exc:
        schedule.error = f"{type(exc).__name__}: {exc}"
    return schedule


def campaign(seed: int, count: int, first: int = 0, seconds: float = float("inf")) -> dict[str, Any]:
    """Run schedules until ``count`` or ``seconds`` are reached; the result as JSON's types."""
    logging.disable(logging.ERROR)
    began = time.monotonic()
    done: list[Schedule] = []
    gc.disable()  # it takes a quarter of the time
    for number in range(first, first + count):
        if time.monotonic() - began > seconds:
            break
        done.append(run_schedule(seed, number))
        if number % 20 == 19:
            gc.collect()
        if number % 100 == 99:
            print(f"{len(done)} schedules, {sum(not one.holds for one in done)} failed", file=sys.stderr, flush=True)
    gc.enable()
    logging.disable(logging.NOTSET)
    troubles = Counter(step.split()[1] for one in done for step in one.troubles)
    failed = [one for one in done if not one.holds]
    return {
        "campaign": "leadership",
        "seed": seed,
        "schedules": len(done),
        "steps": dict(sorted(troubles.items())),
        "writes": sum(one.writes for one in done),
        "terms": sum(one.terms for one in done),
        "writesAfterTheLease": sum(len(one.late) for one in done),
        "objectsMissed": sum(len(one.missed) for one in done),
        "duplicateVms": sum(len(one.twice) for one in done),
        "seconds": round(time.monotonic() - began),
        "failed": len(failed),
        "failures": [vars(one) for one in failed[:10]],
        "holds": not failed,
    }


def main() -> None:
    """Runs one campaign; exit code 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first schedule, to repeat one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = campaign(options.seed, options.schedules, options.first)
    finish(result, result["holds"], options.json)


if __name__ == "__main__":
    main()
