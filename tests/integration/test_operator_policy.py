"""A stolen token of the operator: the admission policy on a real API server, with the operator's own role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually, install_crds
from tests.support.kubevirt_crds import install_kubevirt_crds
from tests.support.raw_api import Object, RawApi, Reply

ROOT = Path(__file__).parents[2]
LABEL = {"kigi.dev/deployment": "office"}
OWNER = {"kigi.dev/instance-uid": "u"}
VOLUMES = "/api/v1/persistentvolumes"
IN_TEAM = "namespaces/team"
CLAIMS = f"/api/v1/{IN_TEAM}/persistentvolumeclaims"
VMS = f"/apis/kubevirt.io/v1/{IN_TEAM}/virtualmachines"
VMIS = f"/apis/kubevirt.io/v1/{IN_TEAM}/virtualmachineinstances"
POLICIES = f"/apis/networking.k8s.io/v1/{IN_TEAM}/networkpolicies"


def volume(driver: str | None = "disk.kigi.dev") -> Object:
    spec: dict[str, Any] = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
    source = {"csi": {"driver": driver, "volumeHandle": "h"}} if driver else {"hostPath": {"path": "/"}}
    return {"spec": {**spec, **source}}


KUBEVIRT: Object = {"apiVersion": "kubevirt.io/v1"}
CLAIM: Object = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
VM: Object = KUBEVIRT | {
    "kind": "VirtualMachine",
    "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}},
}
VMI: Object = KUBEVIRT | {"kind": "VirtualMachineInstance", "spec": {"domain": {"devices": {}}}}
POLICY: Object = {"spec": {"podSelector": {}}}
NAMESPACED = [
    pytest.param(CLAIMS, CLAIM, id="claim"),
    pytest.param(VMS, VM, id="vm"),
    pytest.param(POLICIES, POLICY, id="policy"),
]


def named(body: Object, name: str, **meta: Any) -> Object:
    return {**body, "metadata": {"name": name, **meta}}


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawApi]:
    with ControlPlane(tmp_path_factory.mktemp("operator-policy")) as plane:
        install_crds(plane)
        install_kubevirt_crds(plane)
        for path in ("namespace.yaml", "rbac/operator.yaml", "rbac/operator-writes.yaml"):
            plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / path))
        plane.kubectl("create", "namespace", "team")
        yield RawApi(plane.kubeconfig)


@pytest.fixture(scope="module")
def operator(admin: RawApi) -> RawApi:
    token = admin.as_account("kigi-system", "kigi-operator")
    body = named(volume("other"), "probe", labels=LABEL)
    eventually(lambda: refused(token.create(f"{VOLUMES}?dryRun=All", body)), what="the policy is in force")
    return token


def refused(reply: Reply) -> bool:
    return reply.code in (403, 422) and "kigi-operator-writes" in reply.message


@pytest.mark.parametrize("driver", ["ebs.csi.aws.com", None])
def test_volumes_of_other_drivers_are_out_of_reach(admin: RawApi, operator: RawApi, driver: str | None) -> None:
    name = f"foreign-{driver or 'path'}"
    assert refused(operator.create(VOLUMES, named(volume(driver), name, labels=LABEL)))
    admin.create(VOLUMES, named(volume(driver), name, labels=LABEL)).object()
    assert refused(operator.patch(f"{VOLUMES}/{name}", {"metadata": {"labels": {"a": "b"}}}))
    assert refused(operator.delete(f"{VOLUMES}/{name}"))
    assert admin.get(f"{VOLUMES}/{name}").code == 200


def test_kigis_volumes_are_made_changed_and_deleted(operator: RawApi) -> None:
    operator.create(VOLUMES, named(volume(), "ours", labels=LABEL)).object()
    assert operator.patch(f"{VOLUMES}/ours", {"metadata": {"annotations": {"a": "b"}}}).code == 200
    assert operator.delete(f"{VOLUMES}/ours").code == 200
    assert refused(operator.create(VOLUMES, named(volume(), "unlabelled")))


@pytest.mark.parametrize(("path", "body"), NAMESPACED)
def test_objects_of_others_are_out_of_reach(admin: RawApi, operator: RawApi, path: str, body: Object) -> None:
    assert refused(operator.create(path, named(body, "plain")))
    admin.create(path, named(body, "foreign")).object()
    assert refused(operator.patch(f"{path}/foreign", {"metadata": {"labels": LABEL}})), "it adopts nothing"
    assert refused(operator.delete(f"{path}/foreign"))
    assert admin.get(f"{path}/foreign").code == 200


@pytest.mark.parametrize(("path", "body"), NAMESPACED)
def test_kigis_objects_are_made_changed_and_deleted(admin: RawApi, operator: RawApi, path: str, body: Object) -> None:
    operator.create(path, named(body, "ours", labels=LABEL, annotations=OWNER)).object()
    assert operator.patch(f"{path}/ours", {"metadata": {"annotations": {"a": "b"}}}).code == 200
    assert refused(operator.patch(f"{path}/ours", {"metadata": {"labels": {"kigi.dev/deployment": None}}}))
    admin.patch(f"{path}/ours", {"metadata": {"labels": {"kigi.dev/deployment": None}}}).object()
    assert operator.patch(f"{path}/ours", {"metadata": {"labels": LABEL}}).code == 200, "it restores a removed label"
    assert operator.delete(f"{path}/ours").code == 200


def test_only_kigis_vmis_are_deleted(admin: RawApi, operator: RawApi) -> None:
    admin.create(VMIS, named(VMI, "foreign")).object()
    admin.create(VMIS, named(VMI, "ours", labels=LABEL)).object()
    assert refused(operator.delete(f"{VMIS}/foreign"))
    assert operator.delete(f"{VMIS}/ours").code == 200


def test_specs_of_users_stay_and_finalizers_change(admin: RawApi, operator: RawApi) -> None:
    path = f"/apis/{API_VERSION}/{IN_TEAM}/systemnodes"
    spec = {"machines": [{"name": "m", "rootDisk": {"imageRef": {"name": "x"}}}]}
    body: Object = {"apiVersion": API_VERSION, "kind": "SystemNode", "spec": spec}
    admin.create(path, named(body, "office")).object()
    assert refused(operator.patch(f"{path}/office", {"spec": {"description": "changed"}}))
    assert operator.patch(f"{path}/office", {"metadata": {"finalizers": ["kigi.dev/in-use"]}}).code == 200
    assert operator.patch(f"{path}/office", {"metadata": {"finalizers": None}}).code == 200


def test_nobody_else_is_restricted(admin: RawApi, operator: RawApi) -> None:
    admin.create(f"{VOLUMES}?dryRun=All", named(volume(None), "by-an-admin")).object()


def test_the_policy_follows_the_namespace(admin: RawApi, operator: RawApi) -> None:
    """A role binding for another namespace's account, as kustomize writes it."""
    admin.create("/api/v1/namespaces/team/serviceaccounts", {"metadata": {"name": "kigi-operator"}}).object()
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    binding = admin.get(f"{roles}/kigi-operator").object()
    subject = {"kind": "ServiceAccount", "name": "kigi-operator", "namespace": "team"}
    admin.create(roles, {"metadata": {"name": "moved"}, "roleRef": binding["roleRef"], "subjects": [subject]}).object()
    moved = admin.as_account("team", "kigi-operator")
    eventually(lambda: refused(moved.create(VOLUMES, named(volume("other"), "moved", labels=LABEL))))
