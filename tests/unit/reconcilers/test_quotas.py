"""SystemQuotas: amounts of each namespace, and limits that plans read."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from kigi.domain.images import Image
from kigi.gather.quotas import gather_allowance
from kigi.mirror.default_quota import SPACE_AGE_S, DefaultQuota
from kigi.mirror.keys import Key
from kigi.mirror.triggers import enqueue_requests
from kigi.planning.prefetch_orders import PrefetchOrders
from kigi.reconcilers.quotas import RECOUNT_S, reconcile_quota
from tests.support.bodies import (
    GIB,
    NS,
    cache_body,
    chain_of,
    image_body,
    namespace_body,
    target,
    volume_body,
    with_meta,
)
from tests.support.memory_api import MemoryApi, memory_ports

LAB = {"matchLabels": {"tenant": "lab"}}


class Cluster:
    """A namespace of the tenant lab with one disk, and one that is none of its."""

    def __init__(self) -> None:
        self.api = MemoryApi()
        self.ports = memory_ports(self.api)
        self.mirror = self.ports.mirror
        self.mirror.put("Namespace", namespace_body(tenant="lab"))
        self.mirror.put("Namespace", namespace_body("elsewhere"))
        self.mirror.put("Namespace", namespace_body("other", tenant="lab"))
        self.mirror.put("PersistentVolume", volume_body(target()))
        self.size_bytes = sum(layer.size_bytes for layer in chain_of("top"))

    def quota(self, name: str = "lab", *, hard: dict[str, Any] | None = None, **spec: Any) -> None:
        described = {"namespaceSelector": LAB, "hard": hard or {"machines": 5}, **spec}
        body = self.api.put({"kind": "SystemQuota", "metadata": {"name": name, "generation": 1}, "spec": described})
        self.mirror.put("SystemQuota", body)

    def prefetch(self, *nodes: str, retention: str = "Pinned") -> None:
        self.mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
        spec = {"targetRefs": [{"kind": "VMImageNode", "name": "top"}], "retention": retention}
        body = {"kind": "SystemPrefetch", "metadata": {"name": "monday", "namespace": NS}, "spec": spec}
        self.mirror.put("SystemPrefetch", with_meta(body, 1, "uid-p"))
        self.mirror.prefetch_orders[NS, "monday"] = PrefetchOrders("uid-p", 1, frozenset(nodes))

    async def status(self, name: str = "lab") -> dict[str, Any]:
        assert await reconcile_quota(self.ports, Key("quota", "", name)) == RECOUNT_S
        status: dict[str, Any] = self.api.objects["SystemQuota", None, name]["status"]
        return status


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_the_status_has_what_each_selected_namespace_uses(cluster: Cluster) -> None:
    cluster.quota()
    cluster.prefetch("n1", "n2")
    status = await cluster.status()
    (only,) = status["namespaces"]
    assert (status["namespaceCount"], only["name"]) == (2, NS)
    assert only["used"] == {
        "wantedBytes": cluster.size_bytes,
        "prefetchedBytes": 200,
        "pinnedBytes": 200,
        "overlayBytes": 0,
        "instances": 1,
        "machines": 1,
    }
    assert [c["reason"] for c in status["conditions"] if c["type"] == "Ready"] == ["Counted"]


def test_overlays_count_as_the_nodes_report_them_and_no_more_than_fits_into_the_disks(cluster: Cluster) -> None:
    cluster.quota(hard={"overlayBytes": "1Gi"})

    def reported(size_bytes: int, node: str = "n1") -> int:
        body = cache_body(node, version=next(versions))
        body["status"]["namespaces"] = [{"name": NS, "overlayBytes": size_bytes}]
        cluster.mirror.put("NodeCache", body)
        return gather_allowance(cluster.mirror, NS).used.overlay_bytes

    virtual_bytes = chain_of("top")[-1].virtual_size_bytes
    versions = itertools.count(1)
    assert gather_allowance(cluster.mirror, NS).used.overlay_bytes == 0
    assert reported(4096) == 4096
    assert reported(10**15) == 2 * virtual_bytes, "a stolen node stops no namespace for ever"
    assert reported(-(10**15)) == 0
    assert reported(4096, node="n2") == 0, "it has no disk there"


async def test_a_namespace_above_a_limit_is_named_to_the_administrator(cluster: Cluster) -> None:
    cluster.quota(hard={"machines": 0, "instances": 9})
    messages = {c["message"] for c in (await cluster.status())["conditions"]}
    assert messages == {f"2 namespaces, 1 of them use something; above a limit: {NS}: machines"}
    cluster.quota("all", hard={"machines": 0}, scope="Shared", namespaceSelector={})
    messages = {c["message"] for c in (await cluster.status("all"))["conditions"]}
    assert messages == {"3 namespaces, 1 of them use something; together above the limit of machines"}


async def test_a_stored_spec_that_does_not_validate_is_reported_and_limits_nothing(cluster: Cluster) -> None:
    cluster.quota(hard={"machines": "many"})
    assert await reconcile_quota(cluster.ports, Key("quota", "", "lab")) is None
    conditions = cluster.api.objects["SystemQuota", None, "lab"]["status"]["conditions"]
    assert {(c["type"], c["reason"]) for c in conditions if c["status"] == "True"} == {("Stalled", "SpecInvalid")}
    assert gather_allowance(cluster.mirror, NS).limits == ()


def test_only_quotas_that_select_the_namespace_count(cluster: Cluster) -> None:
    cluster.quota(hard={"machines": 5})
    cluster.quota("all", hard={"wantedBytes": "1Ti"}, namespaceSelector={}, scope="Shared")
    found = gather_allowance(cluster.mirror, NS)
    assert [(limit.quota, dict(limit.hard), limit.shared) for limit in found.limits] == [
        ("all", {"wanted_bytes": 2**40}, True),
        ("lab", {"machines": 5}, False),
    ]
    assert (found.used.machines, found.used.wanted_bytes) == (1, cluster.size_bytes)
    elsewhere = gather_allowance(cluster.mirror, "elsewhere")
    assert [limit.quota for limit in elsewhere.limits] == ["all"]
    assert elsewhere.limits[0].others.wanted_bytes == cluster.size_bytes
    assert elsewhere.used.machines == 0


def test_a_namespace_without_a_quota_has_the_default_limits(cluster: Cluster) -> None:
    now_s = 0.0
    cluster.mirror.default_quota = DefaultQuota(cluster.mirror.caches, lambda: now_s)
    assert gather_allowance(cluster.mirror, NS).limits == (), "no node has reported its space"
    for node in ("n1", "n2"):
        body = cache_body(node, version=7)
        body["status"] |= {"budgetBytes": 1000, "usedBytes": 300, "freeBytes": 500}
        body["status"]["namespaces"] = [{"name": "elsewhere", "overlayBytes": 200}]
        cluster.mirror.put("NodeCache", body)
    hard = {"wanted_bytes": 1500, "prefetched_bytes": 1000, "overlay_bytes": 1500}
    for namespace in (NS, "elsewhere"):
        (limit,) = gather_allowance(cluster.mirror, namespace).limits
        assert (limit.quota, limit.hard) == ("", hard)
    assert gather_allowance(cluster.mirror, NS).used.machines == 1, "what exists is counted"
    body = cache_body("n3", version=8)
    body["status"] |= {"budgetBytes": 1000, "usedBytes": 300, "freeBytes": 700}
    cluster.mirror.put("NodeCache", body)
    now_s += SPACE_AGE_S
    (limit,) = gather_allowance(cluster.mirror, NS).limits
    assert limit.hard["wanted_bytes"] == 2250, "the limits grow with the cluster"
    cluster.quota(hard={"machines": 5})
    assert [limit.quota for limit in gather_allowance(cluster.mirror, NS).limits] == ["lab"], "it replaces all of them"
    assert [limit.quota for limit in gather_allowance(cluster.mirror, "elsewhere").limits] == [""]
    cluster.mirror.knows_settings = False
    assert gather_allowance(cluster.mirror, "elsewhere").limits == (), "there may be one that this user may not read"


def test_a_prefetch_does_not_count_against_itself(cluster: Cluster) -> None:
    cluster.quota(hard={"prefetchedBytes": 0})
    cluster.prefetch("n1", retention="Evictable")
    assert gather_allowance(cluster.mirror, NS).used.prefetched_bytes == 100
    assert gather_allowance(cluster.mirror, NS, without="monday").used.prefetched_bytes == 0
    assert gather_allowance(cluster.mirror, NS).used.pinned_bytes == 0


def test_a_changed_quota_enqueues_what_it_may_have_refused(cluster: Cluster) -> None:
    cluster.prefetch("n1")
    body = {"kind": "SystemQuota", "metadata": {"name": "lab", "generation": 1}, "spec": {}}
    change = cluster.mirror.put("SystemQuota", cluster.api.put(body))
    assert change is not None
    keys = {key for key, _ in enqueue_requests(cluster.mirror, change)}
    assert keys == {Key("quota", "", "lab"), Key("prefetch", NS, "monday")}


def test_a_volume_enqueues_the_quotas(cluster: Cluster) -> None:
    cluster.quota()
    change = cluster.mirror.put("PersistentVolume", volume_body(target("other")))
    assert change is not None
    assert Key("quota", "", "lab") in {key for key, _ in enqueue_requests(cluster.mirror, change)}
