"""The feature gate is added to those that are set, whatever the KubeVirt object has so far."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.domain.feature_gates import gate_operations, gate_owner, owner_command
from kigi.errors import SpecInvalid

GATES = "/spec/configuration/developerConfiguration/featureGates"


def kubevirt(spec: dict[str, Any] | None, **meta: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"metadata": {"name": "kubevirt", "namespace": "kubevirt", "resourceVersion": "7", **meta}}
    return body if spec is None else body | {"spec": spec}


def developer(**fields: Any) -> dict[str, Any]:
    return {"configuration": {"developerConfiguration": fields}}


@pytest.mark.parametrize(
    ("spec", "path", "value"),
    [
        (developer(featureGates=["Root", "CPUManager"]), f"{GATES}/-", "Sidecar"),
        (developer(featureGates=[]), GATES, ["Sidecar"]),
        (developer(featureGates=None), GATES, ["Sidecar"]),
        (developer(logVerbosity={"virtAPI": 2}), GATES, ["Sidecar"]),
        ({"configuration": {"network": {}}}, GATES.rpartition("/")[0], {"featureGates": ["Sidecar"]}),
        (
            {"imagePullPolicy": "Always"},
            "/spec/configuration",
            {"developerConfiguration": {"featureGates": ["Sidecar"]}},
        ),
        (
            {"configuration": {}},
            "/spec/configuration",
            {"developerConfiguration": {"featureGates": ["Sidecar"]}},
        ),
        (None, "/spec", {"configuration": {"developerConfiguration": {"featureGates": ["Sidecar"]}}}),
    ],
    ids=["others", "empty", "null", "no list", "no developer", "no configuration", "empty configuration", "no spec"],
)
def test_the_change_adds_the_gate_and_what_is_missing_above_it(spec: Any, path: str, value: Any) -> None:
    assert gate_operations(kubevirt(spec), "Sidecar") == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": path, "value": value},
    ]


def test_a_gate_that_is_set_is_not_added_again() -> None:
    assert gate_operations(kubevirt(developer(featureGates=["A", "Plugins"])), "Plugins") == []


def test_a_gate_that_is_switched_off_is_left_to_an_administrator() -> None:
    body = kubevirt(developer(featureGates=["Sidecar"], disabledFeatureGates=["Sidecar"]))
    with pytest.raises(SpecInvalid, match=r"KubeVirt kubevirt/kubevirt: .*disabledFeatureGates has Sidecar; remove it"):
        gate_operations(body, "Sidecar")


def test_an_object_of_another_operator_is_known() -> None:
    owner = {"kind": "HyperConverged", "name": "kubevirt-hyperconverged", "controller": True}
    assert gate_owner(kubevirt({}, ownerReferences=[owner])) == "HyperConverged kubevirt-hyperconverged"
    labels = {"app.kubernetes.io/managed-by": "hco-operator"}
    assert gate_owner(kubevirt({}, labels=labels)) == "HyperConverged kubevirt-hyperconverged"
    assert gate_owner(kubevirt({}, labels={"app.kubernetes.io/managed-by": "kustomize"})) == ""
    assert gate_owner(kubevirt({})) == ""
    assert f'"path": "{GATES}/-", "value": "Sidecar"' in owner_command("openshift-cnv", "Sidecar")
