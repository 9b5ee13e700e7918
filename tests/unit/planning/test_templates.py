"""The VMI template that KubeVirt receives."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.api.deployment import Placement, SystemDeploymentSpec
from kigi.planning.targets import machine_targets
from kigi.planning.vm_manifest import VmSettings, build_machine
from tests.support.bodies import OWNER, placed
from tests.support.worlds import World


def instance(**template: Any) -> dict[str, Any]:
    """The VirtualMachineInstance's spec of a machine with that template."""
    w = World(SystemDeploymentSpec.model_validate({"system": {"name": "a"}}))
    w.edit("a", "web", **template)
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
    spec = instance(cloudInit={"userData": "#cloud-config"}, patch={"spec": FOREIGN})
    assert names(spec["volumes"]) == ["kigi-root", "cloud-init", "tools"]
    assert names(spec["domain"]["devices"]["disks"]) == ["kigi-root", "cloud-init", "tools"]
    assert spec["volumes"][1]["cloudInitNoCloud"] == {"userData": "#cloud-config"}


def test_without_cloud_init_a_patch_may_add_its_own() -> None:
    own = {"volumes": [{"name": "cloud-init", "cloudInitConfigDrive": {"userData": "x"}}]}
    spec = instance(patch={"spec": own})
    assert names(spec["volumes"]) == ["kigi-root", "cloud-init"]
    assert "cloudInitConfigDrive" in spec["volumes"][1]


@pytest.mark.parametrize(
    ("template", "tpm"),
    [
        pytest.param({}, None, id="no-preference"),
        pytest.param({"preference": {"name": "windows.11"}}, {"enabled": False}, id="preference"),
        pytest.param(
            {
                "preference": {"name": "windows.11"},
                "patch": {"spec": {"domain": {"devices": {"tpm": {"persistent": False}}}}},
            },
            {"persistent": False},
            id="preference-and-patch",
        ),
    ],
)
def test_a_preference_adds_no_tpm_that_the_template_does_not_have(
    template: dict[str, Any], tpm: dict[str, Any] | None
) -> None:
    assert instance(**template)["domain"]["devices"].get("tpm") == tpm
