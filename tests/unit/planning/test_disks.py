"""Machines with several disks: all of them always share one revision."""

from __future__ import annotations

from typing import Any

from kigi.planning.steps import ApplyObject
from tests.support.worlds import World, deployment_spec


def world(**fields: Any) -> World:
    """State b: db has the further disks data and logs."""
    w = World(deployment_spec("b", **fields))
    w.settle()
    return w


def claims(w: World) -> list[str]:
    return w.vms["dep-0-db"].claims


def test_the_vm_names_all_its_disks_and_their_buses() -> None:
    spec = world().vms["dep-0-db"].manifest["spec"]["template"]["spec"]
    assert [v["name"] for v in spec["volumes"]] == ["kigi-root", "kigi-data", "kigi-logs"]
    assert [d["name"] for d in spec["domain"]["devices"]["disks"]] == ["kigi-root", "kigi-data", "kigi-logs"]
    assert [d.get("bootOrder") for d in spec["domain"]["devices"]["disks"]] == [1, None, None]


def test_a_reset_renews_all_of_them() -> None:
    w = world()
    assert claims(w) == ["dep.0.db.r1", "dep.0.db.r1.data", "dep.0.db.r1.logs"]
    w.change(resetToken="again")
    w.settle()
    assert claims(w) == ["dep.0.db.r2", "dep.0.db.r2.data", "dep.0.db.r2.logs"]
    w.check_settled()


def test_another_image_under_one_disk_renews_all_of_them_under_keep_unchanged() -> None:
    w = world(updateStrategy={"onSwitch": "ReplaceChanged"})
    w.change(systemRef={"name": "a"})
    w.settle()
    assert claims(w) == ["dep.0.db.r2"]
    w.check_settled()


def test_a_disk_that_was_never_created_is_created_on_the_same_node() -> None:
    w = World(deployment_spec("b"))
    made = []
    while "kigi.ns.dep.0.db.r1" not in made:
        step = w.plan().steps[0]
        made += [step.manifest["metadata"]["name"]] if isinstance(step, ApplyObject) else []
        w.apply(step)
    assert not any(name.endswith(".data") for name in made)
    w.settle()
    assert claims(w)[1] == "dep.0.db.r1.data"
    w.check_settled()


def test_a_disk_whose_volume_was_deleted_by_hand_brings_a_new_revision() -> None:
    w = world()
    w.volumes["kigi.ns.dep.0.db.r1.data"].deleting = True
    w.settle()
    assert claims(w) == ["dep.0.db.r2", "dep.0.db.r2.data", "dep.0.db.r2.logs"]
    w.check_settled()
