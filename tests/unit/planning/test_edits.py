"""An edit of a state waits for the machine's next reset; until then its disks and its VM stay as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.instance import SystemInstanceStatus
from kigi.domain import names
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.kubevirt import KubeVirtState
from kigi.planning.instance import plan_instance
from kigi.planning.steps import ApplyObject, PatchObject, RestartMachine
from kigi.status.instance import instance_status
from tests.support.worlds import Vm, World, deployment_spec, digest

WEB = "dep-0-web"


def settled(system: str = "a", **fields: Any) -> World:
    w = World(deployment_spec(system, **fields))
    w.settle()
    return w


def runs(w: World) -> tuple[dict[str, str], dict[tuple[str, str], int]]:
    """What must not change: uid of each VMI, and the time at which each disk was made."""
    return {name: vmi.uid for name, vmi in w.vmis.items()}, w.overlay_times()


def status(w: World) -> SystemInstanceStatus:
    return instance_status(w.view(), w.plan_of("0"))


def condition(w: World, kind: str) -> tuple[str, str, str]:
    return next((c.status, c.reason, c.message) for c in status(w).conditions if c.type == kind)


def memory(w: World, vm: str = WEB) -> Any:
    return w.vms[vm].manifest["spec"]["template"]["spec"]["domain"]["memory"]


def image_of(w: World, slot: tuple[str, str] = ("0", "web")) -> str:
    volume = max((v for v in w.view().volumes if v.slot == slot and not v.disk), key=lambda v: v.revision)
    return volume.chain[-1].digest


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda w: w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}}), id="hardware"),
        pytest.param(lambda w: w.edit_image("a", "web", "web-b"), id="image"),
        pytest.param(lambda w: w.edit_disk("a", "web", "data", "data"), id="further-disk"),
    ],
)
def test_an_edit_disturbs_nothing_until_the_machine_is_reset(edit: Any) -> None:
    w = settled(replicas=2)
    before = runs(w)
    edit(w)
    assert {type(step) for step in w.plan().steps} <= {PatchObject}
    w.settle()
    assert runs(w) == before
    assert w.older() == {("0", "web"), ("1", "web")}
    w.change(resetToken="now")
    w.settle()
    w.check_settled()
    assert w.older() == set()
    assert runs(w)[1].keys() == before[1].keys()
    assert not set(runs(w)[1].values()) & set(before[1].values())


def test_an_edited_state_is_reported_and_the_deployment_stays_ready() -> None:
    w = settled(replicas=2)
    assert condition(w, "Updated")[:2] == ("True", "ContentCurrent")
    w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    assert condition(w, "Updated") == (
        "False",
        "EditsWait",
        "1 of 2 machines run the present content of SystemNode a; web run older content until their next reset "
        "(spec.updateStrategy.onEdit)",
    )
    assert condition(w, "Ready")[0] == "True"


def test_an_edit_that_is_taken_back_leaves_everything_as_it_was() -> None:
    w = settled()
    before = runs(w)
    w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    w.edit("a", "web", hardware={})
    w.settle()
    assert (runs(w), w.older()) == (before, set())


def test_an_edit_of_an_ancestor_waits_too() -> None:
    w = settled("b")
    before = runs(w)
    w.edit("a", "db", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    assert runs(w) == before
    assert w.older() == {("0", "db")}


def test_a_machine_that_an_edit_adds_comes_at_once() -> None:
    w = settled()
    before = runs(w)
    w.edit_image("a", "new", "extra")
    w.settle()
    w.check_settled()
    assert before[0].items() <= runs(w)[0].items()
    assert "dep-0-new" in w.vmis


def test_a_machine_that_an_edit_removes_goes_with_the_reset_of_its_instance() -> None:
    w = settled("c", replicas=2)
    before = runs(w)
    w.edit_away("c", "extra")
    w.settle()
    w.check_settled()
    assert runs(w) == before
    assert {"dep-0-extra", "dep-1-extra"} <= w.vmis.keys()
    assert condition(w, "Updated")[0] == "False"
    w.change(resetToken="now")
    w.settle()
    w.check_settled()
    assert not {"dep-0-extra", "dep-1-extra"} & w.vms.keys()


def test_a_removed_machine_obeys_its_instance_and_goes_with_its_vm() -> None:
    w = settled("c")
    w.edit_away("c", "extra")
    w.change(powerState="Off")
    w.settle()
    assert w.vmis == {}
    assert not w.vms["dep-0-extra"].running
    w.vms["dep-0-extra"].deleting = True
    w.settle()
    w.check_settled()
    assert "dep-0-extra" not in w.vms


def test_settings_of_a_machine_that_an_edit_removed_hold_until_it_goes() -> None:
    w = settled("c")
    w.change_instance("0", machines=[{"name": "extra", "powerState": "Off"}])
    w.edit_away("c", "extra")
    w.settle()
    w.check_settled()
    assert not w.vms["dep-0-extra"].running
    assert w.plan_of("0").error is None
    w.change(resetToken="now")
    error = w.plan_of("0").error
    assert error is None, "until the machine is gone"
    w.settle()
    error = w.plan_of("0").error
    assert error is not None
    assert error.reason == "MachineUnknown"


@pytest.mark.parametrize("onto", ["b", "c"])
def test_a_switch_removes_and_replaces_as_without_the_edit(onto: str) -> None:
    w = settled("a")
    w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}})
    w.edit_image("a", "new", "extra")
    w.settle()
    w.edit_away("a", "new")
    w.settle()
    assert w.older() == {("0", "web"), ("0", "new")}
    w.change(systemRef={"name": onto})
    w.settle()
    w.check_settled()
    assert w.older() == set()
    assert "dep-0-new" not in w.vms


def test_a_vm_that_is_off_and_on_again_has_the_hardware_and_the_disk_that_it_had() -> None:
    w = settled()
    made = w.overlay_times()
    w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}})
    w.edit_image("a", "web", "web-b")
    w.change(powerState="Off")
    w.settle()
    w.change(powerState="On")
    w.settle()
    assert w.overlay_times() == made
    assert memory(w) == {"guest": "512Mi"}
    assert image_of(w) == digest("web")


def test_a_disk_that_is_lost_with_its_node_is_renewed_with_the_present_content() -> None:
    w = settled()
    w.edit_image("a", "web", "web-b")
    w.settle()
    w.lose_node(next(volume.node for volume in w.view().volumes))
    w.settle()
    w.check_settled()
    assert image_of(w) == digest("web-b")
    assert w.older() == set()


def test_a_vm_that_was_deleted_comes_back_on_its_disk_with_the_present_hardware() -> None:
    w = settled()
    made = w.overlay_times()
    w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}})
    w.edit_image("a", "web", "web-b")
    w.edit_disk("a", "web", "data", "data")
    w.settle()
    w.vms[WEB].deleting = True
    w.settle()
    w.check_settled()
    assert (w.overlay_times(), memory(w), image_of(w)) == (made, {"guest": "2Gi"}, digest("web"))
    assert len(w.vms[WEB].claims) == 1
    assert w.older() == {("0", "web")}


def test_a_disk_that_no_vm_uses_yet_is_replaced() -> None:
    w = settled()
    w.change(resetToken="now")
    for step in w.plan().steps:  # the new disks exist, and the VMs still name the old ones
        if isinstance(step, ApplyObject) and step.manifest["kind"] != "VirtualMachine":
            w.apply(step)
    w.edit_image("a", "web", "web-b")
    w.settle()
    w.check_settled()
    assert image_of(w) == digest("web-b")
    assert w.older() == set()


def test_a_disk_whose_further_disk_is_gone_is_replaced() -> None:
    w = settled("b")
    w.edit("b", "db", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    view = w.view()
    lost = next(v for v in view.volumes if v.disk == "logs")
    plan = plan_instance(replace(view, volumes=tuple(v for v in view.volumes if v is not lost)))
    assert [placed.is_new for placed in plan.placed if placed.target.machine == "db"] == [True]


def test_immediate_replaces_and_restarts_at_once() -> None:
    w = settled(updateStrategy={"onEdit": "Immediate"})
    made = w.overlay_times()
    w.edit("a", "db", hardware={"memory": {"guest": "2Gi"}})
    w.edit_image("a", "web", "web-b")
    assert not w.older()
    w.settle()
    w.check_settled()
    assert w.overlay_times()["0", "db"] == made["0", "db"]
    assert memory(w, "dep-0-db") == {"guest": "2Gi"}
    assert image_of(w) == digest("web-b")


def test_a_change_of_the_setting_takes_what_has_waited_and_nothing_else() -> None:
    w = settled(updateStrategy={"onEdit": "Immediate"})
    w.edit("a", "db", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    w.change(updateStrategy={})
    assert w.older() == set()
    assert w.plan().steps == ()
    w.edit_image("a", "web", "web-b")
    w.settle()
    w.change(updateStrategy={"onEdit": "Immediate"})
    w.settle()
    assert image_of(w) == digest("web-b")


def test_a_switch_that_keeps_disks_is_recorded_so_that_the_next_edit_waits() -> None:
    w = settled("b", updateStrategy={"onSwitch": "ReplaceChanged"})
    made = w.overlay_times()
    w.change(systemRef={"name": "c"})
    w.settle()
    assert w.overlay_times()["0", "web"] == made["0", "web"]
    assert memory(w) == {"guest": "1Gi"}
    before = runs(w)
    w.edit("c", "web", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    assert runs(w) == before
    assert w.older() == {("0", "web")}


def test_the_record_of_a_kept_disk_follows_its_vm() -> None:
    """An operator that dies in between must not take a switch for an edit."""
    w = settled("b", updateStrategy={"onSwitch": "ReplaceChanged"})
    w.change(systemRef={"name": "c"})

    def web_steps() -> list[str]:
        return [type(step).__name__ for step in w.plan().steps if getattr(step, "name", "").startswith("kigi.")]

    assert web_steps() == []
    while not any(isinstance(step, RestartMachine) for step in w.plan().steps):
        w.apply(w.plan().steps[0])
    assert "PatchObject" in web_steps()


def test_disks_of_v1alpha1_count_as_current_and_are_recorded() -> None:
    w = settled("b")
    for volume in w.volumes.values():
        annotations = volume.manifest["metadata"]["annotations"]
        known = Fingerprint.from_text(annotations[names.ANNOTATION_FINGERPRINT])
        assert known is not None
        annotations[names.ANNOTATION_FINGERPRINT] = replace(known, content="").to_text()
    before = runs(w)
    assert w.older() == set()
    assert {type(step) for step in w.plan().steps} == {PatchObject}
    w.settle()
    assert runs(w) == before
    w.edit("b", "web", hardware={"memory": {"guest": "2Gi"}})
    assert w.older() == {("0", "web")}


def test_a_disk_of_v1alpha1_with_another_image_keeps_it() -> None:
    w = settled("b")
    for volume in w.volumes.values():
        annotations = volume.manifest["metadata"]["annotations"]
        known = Fingerprint.from_text(annotations[names.ANNOTATION_FINGERPRINT])
        assert known is not None
        annotations[names.ANNOTATION_FINGERPRINT] = replace(known, content="").to_text()
    made = w.overlay_times()
    w.edit_image("b", "web", "web")
    w.settle()
    w.check_settled()
    assert w.overlay_times() == made
    assert w.older() == {("0", "web")}


def patched(w: World, view: Any, image: str = "") -> Vm:
    """The VM of web after the plan's patch."""
    (step,) = (s for s in plan_instance(view, hook_image=image).steps if isinstance(s, PatchObject))
    w.apply(step)
    return w.vms[WEB]


def test_what_is_not_of_the_state_reaches_machines_with_older_content() -> None:
    w = settled()
    w.edit("a", "web", hardware={"memory": {"guest": "2Gi"}})
    w.settle()
    w.change(placement={"tolerations": [{"operator": "Exists"}]})
    vm = patched(w, w.view())
    assert vm.manifest["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert "kigi:next" in patched(w, w.view(), "kigi:next").annotations[names.HOOK_SIDECARS]
    vm = patched(w, replace(w.view(), kubevirt=KubeVirtState("1.9.0", "Plugin")))
    assert names.HOOK_SIDECARS not in vm.annotations
    assert memory(w) == {"guest": "512Mi"}


def test_a_start_rule_of_the_state_is_no_content() -> None:
    w = settled()
    w.edit("a", "web", unset=("startAfter",), guestPowerOffPolicy="StayOff")
    assert w.older() == set()
