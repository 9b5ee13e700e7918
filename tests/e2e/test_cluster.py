"""The local cluster runs pods with mounts and a VM on a layered disk; pods reach the API server and S3."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.cluster import Cluster
from tests.support.guests import layered_disk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAMESPACE = "cluster-test"


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Any:
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    apply(cluster, document)
    yield NAMESPACE
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=300s")


def apply(cluster: Cluster, *documents: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-f", "-", input_text=yaml.safe_dump_all(documents))


def eventually(check: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Poll ``check`` until it is true, and return the seconds."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < timeout_s, f"{what} did not happen in {timeout_s:.0f} s"
        time.sleep(0.5)
    return time.monotonic() - started


def pod(name: str, script: str, **container: Any) -> dict[str, Any]:
    volumes = container.pop("volumes", [])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "volumes": volumes,
            "containers": [
                {"name": "main", "image": "kigi:dev", "imagePullPolicy": "Never", "command": ["sh", "-euc", script]}
                | container
            ],
        },
    }


def finish(cluster: Cluster, name: str) -> str:
    """Wait until the pod has succeeded, and return its log."""

    def ended() -> bool:
        phase = cluster.kubectl("get", "pod", "-n", NAMESPACE, name, "-o", "jsonpath={.status.phase}")
        assert phase != "Failed", cluster.kubectl("logs", "-n", NAMESPACE, name)
        return phase == "Succeeded"

    eventually(ended, 120, f"end of pod {name}")
    return cluster.kubectl("logs", "-n", NAMESPACE, name)


def test_up_is_healthy_and_a_second_up_changes_nothing(cluster: Cluster) -> None:
    assert cluster.status()["healthy"]
    before = cluster.status()["running"], {one.name for one in cluster.nodes()}
    started = time.monotonic()
    cluster.up()
    assert time.monotonic() - started < 120
    assert (cluster.status()["running"], {one.name for one in cluster.nodes()}) == before


def test_a_pod_reaches_the_api_server_with_its_token_and_the_s3_server(cluster: Cluster, namespace: str) -> None:
    script = f"""
import json, os, ssl, urllib.request
base = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=f"{{base}}/ca.crt")
server = f"https://{{os.environ['KUBERNETES_SERVICE_HOST']}}:{{os.environ['KUBERNETES_SERVICE_PORT']}}"
body = json.dumps({{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}}).encode()
headers = {{"Authorization": "Bearer " + open(f"{{base}}/token").read(), "Content-Type": "application/json"}}
request = urllib.request.Request(server + "/apis/authentication.k8s.io/v1/selfsubjectreviews", body, headers)
user = json.load(urllib.request.urlopen(request, timeout=10, context=context))["status"]["userInfo"]
print(user["username"], user["extra"]["authentication.kubernetes.io/node-name"][0])
try:
    urllib.request.urlopen("{cluster.s3().endpoint}/", timeout=10)
except urllib.error.HTTPError as error:
    print("s3", error.code)
"""
    apply(cluster, pod("reach", "true", command=["python3", "-c", script]))
    user, s3 = finish(cluster, "reach").splitlines()
    assert user == f"system:serviceaccount:{NAMESPACE}:default kigi-1"
    assert s3 == "s3 403"


def test_a_privileged_pod_leaves_a_mount_on_the_node_that_another_pod_sees(cluster: Cluster, namespace: str) -> None:
    path = f"/var/lib/kigi/{NAMESPACE}"
    volumes = [{"name": "host", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}]
    mount = {"name": "host", "mountPath": "/shared"}
    script = "mkdir -p /shared/made && mount -t tmpfs tmpfs /shared/made && echo here > /shared/made/file"
    mounter = pod(
        "mounter",
        f"{script}; sleep infinity",
        volumes=volumes,
        securityContext={"privileged": True},
        volumeMounts=[{**mount, "mountPropagation": "Bidirectional"}],
    )
    apply(cluster, mounter)
    cluster.kubectl("wait", "-n", NAMESPACE, "pod/mounter", "--for=condition=Ready", "--timeout=60s")
    node = cluster.nodes()[0]
    eventually(lambda: f"{path}/made" in node.enter("cat", "/proc/1/mountinfo"), 30, "mount on the node")
    assert path not in Path("/proc/self/mountinfo").read_text(), "the node's mounts must not reach the machine"
    apply(cluster, pod("reader", "cat /shared/made/file", volumes=volumes, volumeMounts=[mount]))
    assert finish(cluster, "reader").strip() == "here"
    cluster.kubectl("delete", "pod", "-n", NAMESPACE, "mounter", "--wait=true")
    node.enter("umount", f"{path}/made")


def test_a_virtual_machine_boots_from_the_top_of_a_chain_of_layers(cluster: Cluster, namespace: str) -> None:
    folder = cluster.nodes()[0].directory / "kigi" / f"{NAMESPACE}-disk"
    layered_disk(folder, ["written by the root", "written by the middle", "written by the top"])
    os.chown(folder / "disk.img", 107, 107)
    name, storage = f"{NAMESPACE}-disk", {"storage": "16Mi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": storage,
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "none",
            "claimRef": {"namespace": NAMESPACE, "name": name},
            "hostPath": {"path": f"/var/lib/kigi/{name}"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "none",
            "volumeName": name,
            "resources": {"requests": storage},
        },
    }
    hook = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "hook", "namespace": NAMESPACE},
        "data": {"hook.sh": '#!/bin/sh\nprintf %s "$4" | sed \'s/type="raw"/type="qcow2"/\'\n'},
    }
    apply(cluster, hook, volume, claim, machine(cluster, name))
    seconds = eventually(lambda: phase(cluster) == "Running", 300, "phase Running")
    print(f"Running after {seconds:.1f} s")
    launcher = ("-n", NAMESPACE, "-l", "vm.kubevirt.io/name=guest", "-c", "guest-console-log")
    console_log = lambda: cluster.kubectl("logs", *launcher)  # noqa: E731
    eventually(lambda: "written by the top" in console_log(), 120, "text on the serial console")
    assert "written by the root" not in console_log()
    cluster.kubectl("delete", "vmi", "-n", NAMESPACE, "guest", "--wait=true", "--timeout=120s")
    cluster.kubectl("delete", "pv", name, "--wait=false")


def machine(cluster: Cluster, claim: str) -> dict[str, Any]:
    sidecar = {
        "image": cluster.release.image_name("sidecar-shim"),
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/sidecar-shim"],
        "args": ["--version", "v1alpha2"],
        "configMap": {"name": "hook", "key": "hook.sh", "hookPath": "/usr/bin/onDefineDomain"},
    }
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": "guest",
            "namespace": NAMESPACE,
            "annotations": {"hooks.kubevirt.io/hookSidecars": json.dumps([sidecar])},
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "domain": {
                "memory": {"guest": "64Mi"},
                "devices": {
                    "logSerialConsole": True,
                    "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
                    "interfaces": [{"name": "default", "masquerade": {}}],
                },
            },
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }


def phase(cluster: Cluster) -> str:
    return cluster.kubectl("get", "vmi", "-n", NAMESPACE, "guest", "-o", "jsonpath={.status.phase}")
