"""Hashes of machine templates: which changes they see."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.api.placement import Placement
from kigi.domain.systems import ResolvedDisk, ResolvedMachine
from kigi.planning.hashes import hardware_hash, template_hash
from tests.support.bodies import chain_of

GIB = {"guest": "1Gi"}


def machine(hardware: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    values = {"name": "m", "image": "top", "chain": chain_of("top"), **fields}
    hardware = {"memory": GIB} if hardware is None else hardware
    return ResolvedMachine(settings={"hardware": hardware, **(settings or {})}, **values)


def hashes(one: ResolvedMachine, placement: Placement | None = None, hook: Any = "Sidecar", image: str = "hook") -> Any:
    return hardware_hash(one), template_hash(one, placement or Placement(), hook, image)


EXTRA = ResolvedDisk("data", "data", chain_of("data"), "virtio")
TOLERATING = Placement.model_validate({"tolerations": [{"key": "k", "operator": "Exists"}]})


def test_hashes_do_not_depend_on_the_order_of_fields() -> None:
    assert hashes(machine({"cpu": {"cores": 1}, "memory": GIB})) == hashes(
        machine({"memory": GIB, "cpu": {"cores": 1}})
    )


@pytest.mark.parametrize("fields", [{"name": "other"}, {"image": "other"}, {"chain": chain_of("other")}])
def test_hashes_do_not_depend_on_name_and_image(fields: dict[str, Any]) -> None:
    assert hashes(machine(**fields)) == hashes(machine())


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(machine({"memory": {"guest": "2Gi"}}), id="memory"),
        pytest.param(machine({"memory": GIB, "interfaces": []}), id="interfaces"),
        pytest.param(machine({"memory": GIB, "cpu": {"sockets": 2}}), id="sockets"),
        pytest.param(machine({"memory": GIB, "cpu": {"threads": 2}}), id="threads"),
        pytest.param(machine({"memory": GIB, "cpu": {"model": "host-model"}}), id="cpu-model"),
        pytest.param(machine(settings={"rootDisk": {"bus": "sata"}}), id="bus"),
        pytest.param(machine(settings={"patch": {"remove": ["spec.evictionStrategy"]}}), id="removed"),
        pytest.param(machine(disks=(EXTRA,)), id="extra-disk"),
    ],
)
def test_a_change_of_hardware_changes_both_hashes(changed: ResolvedMachine) -> None:
    assert not set(hashes(changed)) & set(hashes(machine()))


def test_the_bus_of_an_extra_disk_is_hardware_and_its_image_is_not() -> None:
    sata = ResolvedDisk("data", "data", chain_of("data"), "sata")
    other_image = ResolvedDisk("data", "other", chain_of("other"), "virtio")
    assert hashes(machine(disks=(sata,)))[0] != hashes(machine(disks=(EXTRA,)))[0]
    assert hashes(machine(disks=(other_image,))) == hashes(machine(disks=(EXTRA,)))


def test_a_map_that_is_replaced_is_not_a_map_that_is_merged() -> None:
    merged = {"merge": {"spec": {"domain": {"cpu": {"features": []}}}}}
    replaced = merged | {"remove": ["spec.domain.cpu"]}
    assert hashes(machine(settings={"patch": merged}))[0] != hashes(machine(settings={"patch": replaced}))[0]


def test_the_boot_order_of_an_extra_disk_is_hardware() -> None:
    second = ResolvedDisk("data", "data", chain_of("data"), "virtio", 2)
    assert hashes(machine(disks=(second,)))[0] != hashes(machine(disks=(EXTRA,)))[0]


@pytest.mark.parametrize("field", [{"startAfter": ["db"]}, {"guestPowerOffPolicy": "StayOff"}])
def test_fields_that_define_when_a_vm_starts_change_the_template_hash_only(field: dict[str, Any]) -> None:
    before, after = hashes(machine()), hashes(machine(settings=field))
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"placement": TOLERATING}, id="tolerations"),
        pytest.param({"hook": "Plugin"}, id="hook"),
        pytest.param({"image": "hook:next"}, id="hook-image"),
    ],
)
def test_settings_of_kigi_change_the_template_hash_only(settings: dict[str, Any]) -> None:
    before, after = hashes(machine()), hashes(machine(), **settings)
    assert before[0] == after[0]
    assert before[1] != after[1]
