"""Two nodes, each with its own kubelet, containerd, cache and virt-launchers: placement of instances, and node loss.

The second node joins the running cluster here; only the file that removes the cluster runs later.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.prepare import prepare
from demo.steps import PublishedExercise, wait_ready
from demo.targets import Target, install_kigi
from kigi.domain.names import API_VERSION
from localcluster import node
from localcluster.bounded import DOWNLOAD_S, QUICK_S, run
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.paths import cache_dir
from scenario import kubernetes
from tests.e2e.exercise import Exercise, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAMESPACE = "nodes"
FIRST, SECOND = "kigi-1", "kigi-2"
MACHINE = "mail1"
FRESH = "infected-fresh"
CLUSTER = 65536


@pytest.fixture(scope="module")
def target(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    cluster.up(nodes=2)
    cluster.load_kigi()
    found = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(found)
    eventually(lambda: len(found.get("nodecaches")["items"]) == 2, "both nodes' caches", 120)
    published = prepare(found, "tiny", NAMESPACE)
    found.apply(*kubernetes.system_nodes(published.manifest, NAMESPACE))
    publish_fresh(found, published, tmp_path_factory.mktemp("fresh"))
    yield found
    found.kubectl("delete", "systemdeployment", "--all", "-n", NAMESPACE, "--timeout=600s")
    found.kubectl("delete", "namespace", NAMESPACE, "--timeout=300s")


def publish_fresh(target: Target, published: PublishedExercise, directory: Path) -> None:
    """Publish a state with a random layer, which is in no cache whatever other tests have fetched."""
    image = f"{MACHINE}-infected"
    layers, disk = cache_dir() / "published", directory / "fresh.qcow2"
    below = layers / f"{published.digests[image].removeprefix('sha256:')}.qcow2"
    _output("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", disk)
    size = int(json.loads(_output("qemu-img", "info", "--output=json", disk))["virtual-size"])
    _output("qemu-io", "-c", f"write -P {os.urandom(1)[0] | 1} {size - CLUSTER} {CLUSTER - 512}", str(disk))
    publish = (
        "kigi.cli.main",
        "publish",
        str(disk),
        "--name",
        "fresh",
        "--parent",
        image,
        "--apply",
        "-n",
        NAMESPACE,
        "--backing-dir",
        str(layers),
    )
    run([sys.executable, "-m", *publish], timeout_s=DOWNLOAD_S, env={**os.environ, **target.environment})
    machines = [{"name": MACHINE, "rootDisk": {"imageRef": {"name": "fresh"}}}]
    spec = {"parentRef": {"name": "infected"}, "machines": machines}
    meta = {"name": FRESH, "namespace": NAMESPACE}
    target.apply({"apiVersion": API_VERSION, "kind": "SystemNode", "metadata": meta, "spec": spec})


def _output(*command: str | Path) -> str:
    return run(command, timeout_s=QUICK_S).stdout


def deploy(target: Target, name: str, replicas: int = 1, **placement: Any) -> dict[str, Any]:
    """Deploy the state with one running machine per instance, wait until it is Ready, and return the status."""
    machines = kubernetes.machines_on([MACHINE])
    names = [str(number + 1) for number in range(replicas)]
    target.apply(
        *(kubernetes.system_instance(one, name, NAMESPACE, machines=machines) for one in names),
        kubernetes.system_deployment(name, FRESH, NAMESPACE, powerState="Off", replicas=replicas, placement=placement),
    )
    return wait_ready(target, NAMESPACE, name)


def instances(target: Target, name: str) -> dict[str, dict[str, Any]]:
    """Name -> status of the deployment's instances."""
    found = target.get("systeminstances", "-n", NAMESPACE)["items"]
    return {one["spec"]["name"]: one["status"] for one in found if one["spec"]["deploymentRef"]["name"] == name}


def nodes_of(target: Target, name: str) -> list[set[str]]:
    """Nodes of each instance's machines."""
    return [set(status["nodeNames"]) for _, status in sorted(instances(target, name).items())]


def running_on(target: Target, name: str) -> list[str]:
    """Nodes of the deployment's VMIs, sorted."""
    selector = f"kigi.dev/deployment={name}"
    found = target.get("virtualmachineinstances", "-n", NAMESPACE, "-l", selector)["items"]
    return sorted(one["status"].get("nodeName", "") for one in found)


def exercise(cluster: Cluster, target: Target, name: str, instance: str = "1") -> Exercise:
    published = prepare(target, "tiny", NAMESPACE)
    return Exercise(cluster, target, published, deployment=name, instance_name=instance)


def test_an_instance_is_placed_where_its_layers_are_cached(cluster: Cluster, target: Target) -> None:
    """A node selector places the first instance on the second node; the next is free and follows the cache."""
    status = deploy(target, "warm", nodeSelector={"kubernetes.io/hostname": SECOND})
    assert nodes_of(target, "warm") == [{SECOND}]
    assert status["plan"]["missingBytes"] > 0
    status = deploy(target, "near")
    assert nodes_of(target, "near") == [{SECOND}]
    assert status["plan"]["missingBytes"] == 0
    assert SECOND in instances(target, "near")["1"]["placement"]
    assert running_on(target, "near") == [SECOND]
    exercise(cluster, target, "near").report(MACHINE, machine=MACHINE, boot="1")


def test_after_a_prefetch_to_the_other_node_a_deployment_there_moves_no_data(target: Target) -> None:
    spec = {
        "targetRefs": [{"kind": "SystemNode", "name": FRESH}],
        "nodes": {"names": [FIRST, SECOND]},
        "parallelism": 1,
    }
    meta = {"name": "both", "namespace": NAMESPACE}
    target.apply({"apiVersion": API_VERSION, "kind": "SystemPrefetch", "metadata": meta, "spec": spec})
    target.kubectl("wait", "--for=condition=Ready", "systemprefetch/both", "-n", NAMESPACE, "--timeout=120s")
    status = target.get("systemprefetch", "both", "-n", NAMESPACE)["status"]
    assert (status["desiredNodes"], status["readyNodes"], status.get("unreadyNodes", [])) == (2, 2, [])
    assert 0 < status["missingBytes"] < status["nodeBytes"], "the second node had it, the first all but one layer"
    status = deploy(target, "there", nodeSelector={"kubernetes.io/hostname": FIRST})
    assert (nodes_of(target, "there"), status["plan"]["missingBytes"]) == ([{FIRST}], 0)
    assert running_on(target, "there") == [FIRST]
    target.kubectl("delete", "systemprefetch/both", "systemdeployment/there", "-n", NAMESPACE, "--timeout=600s")


def test_spread_puts_instances_on_both_nodes(cluster: Cluster, target: Target) -> None:
    target.kubectl("delete", "systemdeployment", "warm", "near", "-n", NAMESPACE, "--timeout=600s")
    deploy(target, "spread", replicas=2, strategy="Spread")
    assert sorted(nodes_of(target, "spread"), key=sorted) == [{FIRST}, {SECOND}]
    assert running_on(target, "spread") == [FIRST, SECOND]
    for instance in ("1", "2"):
        exercise(cluster, target, "spread", instance).report(MACHINE, machine=MACHINE, boot="1")


def test_a_lost_node_is_reported_and_replaced_when_its_object_is_deleted(cluster: Cluster, target: Target) -> None:
    """The instance on the other node keeps running; the lost instance gets a fresh disk there."""
    (lost,) = (name for name, status in instances(target, "spread").items() if status["nodeNames"] == [SECOND])
    (other,) = {"1", "2"} - {lost}
    kept = f"spread-{other}-{MACHINE}"
    uid = target.get("virtualmachineinstance", kept, "-n", NAMESPACE)["metadata"]["uid"]
    (stopped,) = (one for one in cluster.nodes() if one.name == SECOND)
    node.stop(stopped.directory)

    def reported() -> bool:
        conditions = target.get("systemdeployment", "spread", "-n", NAMESPACE)["status"]["conditions"]
        return any(
            c["type"] == "Placed" and c["reason"] == "NodeNotReady" and SECOND in c["message"] for c in conditions
        )

    eventually(reported, "the lost node in the status", 300)
    assert target.get("virtualmachineinstance", kept, "-n", NAMESPACE)["metadata"]["uid"] == uid
    target.kubectl("delete", "node", SECOND, "--timeout=60s")
    target.kubectl("delete", "nodecache", SECOND, "--timeout=60s")  # its disks are given up now, and not in ten minutes
    # KubeVirt ends a VMI when its launcher's pod is gone; Kubernetes' garbage collector deletes that pod.
    wait_ready(target, NAMESPACE, "spread")
    assert nodes_of(target, "spread") == [{FIRST}, {FIRST}]
    assert target.get("virtualmachineinstance", kept, "-n", NAMESPACE)["metadata"]["uid"] == uid
    exercise(cluster, target, "spread", lost).report(MACHINE, machine=MACHINE, boot="1")
    caches = {one["metadata"]["name"] for one in target.get("nodecaches")["items"]}
    assert caches == {FIRST}
