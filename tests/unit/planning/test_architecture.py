"""Machines run on nodes of their images' architecture."""

from __future__ import annotations

from dataclasses import replace

from kigi.domain.guests import Guest
from kigi.planning.candidates import ARCHITECTURE_LABEL
from kigi.planning.instance import plan_instance
from kigi.planning.steps import ApplyObject
from kigi.planning.targets import machine_targets
from kigi.planning.view import InstanceView
from kigi.planning.vm_manifest import VmSettings, build_machine
from tests.support.bodies import OWNER, placed
from tests.support.worlds import World, deployment_spec


def world() -> World:
    """State a, whose machine web is for arm64 and whose machine db runs anywhere."""
    w = World(deployment_spec("a"))
    w.images["web"] = replace(w.images["web"], guest=Guest("arm64"))
    return w


def on_nodes(view: InstanceView, **architectures: str) -> InstanceView:
    labelled = {
        name: replace(state, labels={ARCHITECTURE_LABEL: architectures[name]}) if name in architectures else state
        for name, state in view.nodes.items()
    }
    return replace(view, nodes=labelled)


def volumes(view: InstanceView) -> dict[str, str]:
    """Machine -> node of the volumes that the plan makes."""
    made = [step.manifest for step in plan_instance(view).steps if isinstance(step, ApplyObject)]
    return {
        each["metadata"]["labels"]["kigi.dev/machine"]: each["spec"]["csi"]["volumeAttributes"]["node"]
        for each in made
        if each["kind"] == "PersistentVolume"
    }


def test_a_machine_without_a_node_of_its_architecture_waits_and_stops_no_other() -> None:
    w = world()
    plan = plan_instance(w.view())
    assert plan.error is not None
    assert plan.error.reason == "NoNode"
    words = (
        "machine web of instance 0: its image is for arm64, and no node that can take disks has the label kubernetes"
    )
    assert words in str(plan.error)
    assert set(volumes(w.view())) == {"db"}


def test_a_machine_is_placed_on_a_node_of_its_architecture() -> None:
    w = world()
    first, *others = sorted(w.view().nodes)
    view = on_nodes(w.view(), **{first: "amd64"}, **dict.fromkeys(others, "arm64"))
    assert plan_instance(view).error is None
    assert volumes(view)["web"] in others


def test_the_vm_names_its_architecture_and_a_vm_without_one_has_no_such_field() -> None:
    for target in machine_targets(world().view()):
        spec = build_machine(OWNER, placed(target), VmSettings(world().view().spec.placement, "Plugin", "", True))
        assert spec["spec"]["template"]["spec"].get("architecture") == {"web": "arm64", "db": None}[target.machine]


def test_an_architecture_that_is_set_later_restarts_no_vm() -> None:
    before, after = World(deployment_spec("a")), world()
    hashes = [{t.machine: t.blueprint.hardware_hash for t in machine_targets(w.view())} for w in (before, after)]
    assert hashes[0] == hashes[1]
