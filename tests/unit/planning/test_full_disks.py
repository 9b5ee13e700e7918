"""VMs that fill the disk of their node are paused, and no others, whatever a daemon reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kigi.domain.images import Image
from kigi.gather.node_cache import gather_node
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.mirror.triggers import enqueue_requests
from kigi.planning.instance import plan_instance
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.steps import PauseMachine
from kigi.planning.view import RunningMachine
from tests.support.bodies import (
    GIB,
    NAME,
    NS,
    cache_body,
    chain_of,
    deployment_body,
    image_body,
    instance_body,
    node_body,
    system_body,
    target,
    vmi_body,
    volume_body,
)
from tests.support.mirrors import new_mirror
from tests.support.worlds import World, deployment_spec

HANDLE = volume_body(target())["spec"]["csi"]["volumeHandle"]
VM = RunningMachine(NS, f"{NAME}-0-m", "m")


def vmi(node: str = "n1", phase: str = "Running", *, paused: bool = False, version: int = 1) -> dict[str, object]:
    body = vmi_body(target(), version=version)
    conditions = [{"type": "Paused", "status": "True"}] if paused else []
    return body | {"status": {"phase": phase, "nodeName": node, "conditions": conditions}}


@pytest.fixture
def mirror() -> Mirror:
    mirror = new_mirror()
    mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
    mirror.put("SystemNode", system_body("a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}}]))
    mirror.put("SystemDeployment", deployment_body())
    mirror.put("SystemInstance", instance_body())
    mirror.put("Node", node_body())
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("NodeCache", cache_body(filling=(HANDLE,)))
    mirror.put("VirtualMachineInstance", vmi())
    return mirror


def test_a_machine_that_fills_the_disk_is_paused_before_everything_else(mirror: Mirror) -> None:
    view = gather_node(mirror, "n1")
    assert view.filling == (VM,)
    plan = plan_node_cache(replace(view, has_driver=True))
    assert plan.steps[0] == PauseMachine(VM.namespace, VM.name, VM.machine)
    assert plan.retry_after_s is not None, "a capture may resume it meanwhile"


@pytest.mark.parametrize(
    "body", [vmi(paused=True, version=2), vmi(phase="Succeeded", version=2)], ids=["paused", "ended"]
)
def test_one_that_does_not_run_is_left_alone(mirror: Mirror, body: dict[str, object]) -> None:
    mirror.put("VirtualMachineInstance", body)
    assert gather_node(mirror, "n1").filling == ()
    assert plan_node_cache(gather_node(mirror, "n1")).retry_after_s is None


def test_a_daemon_stops_no_vm_of_another_node(mirror: Mirror) -> None:
    mirror.put("Node", node_body("n2"))
    mirror.put("NodeCache", cache_body("n2", filling=(HANDLE,)))
    assert gather_node(mirror, "n2").filling == (), "the volume is on n1"
    mirror.put("VirtualMachineInstance", vmi(node="n2", version=2))
    assert gather_node(mirror, "n1").filling == (), "the VM does not run there"


def test_a_report_enqueues_the_node_and_its_instances(mirror: Mirror) -> None:
    change = mirror.put("NodeCache", cache_body(version=2))
    assert change is not None
    keys = {key for key, _ in enqueue_requests(mirror, change)}
    assert {Key("node", "", "n1"), Key("instance", NS, f"{NAME}-0")} <= keys


def test_the_machine_of_any_of_the_disks_counts() -> None:
    w = World(deployment_spec("b"))
    w.settle()
    view = w.view()
    data = next(volume for volume in view.volumes if volume.disk == "data")
    state = replace(view.nodes[data.node], filling=frozenset({data.handle}))
    full = replace(view, nodes={**view.nodes, data.node: state})
    assert {one.target.machine for one in plan_instance(full).placed if one.fills_disk} == {"db"}
