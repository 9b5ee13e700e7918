"""The whole installation on a real API server: it is taken, and each part runs with no more than it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.support.raw_api import RawApi

ROOT = Path(__file__).parents[2]
SYSTEM = "kigi-system"


@pytest.fixture(scope="module")
def installation(crds: ControlPlane) -> list[dict[str, Any]]:
    """Every object of ``kubectl apply -k manifests``."""
    rendered = crds.kubectl("kustomize", str(ROOT / "manifests"))
    return [document for document in yaml.safe_load_all(rendered) if document]


def of_kind(installation: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [document for document in installation if document["kind"] in kinds]


def test_the_server_accepts_the_whole_installation(crds: ControlPlane) -> None:
    # The namespace has to be there before what is in it can be tried.
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    said = crds.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-k",
        str(ROOT / "manifests"),
    )
    taken = {line.split()[0] for line in said.splitlines()}
    assert {
        "namespace/kigi-system",
        "serviceaccount/kigi-operator",
        "serviceaccount/kigi-node-cache",
        "clusterrole.rbac.authorization.k8s.io/kigi-operator",
        "customresourcedefinition.apiextensions.k8s.io/systemdeployments.kigi.dev",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-node-cache-writes-its-own-status",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-node-cache-writes-its-own-status",
        "deployment.apps/kigi-operator",
        "daemonset.apps/kigi-node-cache",
        "csidriver.storage.k8s.io/disk.kigi.dev",
    } <= taken


def test_everything_is_in_the_systems_namespace_or_in_none(installation: list[dict[str, Any]]) -> None:
    events = {("Role", "default"), ("RoleBinding", "default")}
    for document in installation:
        namespace = document["metadata"].get("namespace", SYSTEM)
        assert namespace == SYSTEM or (document["kind"], namespace) in events, document["metadata"]


def test_every_workload_runs_under_an_account_of_its_own(installation: list[dict[str, Any]]) -> None:
    accounts = {document["metadata"]["name"] for document in of_kind(installation, "ServiceAccount")}
    used = [
        workload["spec"]["template"]["spec"]["serviceAccountName"]
        for workload in of_kind(installation, "Deployment", "DaemonSet")
    ]
    assert used
    assert len(used) == len(set(used))
    assert set(used) <= accounts


def test_every_binding_names_an_account_and_a_role_of_the_installation(installation: list[dict[str, Any]]) -> None:
    accounts = {document["metadata"]["name"] for document in of_kind(installation, "ServiceAccount")}
    roles = {
        (document["kind"], document["metadata"]["name"]) for document in of_kind(installation, "ClusterRole", "Role")
    }
    bindings = of_kind(installation, "ClusterRoleBinding", "RoleBinding")
    assert bindings
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", SYSTEM)
            assert subject["name"] in accounts


def test_no_role_has_a_wildcard_or_reads_secrets(installation: list[dict[str, Any]]) -> None:
    for role in of_kind(installation, "ClusterRole", "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], role["metadata"]["name"]
            assert "secrets" not in rule["resources"], role["metadata"]["name"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), role["metadata"]["name"]


def test_the_operators_pod_keeps_to_the_restricted_profile(
    crds: ControlPlane, installation: list[dict[str, Any]]
) -> None:
    api = RawApi(crds.kubeconfig)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create("/api/v1/namespaces", {"metadata": {"name": "restricted", "labels": labels}}).object()
    (operator,) = of_kind(installation, "Deployment")
    pod = {"metadata": {"name": "operator"}, "spec": operator["spec"]["template"]["spec"]}
    reply = api.create("/api/v1/namespaces/restricted/pods", pod, dryRun="All", fieldValidation="Strict")
    assert reply.code == 201, reply.message


def test_nothing_is_open_to_the_internet_or_pulls_by_a_moving_tag(installation: list[dict[str, Any]]) -> None:
    for workload in of_kind(installation, "Deployment", "DaemonSet"):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
    assert all(service["spec"].get("type", "ClusterIP") == "ClusterIP" for service in of_kind(installation, "Service"))


def test_only_the_daemon_is_privileged_and_shares_no_more_than_directories(installation: list[dict[str, Any]]) -> None:
    for workload in of_kind(installation, "Deployment", "DaemonSet"):
        spec = workload["spec"]["template"]["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        privileged = any(container["securityContext"].get("privileged") for container in spec["containers"])
        assert privileged == (workload["metadata"]["name"] == "kigi-node-cache")
        paths = {volume["hostPath"]["path"] for volume in spec.get("volumes", []) if "hostPath" in volume}
        assert privileged or not paths
        assert all(path.startswith(("/var/lib/kubelet", "/var/lib/kigi")) for path in paths)


def test_no_pod_can_ask_the_driver_for_a_volume_by_itself(installation: list[dict[str, Any]]) -> None:
    """Inline volumes carry attributes that the pod's author writes; a chain comes from a PersistentVolume alone."""
    (driver,) = of_kind(installation, "CSIDriver")
    assert driver["spec"]["volumeLifecycleModes"] == ["Persistent"]


def test_the_daemon_gets_its_nodes_name_from_kubernetes(installation: list[dict[str, Any]]) -> None:
    (daemon,) = of_kind(installation, "DaemonSet")
    container, _ = daemon["spec"]["template"]["spec"]["containers"]
    env = {item["name"]: item for item in container["env"]}
    assert env["NODE_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


def test_only_the_capture_publisher_may_write_to_the_repository(installation: list[dict[str, Any]]) -> None:
    """And it is no privileged container, and sees nothing of the node but the frozen copies."""
    (daemon,) = of_kind(installation, "DaemonSet")
    pod = daemon["spec"]["template"]["spec"]
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in pod["containers"]}
    writers = {name for name, used in mounts.items() for m in used if secrets.get(m) == "kigi-repository-writer"}
    assert writers == {"capture-publisher"}
    assert {paths[m] for m in mounts["capture-publisher"] if m in paths} == {"/var/lib/kigi/captures"}
    (publisher,) = (c for c in pod["containers"] if c["name"] == "capture-publisher")
    assert publisher["securityContext"]["allowPrivilegeEscalation"] is False
    assert not publisher["securityContext"].get("privileged")
