"""The VMI template that KubeVirt receives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kigi.api.placement import Placement
from kigi.planning.targets import machine_targets
from kigi.planning.vm_manifest import VmSettings, build_machine
from tests.support.bodies import OWNER, placed
from tests.support.worlds import World, deployment_spec


def instance(**settings: Any) -> dict[str, Any]:
    """The VirtualMachineInstance's spec of a machine with these settings."""
    w = World(deployment_spec("a"))
    w.edit("a", "web", **settings)
    web = next(target for target in machine_targets(w.view()) if target.machine == "web")
    made = build_machine(OWNER, placed(web), VmSettings(Placement(), "Plugin", "", running=True))
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["name"] for item in items]


FOREIGN = {
    "volumes": [{"name": "tools", "persistentVolumeClaim": {"claimName": "tools"}}],
    "domain": {"devices": {"disks": [{"name": "tools", "disk": {"bus": "virtio"}}]}},
}


def test_cloud_init_is_kept_when_a_patch_adds_a_volume() -> None:
    spec = instance(hardware={"cloudInit": {"userData": "#cloud-config"}}, patch={"merge": {"spec": FOREIGN}})
    assert names(spec["volumes"]) == ["kigi-root", "cloud-init", "tools"]
    assert names(spec["domain"]["devices"]["disks"]) == ["kigi-root", "cloud-init", "tools"]
    assert spec["volumes"][1]["cloudInitNoCloud"] == {"userData": "#cloud-config"}


@pytest.mark.parametrize(
    ("cloud_init", "source"),
    [
        pytest.param(
            {"secretRef": {"name": "s"}},
            {"secretRef": {"name": "s"}, "networkDataSecretRef": {"name": "s"}},
            id="both-keys-of-a-secret",
        ),
        pytest.param({"userData": "u", "networkData": "n"}, {"userData": "u", "networkData": "n"}, id="texts"),
        pytest.param({"networkData": "n"}, {"networkData": "n"}, id="network-alone"),
    ],
)
def test_user_data_and_network_data_reach_the_guest(cloud_init: dict[str, Any], source: dict[str, Any]) -> None:
    spec = instance(hardware={"cloudInit": cloud_init})
    assert spec["volumes"][1]["cloudInitNoCloud"] == source


def test_without_cloud_init_a_patch_may_add_its_own() -> None:
    own = {"volumes": [{"name": "cloud-init", "cloudInitConfigDrive": {"userData": "x"}}]}
    spec = instance(patch={"merge": {"spec": own}})
    assert names(spec["volumes"]) == ["kigi-root", "cloud-init"]
    assert "cloudInitConfigDrive" in spec["volumes"][1]


@pytest.mark.parametrize(
    ("settings", "tpm"),
    [
        pytest.param({}, None, id="no-preference"),
        pytest.param({"hardware": {"preferenceRef": {"name": "windows.11"}}}, {"enabled": False}, id="preference"),
        pytest.param(
            {
                "hardware": {"preferenceRef": {"name": "windows.11"}},
                "patch": {"merge": {"spec": {"domain": {"devices": {"tpm": {"persistent": False}}}}}},
            },
            {"persistent": False},
            id="preference-and-patch",
        ),
    ],
)
def test_a_preference_adds_no_tpm_that_the_machine_does_not_have(
    settings: dict[str, Any], tpm: dict[str, Any] | None
) -> None:
    assert instance(**settings)["domain"]["devices"].get("tpm") == tpm


def test_a_manifest_leaves_the_settings_as_they_are() -> None:
    patch = {"merge": {"spec": FOREIGN}}
    before = json.dumps(patch)
    instance(patch=patch)
    assert json.dumps(patch) == before


def test_topology_and_model_of_the_cpu_reach_the_vm() -> None:
    cpu = {"cores": 2, "sockets": 2, "threads": 1, "model": "host-model"}
    assert instance(hardware={"cpu": cpu})["domain"]["cpu"] == cpu
    assert instance(hardware={"cpu": {"sockets": 2}})["domain"]["cpu"] == {"cores": 1, "sockets": 2}


def test_removed_paths_are_not_in_the_vm() -> None:
    spec = instance(patch={"remove": ["spec.evictionStrategy", "spec.domain.firmware.serial", "spec.volumes"]})
    assert "evictionStrategy" not in spec
    assert list(spec["domain"]["firmware"]) == ["uuid"]
    assert names(spec["volumes"]) == ["kigi-root"]
