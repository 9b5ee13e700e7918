"""Argo CD's health of new objects, and its actions, on a real API server with Kigi's policies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.support.cluster import ensure_namespace, eventually
from tests.support.crd_objects import GOOD, RESERVED, build
from tests.support.gitops import ARGOCD_CM, ROOT, GitOps
from tests.support.raw_api import RawApi
from tools.crdgen import KINDS, build_crd

NAMESPACE = "argo-actions"
ARGOCD_SERVER = "system:serviceaccount:argocd:argocd-server"
CRDS = {kind.__name__: build_crd(kind)["spec"] for kind in KINDS}


@pytest.fixture(scope="module")
def argo() -> Iterator[GitOps]:
    with GitOps.running() as checker:
        yield checker


@pytest.fixture(scope="module")
def plane(crds: ControlPlane) -> ControlPlane:
    ensure_namespace(crds, NAMESPACE)
    for name in ("reset-requests", "capture-requests", "instance-identity"):
        crds.kubectl("apply", "--server-side", "-f", str(ROOT / f"manifests/rbac/{name}.yaml"))
    return crds


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> RawApi:
    return RawApi(plane.kubeconfig)


@pytest.fixture
def argocd_server(plane: ControlPlane) -> Iterator[RawApi]:
    """Argo CD's API server, with the ClusterRole of the page."""
    rights = str(ROOT / "manifests/gitops/argocd/rbac.yaml")
    plane.kubectl("apply", "--server-side", "-f", rights)
    yield RawApi(plane.user_kubeconfig(ARGOCD_SERVER, ["system:serviceaccounts", "system:authenticated"]))
    plane.kubectl("delete", "-f", rights)


def path_of(kind: str, name: str = "") -> str:
    crd = CRDS[kind]
    scope = f"/namespaces/{NAMESPACE}" if crd["scope"] == "Namespaced" else ""
    return f"/apis/{crd['group']}/{crd['versions'][0]['name']}{scope}/{crd['names']['plural']}" + (
        f"/{name}" if name else ""
    )


@pytest.mark.parametrize("kind", sorted(CRDS.keys() - RESERVED.keys()))
def test_a_new_object_is_in_progress_for_all_tools(argo: GitOps, server: RawApi, kind: str) -> None:
    document = build(kind, "new-for-argo")
    path = path_of(kind, document["metadata"]["name"])
    assert kind in GOOD
    server.delete(path)
    body = server.create(path_of(kind), document).object()
    try:
        assert argo.agree(body) == "Progressing"
        emptied = server.call("PUT", f"{path}/status", {**body, "status": {}}).object()
        assert argo.agree(emptied) == "Progressing"
    finally:
        server.delete(path)


def new(server: RawApi, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    server.delete(path_of(kind, name))
    metadata = {"name": name, "namespace": NAMESPACE}
    body = {"apiVersion": "kigi.dev/v1alpha2", "kind": kind, "metadata": metadata, "spec": spec}
    return server.create(path_of(kind), body).object()


@pytest.fixture
def office(server: RawApi) -> dict[str, Any]:
    return new(server, "SystemDeployment", "office", {"systemRef": {"name": "infected"}, "replicas": 2})


@pytest.fixture
def office_2(server: RawApi, office: dict[str, Any]) -> dict[str, Any]:
    return new(
        server, "SystemInstance", "office-2", {"deploymentRef": {"name": office["metadata"]["name"]}, "name": "2"}
    )


def created(argo: GitOps, action: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    (impacted,) = argo.run_action(action, body)
    assert impacted["operation"] == "create"
    return path_of(impacted["resource"]["kind"]), impacted["resource"]


def test_the_actions_create_requests_that_the_policies_accept(
    argo: GitOps, argocd_server: RawApi, office: dict[str, Any], office_2: dict[str, Any]
) -> None:
    def accepted(path: str, resource: dict[str, Any]) -> dict[str, Any]:
        """The role and the policies are in force after a moment."""
        reply = eventually(lambda: (found := argocd_server.create(path, resource)).code == 201 and found)
        return dict(reply.object()["spec"])

    reset = accepted(*created(argo, "reset", office))
    assert (reset["deploymentRef"]["name"], reset.get("instances")) == ("office", None)
    reset = accepted(*created(argo, "reset", office_2))
    assert (reset["deploymentRef"]["name"], reset["instances"]) == ("office", ["2"])
    assert accepted(*created(argo, "capture", office_2))["instanceRef"]["name"] == "office-2"


def test_longest_names_fit_into_the_names_of_requests(argo: GitOps, server: RawApi) -> None:
    deployment = new(server, "SystemDeployment", "d" * 35, {"systemRef": {"name": "infected"}})
    instance = new(server, "SystemInstance", "d" * 34 + "-12", {"deploymentRef": {"name": "d" * 34}, "name": "12"})
    for body in (deployment, instance):
        path, resource = created(argo, "reset", body)
        resource["spec"]["requestedBy"] = "admin"
        server.create(path, resource).object()


def test_the_refusal_of_another_user_names_the_right_one(argo: GitOps, server: RawApi, office: dict[str, Any]) -> None:
    reply = eventually(lambda: (found := server.create(*created(argo, "reset", office))).code == 403 and found)
    assert "must be the name of the caller, admin" in reply.message


def merge_patched(server: RawApi, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    patch = {"spec": {key: value for key, value in after["spec"].items() if before["spec"].get(key) != value}}
    assert len(patch["spec"]) == 1, "the action changes one field"
    return server.patch(path_of(before["kind"], before["metadata"]["name"]), patch).object()


def test_power_goes_off_and_on(argo: GitOps, server: RawApi, office: dict[str, Any], office_2: dict[str, Any]) -> None:
    for body in (office, office_2):
        (off,) = argo.run_action("power-off", body)
        assert off["operation"] == "patch"
        assert argo.judge(body).get("actions", []).count("power-off") == 1
        body = merge_patched(server, body, off["resource"])
        assert body["spec"]["powerState"] == "Off"
        assert "power-off" not in argo.judge(body)["actions"]
        (on,) = argo.run_action("power-on", body)
        body = merge_patched(server, body, on["resource"])
        assert body["spec"]["powerState"] == "On"
        assert "power-on" not in argo.judge(body)["actions"]


def test_the_command_of_the_page_adds_keys_and_keeps_the_others(crds: ControlPlane) -> None:
    ensure_namespace(crds, "argocd")
    crds.kubectl("create", "configmap", "argocd-cm", "--namespace=argocd", "--from-literal=admin.enabled=false")
    text = (ROOT / "docs/gitops.md").read_text()
    (command,) = re.findall(r"^kubectl (-n argocd patch configmap .*)$", text, re.MULTILINE)
    crds.kubectl(*(str(ROOT / word) if "/" in word else word for word in command.split()))
    found = yaml.safe_load(crds.kubectl("get", "configmap", "argocd-cm", "--namespace=argocd", "--output=yaml"))["data"]
    assert found == {"admin.enabled": "false", **yaml.safe_load(ARGOCD_CM.read_text())["data"]}
