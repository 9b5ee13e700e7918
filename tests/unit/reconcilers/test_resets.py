"""The reconcile of a SystemReset: its report by what the mirror has, its end, and its deletion after its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kigi.domain.images import Image
from kigi.gather.instance import gather_instance
from kigi.mirror.keys import Key
from kigi.mirror.triggers import all_keys, enqueue_requests
from kigi.planning.instance import plan_instance
from kigi.reconcilers.resets import RECHECK_S, reconcile_reset
from kigi.runtime.ports import Ports
from tests.support.bodies import (
    GIB,
    NAME,
    NS,
    cache_body,
    chain_of,
    csi_node_body,
    deployment_body,
    image_body,
    instance_body,
    machine_item,
    node_body,
    reset_body,
    system_body,
    target,
    volume_body,
)
from tests.support.mirrors import new_mirror

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
KEY = Key("reset", NS, "lunch")
STAMP = "%Y-%m-%dT%H:%M:%SZ"


class Operator:
    """Ports with a real mirror: one deployment of two instances whose disks are a day old."""

    def __init__(self, **spec: Any) -> None:
        self.kube = self
        self.mirror = new_mirror()
        self.settings = SimpleNamespace(identity="test")
        self.events = SimpleNamespace(allows=lambda uid: False)
        self.time = NOON
        self.deleted: list[str] = []
        self.versions = 10
        for body in (node_body(), csi_node_body(), cache_body()):
            self.mirror.put(body["kind"], body)
        self.mirror.heartbeats.assume("n1")
        self.mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
        self.mirror.put("SystemNode", system_body("a", [machine_item("m", "top")]))
        self.body = reset_body(created=NOON.strftime(STAMP), **spec)
        self.deployment()
        for instance in ("0", "1"):
            self.report(instance)
            self.disk(instance, 1, NOON - timedelta(days=1))

    def version(self) -> str:
        self.versions += 1
        return str(self.versions)

    def deployment(self, **spec: Any) -> None:
        body = deployment_body(**{"replicas": 2, **spec})
        body["metadata"] |= {"resourceVersion": self.version(), "creationTimestamp": "2027-01-01T00:00:00Z"}
        self.mirror.put("SystemDeployment", body)

    def report(self, name: str, revision: int = 1, state: str = "Running") -> set[Key]:
        """The instance with a report on its machine; the keys that it enqueues."""
        body = instance_body(name)
        body["status"] = {"machines": [{"name": "m", "revision": revision, "state": state}], "conditions": []}
        body["metadata"] |= {"resourceVersion": self.version(), "creationTimestamp": "2027-01-01T00:00:00Z"}
        change = self.mirror.put("SystemInstance", body)
        return {key for key, _ in enqueue_requests(self.mirror, change)} if change is not None else set()

    def disk(self, instance: str, revision: int, made: datetime) -> None:
        body = volume_body(target(instance=instance), revision)
        body["metadata"] |= {"creationTimestamp": made.strftime(STAMP), "resourceVersion": self.version()}
        self.mirror.put("PersistentVolume", body)

    def put(self, **fields: Any) -> Any:
        """A change of the request; the keys that it enqueues."""
        self.body = {**self.body, **fields}
        self.body["metadata"] = {**self.body["metadata"], "resourceVersion": self.version()}
        change = self.mirror.put("SystemReset", self.body)
        return {key for key, _ in enqueue_requests(self.mirror, change)} if change is not None else set()

    def now(self) -> datetime:
        return self.time

    def see(self, kind: str, body: Any) -> None:
        """The mirror has it already."""

    def see_gone(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self.mirror.gone(kind, namespace, name, uid)

    async def write_status(self, resource: Any, namespace: str, name: str, uid: str, status: Any, *, old: Any) -> Any:
        assert self.put(status=status) == set(), "a report enqueues nothing"
        return self.body

    async def delete(self, resource: Any, namespace: str, name: str, *, uid: str) -> None:
        self.deleted.append(uid)

    async def reconcile(self) -> float | None:
        return await reconcile_reset(cast(Ports, self), KEY)

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(each for each in self.body["status"]["conditions"] if each["type"] == kind)
        return found["status"], found["reason"]

    def wanted(self) -> list[bool]:
        """Whether the plan replaces each machine's disk."""
        views = [gather_instance(self.mirror, record, self.time) for record in self.mirror.instances]
        return [placed.is_new for view in views for placed in plan_instance(view).placed]


async def test_a_request_is_carried_out_and_reported_until_it_is_complete() -> None:
    operator = Operator(instances=["1"])
    assert operator.put() == {KEY, Key("instance", NS, "dep-1")}, "only its target"
    assert operator.wanted() == [False, True]
    assert await operator.reconcile() == RECHECK_S
    assert operator.condition("Accepted") == ("True", "Accepted")
    assert (operator.body["status"]["targets"], operator.body["status"]["summary"]) == (1, "0/1")
    operator.disk("1", 2, NOON + timedelta(seconds=2))
    operator.report("1", 1)
    await operator.reconcile()
    assert operator.condition("Complete") == ("False", "MachinesStarting"), "the report is about the former disk"
    assert operator.body["status"]["missingBytes"] == chain_of("top")[0].size_bytes
    assert KEY in operator.report("1", 2)
    assert await operator.reconcile() is None
    assert operator.condition("Complete") == ("True", "ResetComplete")
    assert operator.wanted() == [False, False]
    operator.report("1", 3, "Starting")
    operator.disk("1", 3, NOON + timedelta(hours=1))
    await operator.reconcile()
    assert operator.condition("Complete") == ("True", "ResetComplete"), "it stays, whatever happens later"


async def test_a_lost_status_of_a_finished_request_is_found_again_and_resets_nothing() -> None:
    operator = Operator()
    for instance in ("0", "1"):
        operator.disk(instance, 2, NOON + timedelta(seconds=2))
    operator.report("0", 2)
    operator.report("1", 2, "Stopped")
    operator.put(status={})
    assert operator.wanted() == [False, False]
    await operator.reconcile()
    assert operator.condition("Complete") == ("True", "ResetComplete")


async def test_a_refused_request_ends_after_a_minute_and_resets_nothing_even_if_its_names_appear() -> None:
    operator = Operator(instances=["1", "7"])
    operator.put()
    assert operator.wanted() == [False, False]
    assert await operator.reconcile() == 60
    assert operator.condition("Stalled") == ("True", "DeploymentMissing")
    assert operator.condition("Failed")[0] == "False"
    operator.time += timedelta(seconds=61)
    assert await operator.reconcile() is None
    assert operator.condition("Failed") == ("True", "DeploymentMissing")


async def test_a_request_that_is_being_deleted_asks_for_nothing() -> None:
    operator = Operator()
    operator.body["metadata"]["deletionTimestamp"] = "2027-03-01T12:00:01Z"
    operator.put()
    assert operator.wanted() == [False, False]
    assert await operator.reconcile() is None


async def test_an_invalid_request_is_reported() -> None:
    operator = Operator()
    operator.put(spec={"deploymentRef": {"name": NAME}})
    assert operator.wanted() == [False, False]
    await operator.reconcile()
    assert operator.condition("Stalled") == ("True", "SpecInvalid")


async def test_a_finished_request_is_deleted_after_its_time_which_may_change() -> None:
    operator = Operator(instances=[], ttlSecondsAfterFinished=3600)
    operator.deployment(replicas=0)
    operator.put()
    assert await operator.reconcile() == 3600
    operator.time += timedelta(seconds=600)
    assert await operator.reconcile() == 3000
    operator.body["spec"]["ttlSecondsAfterFinished"] = 300
    operator.body["metadata"] |= {"generation": 2}
    assert operator.put() == {KEY}, "the targets are not concerned"
    assert await operator.reconcile() is None
    assert operator.deleted == [operator.body["metadata"]["uid"]]
    assert operator.body["status"]["observedGeneration"] == 2
    assert await operator.reconcile() is None


@pytest.mark.parametrize("ttl", [None, 60])
async def test_a_request_that_has_not_ended_is_never_deleted(ttl: int | None) -> None:
    operator = Operator(**({"ttlSecondsAfterFinished": ttl} if ttl else {}))
    operator.put()
    for _ in range(5):
        operator.time += timedelta(hours=1)
        assert await operator.reconcile() == RECHECK_S
    assert operator.deleted == []


async def test_a_report_follows_its_own_machines_and_a_finished_one_none() -> None:
    operator = Operator(instances=["1"])
    operator.put()
    assert KEY in all_keys(operator.mirror)

    def enqueued(instance: str) -> bool:
        body = volume_body(target(instance=instance), 2)
        body["metadata"] |= {"resourceVersion": operator.version(), "creationTimestamp": "2027-03-01T12:00:02Z"}
        change = operator.mirror.put("PersistentVolume", body)
        assert change is not None
        found = KEY in {key for key, _ in enqueue_requests(operator.mirror, change)}
        operator.mirror.gone("PersistentVolume", None, body["metadata"]["name"], "")
        return found

    assert [enqueued("0"), enqueued("1")] == [False, True]
    operator.put(status={"observedGeneration": 1, "conditions": [], "completionTime": "2027-03-01T12:00:09Z"})
    assert not enqueued("1")
