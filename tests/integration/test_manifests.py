"""The whole installation on a real API server: it is taken, and each part runs with no more than it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi_cache.captures.files import PUBLISHER_GID, PUBLISHER_UID
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
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-node-cache",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-node-lease",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-capture",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-instance-identity",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-pinned-prefetch",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-status-writers",
        "validatingadmissionpolicy.admissionregistration.k8s.io/kigi-reset",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-reset",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-node-cache",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-node-lease",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-capture",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-instance-identity",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-pinned-prefetch",
        "validatingadmissionpolicybinding.admissionregistration.k8s.io/kigi-status-writers",
        "deployment.apps/kigi-operator",
        "daemonset.apps/kigi-node-cache",
        "csidriver.storage.k8s.io/disk.kigi.dev",
    } <= taken


def test_everything_is_in_the_systems_namespace_or_in_none(installation: list[dict[str, Any]]) -> None:
    for document in installation:
        assert document["metadata"].get("namespace", SYSTEM) == SYSTEM, document["metadata"]


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
            account = (subject["kind"], subject["namespace"], subject["name"])
            if binding["metadata"]["name"] == "kigi-disk-mount":  # of KubeVirt, which creates the pods of VMs
                assert account == ("ServiceAccount", "kubevirt", "kubevirt-controller")
                continue
            assert account[:2] == ("ServiceAccount", SYSTEM)
            assert subject["name"] in accounts


def test_only_the_operator_reads_secrets_and_only_those_of_its_namespace(installation: list[dict[str, Any]]) -> None:
    found = [
        (role["kind"], role["metadata"]["name"], role["metadata"].get("namespace"), rule["verbs"], names)
        for role in of_kind(installation, "ClusterRole", "Role")
        for rule in role["rules"]
        if "secrets" in rule["resources"]
        for names in [rule.get("resourceNames")]
    ]
    rendered = [
        "kigi-daemon-repositories",
        "kigi-publisher-repositories",
    ]  # the second of earlier versions, to empty it
    assert found == [
        ("Role", "kigi-operator", SYSTEM, ["get"], None),
        ("Role", "kigi-operator", SYSTEM, ["patch"], rendered),
    ]


def test_no_role_has_a_wildcard(installation: list[dict[str, Any]]) -> None:
    for role in of_kind(installation, "ClusterRole", "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], role["metadata"]["name"]
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


def test_nodes_have_only_credentials_that_read_the_repository(installation: list[dict[str, Any]]) -> None:
    """And the publisher is no privileged container, and sees nothing of the node but the frozen copies."""
    (daemon,) = of_kind(installation, "DaemonSet")
    pod = daemon["spec"]["template"]["spec"]
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in pod["containers"]}
    assert set(secrets.values()) == {"kigi-daemon-repositories"}
    (operator,) = of_kind(installation, "Deployment")
    assert not operator["spec"]["template"]["spec"].get("volumes"), "the operator reads the writer's Secret by the API"
    assert {paths[m] for m in mounts["capture-publisher"] if m in paths} == {"/var/lib/kigi/captures"}
    (publisher,) = (c for c in pod["containers"] if c["name"] == "capture-publisher")
    assert publisher["securityContext"]["allowPrivilegeEscalation"] is False
    assert publisher["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert publisher["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not publisher["securityContext"].get("privileged")
    assert publisher["securityContext"]["readOnlyRootFilesystem"] is True
    assert publisher["securityContext"]["runAsNonRoot"] is True
    assert publisher["securityContext"]["runAsUser"] == PUBLISHER_UID
    assert publisher["securityContext"]["runAsGroup"] == PUBLISHER_GID
    # The kubelet lets this group read Secrets with the mode 0400, which root owns.
    assert pod["securityContext"]["fsGroup"] == PUBLISHER_GID
    assert mounts["capture-publisher"] & mounts["cache"] == {"repositories"}, "they share files only below captures"


def test_only_the_container_cache_has_a_token_of_the_account(installation: list[dict[str, Any]]) -> None:
    (daemons,) = of_kind(installation, "DaemonSet")
    pod = daemons["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    tokens = {
        volume["name"]
        for volume in pod["volumes"]
        if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ()))
    }
    having = {c["name"] for c in pod["containers"] for m in c["volumeMounts"] if m["name"] in tokens}
    assert (having, len(tokens)) == ({"cache"}, 2)


def test_layers_go_to_daemons_and_metrics_to_labelled_namespaces(installation: list[dict[str, Any]]) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(installation, "NetworkPolicy")}
    assert set(policies) == {"kigi-node-cache", "kigi-operator"}
    labelled = {"namespaceSelector": {"matchLabels": {"kigi-metrics": "allowed"}}}
    for name, spec in policies.items():
        assert spec["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
        assert spec["policyTypes"] == ["Ingress"]
        rules = {rule["ports"][0]["port"]: rule["from"] for rule in spec["ingress"]}
        daemons = [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "kigi-node-cache"}}}]
        assert rules == {"http": [labelled]} | ({"peer": daemons} if name == "kigi-node-cache" else {})
