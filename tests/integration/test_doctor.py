"""``kigi doctor`` on a real API server: a healthy installation, and broken ones, each named with its remedy."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from kigi.cli.main import app
from kigi.domain.heartbeat import lease_name
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.campaigns.stolen_s3 import USERS, prepare
from tests.support.answering import AnsweringServer
from tests.support.cluster import REPOSITORY, eventually
from tests.support.healthy_installation import (
    CACHES,
    DEPLOYMENTS,
    GIB,
    KUBEVIRTS,
    LEASES,
    NODES,
    PLAIN,
    PODS,
    REPOSITORIES,
    SECRETS,
    SYSTEM,
    Installation,
    condition,
)

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{SYSTEM}/events"
Broken = Callable[[Installation], AbstractContextManager[None]]
A, B = NODES


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("doctor")
    with S3Server(folder / "s3", versions=True) as s3, ControlPlane(folder / "plane") as plane:
        prepare(s3)
        yield Installation(plane, s3).install()


@pytest.fixture
def healthy(installation: Installation) -> Installation:
    installation.beat()
    return installation


def doctor(kubeconfig: Path, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings."""
    environment = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "KUBECONFIG": str(kubeconfig)}
    done = CliRunner().invoke(app, ["doctor", "-o", "json", *arguments], env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    urgent = [each for each in findings if each["state"] in ("error", "warning")]
    assert all(each["remedy"] for each in urgent), "each error and warning has a remedy"
    assert (done.exit_code == 3) == any(each["state"] == "error" for each in findings)
    return done.exit_code, findings


def test_a_healthy_installation_has_no_error_and_no_warning(healthy: Installation) -> None:
    code, findings = doctor(healthy.plane.kubeconfig)
    bad = [each for each in findings if each["state"] in ("error", "warning")]
    assert (code, bad) == (0, [])
    unknown = {(each["check"], each["sentence"].partition(":")[0]) for each in findings if each["state"] != "ok"}
    assert unknown == {("buckets", "versioning"), ("buckets", "object lock")}, "asked as the writer, not the owner"
    checks = {each["check"] for each in findings}
    assert {
        "kubernetes",
        "kubevirt",
        "feature gate",
        "definitions",
        "policies",
        "rights of Kigi",
        "your rights",
    } <= checks
    assert {"operator", "leader", "versions", "nodes", "clocks", "repositories", "limits"} <= checks


def test_the_table_sums_up(healthy: Installation) -> None:
    done = CliRunner().invoke(app, ["doctor", "--no-buckets", "--kubeconfig", str(healthy.plane.kubeconfig)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["CHECK", "STATE", "OBJECT", "FOUND", "REMEDY"]
    assert lines[-1].startswith("0 error, 0 warning, 1 not checked, ")


# Ways to break it.


def gone(path: str) -> Broken:
    return lambda kigi: kigi.without(path)


def patched(path: str, patch: dict[str, Any]) -> Broken:
    return lambda kigi: kigi.patched(path, patch)


def cache(**fields: Any) -> Broken:
    return lambda kigi: kigi.patched(f"{CACHES}/{A}/status", {"status": kigi.cache_status(**fields)})


def lease(name: str, made: Callable[[Installation], dict[str, Any]]) -> Broken:
    @contextmanager
    def broken(kigi: Installation) -> Iterator[None]:
        kigi.put_lease(name, made(kigi))
        yield

    return broken


def created(path: str, made: Callable[[Installation], dict[str, Any]]) -> Broken:
    return lambda kigi: kigi.created(path, made(kigi))


@contextmanager
def old_definition(kigi: Installation) -> Iterator[None]:
    """The definition of an earlier version, which lacks fields that this version writes."""
    path = f"{CRDS}/nodecaches.node.kigi.dev"
    wanted = yaml.safe_load((REPOSITORY / "crds/nodecaches.node.kigi.dev.yaml").read_text())
    old = kigi.api.get(path).object()
    del old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["operatorVersion"]
    kigi.api.call("PUT", path, old).object()
    try:
        yield
    finally:
        kigi.api.apply(path, wanted).object()
        # 429: the API server starts the storage of a kind again after its definition has changed.
        eventually(lambda: kigi.api.get(f"{CACHES}/{A}").code == 200)


@contextmanager
def definition_of_another_version(kigi: Installation) -> Iterator[None]:
    """A definition that serves v1alpha1 alone."""
    path = f"{CRDS}/treegrants.kigi.dev"
    before = kigi.api.get(path).object()
    kigi.api.delete(path).object()
    wanted = {"metadata": {"name": before["metadata"]["name"]}, "spec": before["spec"]}
    old = json.loads(json.dumps(wanted))
    old["spec"]["versions"][0]["name"] = "v1alpha1"
    replace_definition(kigi, path, old)
    try:
        yield
    finally:
        kigi.api.delete(path).object()
        replace_definition(kigi, path, wanted)


@contextmanager
def without_definition(kigi: Installation) -> Iterator[None]:
    path = f"{CRDS}/systemresets.kigi.dev"
    before = kigi.api.get(path).object()
    kigi.api.delete(path).object()
    gone_for_good(kigi, path)
    try:
        yield
    finally:
        replace_definition(kigi, path, {"metadata": {"name": before["metadata"]["name"]}, "spec": before["spec"]})


def gone_for_good(kigi: Installation, path: str) -> None:
    kigi.plane.kubectl("wait", "--for=delete", "--timeout=60s", f"crd/{path.rpartition('/')[2]}")


def replace_definition(kigi: Installation, path: str, body: dict[str, Any]) -> None:
    gone_for_good(kigi, path)
    kigi.api.create(CRDS, body).object()
    kigi.plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{path.rpartition('/')[2]}")


def no_daemon(kigi: Installation) -> AbstractContextManager[None]:
    """No node with a daemon: neither NodeCaches nor Leases."""
    stack = ExitStack()
    for node in NODES:
        stack.enter_context(kigi.without(f"{CACHES}/{node}"))
    return stack


def secret(**keys: str) -> Broken:
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in keys.items()}
    return patched(f"{SECRETS}/reader", {"data": encoded})


@contextmanager
def server_without_conditions(kigi: Installation) -> Iterator[None]:
    """An S3 server that takes every write: no server of the tests does so by itself."""

    def answer(method: str, path: str) -> tuple[int, bytes]:
        return (404, b"<Error><Code>NoSuchKey</Code></Error>") if method == "GET" and "sha256" in path else (200, b"")

    with AnsweringServer(answer) as bad, kigi.patched(f"{REPOSITORIES}/main", s3(endpoint=bad.url)):
        yield


def s3(**fields: Any) -> dict[str, Any]:
    return {"spec": {"s3": fields}}


def event(reason: str, note: str, kind: str, name: str) -> Callable[[Installation], dict[str, Any]]:
    return lambda kigi: {
        "metadata": {"name": f"{name}.{reason.lower()}"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Warning",
        "reason": reason,
        "note": note,
        "action": "Create",
        "reportingController": "kubelet",
        "reportingInstance": "kubelet",
        "regarding": {"kind": kind, "name": name, "namespace": SYSTEM, "apiVersion": "apps/v1"},
    }


@contextmanager
def kubelet_elsewhere(kigi: Installation) -> Iterator[None]:
    """The daemon's pod waits for a directory of the host that this distribution does not have."""
    note = 'MountVolume.SetUp failed for volume "kubelet" : hostPath type check failed: no /var/lib/kubelet'
    pod = kigi.waiting_pod("kigi-node-cache-x", "ContainerCreating")
    with kigi.created(PODS, pod), kigi.created(EVENTS, event("FailedMount", note, "Pod", "kigi-node-cache-x")(kigi)):
        yield


@contextmanager
def refused_pods(kigi: Installation) -> Iterator[None]:
    daemons = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/kigi-node-cache"
    note = 'pods "kigi-node-cache-" is forbidden: violates PodSecurity "baseline:latest": privileged'
    happened = event("FailedCreate", note, "DaemonSet", "kigi-node-cache")(kigi)
    with kigi.patched(f"{daemons}/status", {"status": {"numberReady": 0}}), kigi.created(EVENTS, happened):
        yield


@contextmanager
def hook_not_pulled(kigi: Installation) -> Iterator[None]:
    kigi.plane.kubectl("create", "namespace", "class-7")
    kigi.plane.kubectl("create", "serviceaccount", "vm", "-n", "class-7")
    pod = kigi.waiting_pod("virt-launcher-office-1-mail1", "ImagePullBackOff", **{"kigi.dev/deployment": "office"})
    pod["spec"]["serviceAccountName"] = "vm"
    with kigi.created("/api/v1/namespaces/class-7/pods", pod):
        yield


GATES = "configuration"
NO_GATE = {"spec": {GATES: {"developerConfiguration": {"featureGates": ["NUMA"]}}}}
PLUGINS = {"spec": {GATES: {"developerConfiguration": {"featureGates": ["Sidecar", "Plugins"]}}}}
CASES: dict[str, tuple[Broken, str, str, str, str, str]] = {
    # name: (what breaks it, check, state, object, in the sentence, in the remedy)
    "no-kubevirt": (gone(f"{KUBEVIRTS}/kubevirt"), "kubevirt", "error", "KubeVirt", "no KubeVirt", "install KubeVirt"),
    "kubevirt-not-deployed": (
        patched(f"{KUBEVIRTS}/kubevirt/status", {"status": {"observedKubeVirtVersion": None}}),
        "kubevirt", "error", "KubeVirt/kubevirt", "not deployed", "describe kubevirt",
    ),
    "kubevirt-too-old": (
        patched(f"{KUBEVIRTS}/kubevirt/status", {"status": {"observedKubeVirtVersion": "v1.6.2"}}),
        "kubevirt", "error", "KubeVirt/kubevirt", "v1.6.2 is older", "upgrade KubeVirt",
    ),
    "kubevirt-too-new": (
        patched(f"{KUBEVIRTS}/kubevirt/status", {"status": {"observedKubeVirtVersion": "v1.11.0"}}),
        "kubevirt", "warning", "KubeVirt/kubevirt", "v1.11.0 is newer", "upgrade Kigi",
    ),
    "no-gate-sidecar": (
        patched(f"{KUBEVIRTS}/kubevirt", NO_GATE),
        "feature gate", "error", "KubeVirt/kubevirt", "gate Sidecar is off", "kigi enable-hook: it adds Sidecar",
    ),
    "no-definition": (
        without_definition,
        "definitions", "error", "CustomResourceDefinition/systemresets.kigi.dev", "does not exist", "kubectl apply",
    ),
    "old-definition": (
        old_definition,
        "definitions", "error", "CustomResourceDefinition/nodecaches.node.kigi.dev", "spec.operatorVersion", "-f crds",
    ),
    "definition-of-v1alpha1": (
        definition_of_another_version,
        "definitions", "error", "CustomResourceDefinition/treegrants.kigi.dev", "v1alpha1, and not v1alpha2", "-f crds",
    ),
    "no-policy": (
        gone(f"{ADMISSION}/validatingadmissionpolicies/kigi-status-writers"),
        "policies", "error", "ValidatingAdmissionPolicy/kigi-status-writers", "does not exist", "manifests/rbac",
    ),
    "policy-unbound": (
        gone(f"{ADMISSION}/validatingadmissionpolicybindings/kigi-node-cache"),
        "policies", "error", "ValidatingAdmissionPolicy/kigi-node-cache", "no ValidatingAdmissionPolicyBinding",
        "manifests/rbac",
    ),
    "policy-only-warns": (
        patched(f"{ADMISSION}/validatingadmissionpolicybindings/kigi-reset", {"spec": {"validationActions": ["Warn"]}}),
        "policies", "error", "ValidatingAdmissionPolicy/kigi-reset", "action Deny", "manifests/rbac",
    ),
    "policy-ignores-failures": (
        patched(f"{ADMISSION}/validatingadmissionpolicies/kigi-patches", {"spec": {"failurePolicy": "Ignore"}}),
        "policies", "error", "ValidatingAdmissionPolicy/kigi-patches", "failurePolicy is Ignore", "manifests/rbac",
    ),
    "operator-without-binding": (
        gone(f"{RBAC}/clusterrolebindings/kigi-operator"),
        "rights of Kigi", "error", "ServiceAccount/kigi-operator", "get vmimagenodes.kigi.dev", "roles and bindings",
    ),
    "daemon-without-leases": (
        gone(f"{RBAC}/namespaces/{SYSTEM}/rolebindings/kigi-node-cache"),
        "rights of Kigi", "error", "ServiceAccount/kigi-node-cache", "leases.coordination.k8s.io", "roles and bindings",
    ),
    "old-role": (
        patched(
            f"{RBAC}/clusterroles/kigi-node-cache",
            {"rules": [{"apiGroups": ["node.kigi.dev"], "resources": ["nodecaches"], "verbs": ["get"]}]},
        ),
        "rights of Kigi", "error", "ServiceAccount/kigi-node-cache", "patch nodecaches/status", "roles and bindings",
    ),
    "restricted-namespace": (
        patched(
            f"/api/v1/namespaces/{SYSTEM}",
            {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        ),
        "namespace", "error", f"Namespace/{SYSTEM}", "is restricted", "kubectl label --overwrite",
    ),
    "no-operator": (
        gone(f"{DEPLOYMENTS}/kigi-operator"),
        "installation", "error", "Deployment/kigi-operator", "does not exist", "--kigi-namespace",
    ),
    "operator-not-ready": (
        patched(f"{DEPLOYMENTS}/kigi-operator/status", {"status": {"readyReplicas": None}}),
        "operator", "error", "Deployment/kigi-operator", "none of its 2 pods", "describe pods",
    ),
    "operator-scaled-down": (
        patched(f"{DEPLOYMENTS}/kigi-operator", {"spec": {"replicas": 0}}),
        "operator", "error", "Deployment/kigi-operator", "replicas is 0", "--replicas=2",
    ),
    "no-leader": (
        lease("kigi-operator", lambda kigi: kigi.operator_lease() | {"spec": {"holderIdentity": ""}}),
        "leader", "error", "Lease/kigi-operator", "no operator leads", "logs deployment/kigi-operator",
    ),
    "operator-of-another-version": (
        lease("kigi-operator", lambda kigi: kigi.operator_lease(running="0.9.1")),
        "versions", "warning", "Deployment/kigi-operator", "0.9.1", "upgrade kigi",
    ),
    "image-not-pulled": (
        created(PODS, lambda kigi: kigi.waiting_pod("kigi-operator-y", "ErrImagePull", "kigi:dev")),
        "image of Kigi", "error", f"Namespace/{SYSTEM}", "kigi:dev cannot be pulled", "pull secret",
    ),
    "crashing-daemon": (
        created(PODS, lambda kigi: kigi.waiting_pod("kigi-node-cache-z", "CrashLoopBackOff")),
        "pods", "error", "Pod/kigi-node-cache-z", "9 restarts", "--previous",
    ),
    "pods-refused": (refused_pods, "pods", "error", "DaemonSet/kigi-node-cache", "PodSecurity", "pod-security label"),
    "kubelet-elsewhere": (
        kubelet_elsewhere,
        "kubelet directories", "error", "Pod/kigi-node-cache-x", "hostPath", "components/kubelet-root",
    ),
    "driver-not-registered": (
        patched(f"/apis/storage.k8s.io/v1/csinodes/{B}", {"spec": {"drivers": []}}),
        "kubelet directories", "error", f"CSINode/{B}", "has not registered disk.kigi.dev", "plugins_registry",
    ),
    "no-csidriver": (
        gone("/apis/storage.k8s.io/v1/csidrivers/disk.kigi.dev"),
        "driver", "error", "CSIDriver/disk.kigi.dev", "does not exist", "manifests/daemon",
    ),
    "no-node-with-a-daemon": (no_daemon, "nodes", "error", "Nodes", "no node has a daemon", "describe daemonset"),
    "node-without-a-daemon": (
        created("/api/v1/nodes", lambda kigi: {"metadata": {"name": "node-new"}}),
        "nodes", "warning", "Node/node-new", "no NodeCache", "get pods -o wide",
    ),
    "node-without-a-heartbeat": (
        gone(f"{LEASES}/{lease_name(B)}"),
        "heartbeats", "error", f"Node/{B}", "never sent a heartbeat", "get pods -o wide",
    ),
    "older-daemon": (
        lease("kigi-operator", lambda kigi: kigi.operator_lease(running="0.3.0")),
        "versions", "error", f"Node/{A}", "may be at most 1 minor version apart", "upgrade the daemon",
    ),
    "daemon-of-another-protocol": (
        cache(daemon={"version": "0.1.0", "protocols": [1]}),
        "versions", "error", f"Node/{A}", "understands protocol 1", "upgrade the daemon",
    ),
    "cache-unreadable": (
        cache(conditions=[condition("Stalled", "True", "CacheUnreadable", "cannot be used: read-only file system")]),
        "nodes", "error", f"NodeCache/{A}", "read-only file system", "repair the file system",
    ),
    "guests-fill-the-disk": (
        cache(conditions=[condition("DiskFilling", "True", "OverlaysGrow", "office/1/mail1 writes 2 GiB")]),
        "nodes", "error", f"NodeCache/{A}", "mail1 writes", "",
    ),
    "no-hard-links": (
        cache(node={"fileSystem": "nfs", "features": []}),
        "file systems", "error", f"Node/{A}", "nfs below /var/lib/kigi cannot link", "XFS, ext4 or Btrfs",
    ),
    "no-reflink": (
        cache(node={"fileSystem": "ext4", "features": ["FsVerity", "HardLinks"]}),
        "file systems", "warning", f"Node/{A}", "ext4 cannot share blocks", "XFS or Btrfs",
    ),
    "full-disk": (cache(freeBytes=GIB), "free space", "error", f"Node/{A}", "1.0 GiB are free", "KIGI_MIN_FREE"),
    "nearly-full-disk": (cache(freeBytes=9 * GIB), "free space", "warning", f"Node/{A}", "9.0 GiB", "larger disk"),
    "clock-two-minutes-ahead": (
        lease(lease_name(A), lambda kigi: kigi.node_lease(A, 120.0)),
        "clocks", "warning", f"Node/{A}", "s ahead of the API server's", "chronyc tracking",
    ),
    "clock-an-hour-behind": (
        lease(lease_name(B), lambda kigi: kigi.node_lease(B, -3600.0)),
        "clocks", "error", f"Node/{B}", "s behind the API server's", "timedatectl",
    ),
    "operators-clock": (
        lease("kigi-operator", lambda kigi: kigi.operator_lease(120.0)),
        "clocks", "warning", "operator kigi-operator-0", "s ahead of the API server's", "chronyc tracking",
    ),
    "no-certificate": (
        lease(
            lease_name(A),
            lambda kigi: {
                **(made := kigi.node_lease(A)),
                "metadata": {**made["metadata"], "annotations": {"node.kigi.dev/peer-certificates": ""}},
            },
        ),
        "peers", "warning", f"Node/{A}", "no certificate", "restart its daemon",
    ),
    "no-repository": (
        gone(f"{REPOSITORIES}/main"),
        "repositories", "error", "LayerRepositories", "there is none", "examples/repositories.yaml",
    ),
    "no-default-repository": (
        patched(f"{REPOSITORIES}/main", {"spec": {"defaultFor": "None"}}),
        "repositories", "warning", "LayerRepositories", "spec.defaultFor", "AllNamespaces",
    ),
    "no-secret": (
        gone(f"{SECRETS}/reader"),
        "buckets", "error", "LayerRepository/main", f"Secret {SYSTEM}/reader does not exist", "create the Secret",
    ),
    "wrong-credentials": (
        secret(secretAccessKey="wrong"),
        "buckets", "error", "LayerRepository/main", "must allow GetObject", "correct the Secret",
    ),
    "no-bucket": (
        patched(f"{REPOSITORIES}/main", s3(bucket="kigi-none")),
        "buckets", "error", "LayerRepository/main", "bucket kigi-none does not exist", "create the bucket",
    ),
    "server-down": (
        lambda kigi: _both(
            kigi.patched(f"{REPOSITORIES}/main", s3(endpoint="http://127.0.0.1:9")),
            kigi.patched(
                f"{REPOSITORIES}/main/status",
                {"status": {"conditions": [condition("Ready", "False", "RepositoryUnreachable", "no answer in time")]}},
            ),
        ),
        "buckets", "error", "LayerRepository/main", "127.0.0.1:9", "repair its server",
    ),
    "operator-is-refused": (
        patched(
            f"{REPOSITORIES}/main/status",
            {"status": {"conditions": [condition("Ready", "False", "AccessDenied", "InvalidAccessKeyId")]}},
        ),
        "repositories", "error", "LayerRepository/main", "InvalidAccessKeyId", "correct the Secret",
    ),
    "no-conditional-writes": (
        server_without_conditions,
        "buckets", "warning", "LayerRepository/main", "If-None-Match is ignored", "conditional writes",
    ),
    "reader-may-write": (
        secret(accessKeyId=USERS["writer"].access_key, secretAccessKey=USERS["writer"].secret_key),
        "buckets", "warning", "LayerRepository/main", "reader may not write", "take the right PutObject",
    ),
    "hook-not-pulled": (
        hook_not_pulled, "hook image", "error", "pods of VMs", "in namespace class-7", "imagePullSecrets",
    ),
    "hook-of-another-image": (
        lambda kigi: _kubectl(
            kigi,
            ("-n", SYSTEM, "set", "env", "deployment/kigi-operator", "KIGI_HOOK_IMAGE=kigi:dev"),
            ("-n", SYSTEM, "set", "env", "deployment/kigi-operator", "KIGI_HOOK_IMAGE-"),
        ),
        "hook image", "warning", "Deployment/kigi-operator", "KIGI_HOOK_IMAGE is kigi:dev", "remove KIGI_HOOK_IMAGE",
    ),
    "quota-without-namespaces": (
        created(
            "/apis/kigi.dev/v1alpha2/systemquotas",
            lambda kigi: {
                "apiVersion": "kigi.dev/v1alpha2",
                "kind": "SystemQuota",
                "metadata": {"name": "teams"},
                "spec": {"namespaceSelector": {"matchLabels": {"team": "none"}}, "hard": {"machines": 3}},
                "status": {"observedGeneration": 1, "namespaceCount": 0},
            },
        ),
        "limits", "warning", "SystemQuota/teams", "selects no namespace", "correct its labels",
    ),
}  # fmt: skip


@contextmanager
def _both(*contexts: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        for each in contexts:
            stack.enter_context(each)
        yield


@contextmanager
def _kubectl(kigi: Installation, before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[None]:
    kigi.plane.kubectl(*before)
    yield
    kigi.plane.kubectl(*after)


@pytest.mark.parametrize("name", CASES)
def test_a_broken_installation_is_named_with_its_remedy(healthy: Installation, name: str) -> None:
    broken, check, state, subject, sentence, remedy = CASES[name]
    with broken(healthy):
        _, findings = doctor(healthy.plane.kubeconfig)
    found = [each for each in findings if (each["check"], each["state"], each["object"]) == (check, state, subject)]
    texts = [(each["sentence"], each["remedy"]) for each in found]
    assert any(sentence in text and remedy in how for text, how in texts), [
        each for each in findings if each["state"] != "ok"
    ]


def test_after_all_it_is_healthy_again(healthy: Installation) -> None:
    """Each case has undone what it broke, so the others were found for their own reason."""
    code, findings = doctor(healthy.plane.kubeconfig)
    assert (code, [each for each in findings if each["state"] in ("error", "warning")]) == (0, [])


# Rights of the caller.


def test_a_caller_without_rights_gets_what_was_not_checked(healthy: Installation) -> None:
    kubeconfig = healthy.plane.user_kubeconfig("eve", ["system:authenticated"])
    code, findings = doctor(kubeconfig)
    states = {(each["check"], each["state"]) for each in findings}
    assert ("kubernetes", "ok") in states, "everybody may ask for the version"
    assert {("kubevirt", "not checked"), ("definitions", "not checked"), ("your rights", "warning")} <= states
    assert (code, [each for each in findings if each["state"] == "error"]) == (0, [])
    sentences = {each["sentence"] for each in findings if each["state"] == "not checked"}
    assert "you may not list kubevirts.kubevirt.io in the whole cluster" in sentences


def test_a_caller_who_may_only_see_the_cluster(healthy: Installation) -> None:
    kigi = healthy
    kigi.plane.kubectl("create", "clusterrolebinding", "vera", "--clusterrole=view", "--user=vera")
    rules = [{"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["list"]}]
    kigi.api.create(f"{RBAC}/clusterroles", {"metadata": {"name": "see-definitions"}, "rules": rules}).object()
    kigi.plane.kubectl("create", "clusterrolebinding", "vera-2", "--clusterrole=see-definitions", "--user=vera")
    _, findings = doctor(kigi.plane.user_kubeconfig("vera", ["system:authenticated"]), "--no-buckets")
    states = {(each["check"], each["object"]): each["state"] for each in findings}
    assert states["definitions", "CustomResourceDefinition"] == "ok"
    assert states["policies", "ValidatingAdmissionPolicy"] == "not checked"
    assert states["rights of Kigi", "ServiceAccount/kigi-operator"] == "not checked"
    assert states["your rights", "you"] == "warning"
    assert not [each for each in findings if each["state"] == "error"]
    assert "you may not: list vmimagenodes" in next(
        each["sentence"] for each in findings if each["check"] == "your rights"
    )


def test_before_the_installation_a_kubeconfig_is_enough(crds_free: ControlPlane) -> None:
    code, findings = doctor(crds_free.kubeconfig)
    assert [(each["check"], each["state"]) for each in findings if each["state"] == "error"] == [("kubevirt", "error")]
    assert code == 3
    by_check = {each["check"]: each for each in findings}
    assert "not installed" in by_check["installation"]["sentence"]
    assert by_check["your rights"]["sentence"] == "you may install Kigi"
    assert "definitions" not in by_check
    eve = crds_free.user_kubeconfig("eve", ["system:authenticated"])
    _, findings = doctor(eve)
    assert "you cannot install Kigi" in next(each["sentence"] for each in findings if each["check"] == "your rights")


@pytest.fixture
def crds_free(tmp_path: Path) -> Iterator[ControlPlane]:
    """A cluster without Kigi."""
    with ControlPlane(tmp_path / "plane") as plane:
        yield plane


def test_an_api_server_that_does_not_answer_is_one_message(tmp_path: Path, healthy: Installation) -> None:
    config = yaml.safe_load(healthy.plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, ["doctor", "--kubeconfig", str(path)])
    assert done.exit_code != 0
    assert "the API server does not answer" in f"{done.exception} {done.output}"


def test_a_bucket_whose_reader_is_plain_and_whose_owner_is_asked(healthy: Installation) -> None:
    """A bucket without versions and object lock: asked as its owner, both are warnings."""
    from localcluster.s3 import ROOT

    owner = {"AWS_ACCESS_KEY_ID": ROOT.access_key, "AWS_SECRET_ACCESS_KEY": ROOT.secret_key}
    arguments = ["doctor", "-o", "json", "--kubeconfig", str(healthy.plane.kubeconfig)]
    with healthy.patched(f"{REPOSITORIES}/main", s3(bucket=PLAIN)):
        done = CliRunner().invoke(app, arguments, env=owner)
    found = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "buckets"]
    assert {each["sentence"].partition(":")[0] for each in found} == {"versioning", "object lock"}
    assert {each["state"] for each in found} == {"warning"}


def test_version_shows_operator_and_daemons(healthy: Installation) -> None:
    arguments = ["version", "--kubeconfig", str(healthy.plane.kubeconfig)]
    ours = version("kigi")
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["kigi", ours], ["operator", ours], *[["daemon", ours]] * 2]
    with cache(daemon={"version": "0.9.0", "protocols": [2]})(healthy):
        data = json.loads(CliRunner().invoke(app, [*arguments, "-o", "json"]).stdout)
    assert data["operator"]["version"] == ours
    assert [("upgrade the operator" in node["skew"]) for node in data["nodes"]] == [True, False]
    with lease("kigi-operator", lambda kigi: kigi.operator_lease(running="0.2.7"))(healthy):
        data = json.loads(CliRunner().invoke(app, [*arguments, "-o", "json"]).stdout)
    assert data["operator"]["version"] == "0.2.7"
    assert [node["skew"] for node in data["nodes"]] == ["", ""]


def test_version_without_a_cluster_prints_its_own(healthy: Installation, tmp_path: Path) -> None:
    eve = healthy.plane.user_kubeconfig("eve", ["system:authenticated"])
    for kubeconfig in (eve, tmp_path / "none"):
        done = CliRunner().invoke(app, ["version", "--kubeconfig", str(kubeconfig)])
        lines = done.stdout.splitlines()
        assert (done.exit_code, len(lines), lines[1].split()[:2]) == (0, 2, ["kigi", version("kigi")])
        assert "only the version of this program" in done.stderr
