"""The cluster that the demo runs on: the local cluster, or kind on a machine with Docker."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kigi.domain.names import API_VERSION
from localcluster.bounded import KUBECTL_S, QUICK_S, TimedOut, run
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.timeline import Timeline

REPOSITORY = Path(__file__).resolve().parents[1]
_KIND = REPOSITORY / "localcluster" / "kind" / "cluster.sh"
SYSTEM_NAMESPACE = "kigi-system"
GET_S = 120.0
"""Timeout for reading objects, on a machine that is busy with guests."""
_KIND_S = 3600.0
"""Timeout for kind: its image, the cluster, KubeVirt's release and Kigi's image."""


class DemoFailed(RuntimeError):
    """A step of the demo failed; the message has the step or command and its result."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running cluster with KubeVirt, an S3 server and the image ``kigi:dev``."""

    environment: Mapping[str, str]
    """KUBECONFIG, KIGI_S3_ENDPOINT, KIGI_S3_BUCKET and AWS_*, which ``kigi publish`` reads.

    Optionally KIGI_READER_*: credentials with read access only, for the daemons.
    """
    kubectl_path: str

    def kubectl(
        self, *arguments: str, objects: list[dict[str, Any]] | None = None, timeout_s: float = KUBECTL_S
    ) -> str:
        """Standard output of kubectl with ``objects`` as its input. Raises DemoFailed, also after ``timeout_s``."""
        text = yaml.safe_dump_all(objects) if objects is not None else None
        command = [self.kubectl_path, *arguments]
        environment = {**os.environ, **self.environment}
        try:
            done = run(command, timeout_s=timeout_s, env=environment, input_text=text, check=False)
        except TimedOut as exc:
            raise DemoFailed(str(exc)) from exc
        if done.returncode:
            raise DemoFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """Result of ``kubectl get ... -o json``. Raises DemoFailed, also if the API server does not answer in time."""
        answer: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json", timeout_s=GET_S))
        return answer

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply these objects with ``kubectl apply --server-side``."""
        self.kubectl(
            "apply", "--server-side", "--force-conflicts", "--field-manager=demo", "-f", "-", objects=list(objects)
        )


def start(kind: str, timeline: Timeline | None = None) -> Target:
    """Start the cluster of this kind, ``local`` or ``kind``, or use the running one. Raises DemoFailed.

    ``timeline`` gets the phases of the start.
    """
    if kind == "local":
        cluster = Cluster()
        cluster.up(timeline=timeline)
        cluster.load_kigi()
        return Target(cluster.environment(), str(binary("kubectl")))
    for program in ("docker", "kind", "kubectl"):
        if shutil.which(program) is None:
            raise DemoFailed(f"CLUSTER=kind needs the program {program}; without Docker use CLUSTER=local")
    subprocess.run(["bash", str(_KIND), "up"], check=True, timeout=_KIND_S)  # prints its progress to the terminal
    lines = run(["bash", _KIND, "env"], timeout_s=QUICK_S).stdout.splitlines()
    pairs = (shlex.split(line)[1].partition("=") for line in lines)
    return Target({name: value for name, _, value in pairs}, "kubectl")


def install_kigi(target: Target, *, repository: bool = True) -> None:
    """Apply ``manifests/``, and wait until operator, repository and daemons are ready.

    ``repository``: add the S3 server as the default repository; False if the cluster has its repositories already.
    """
    is_new = not target.get("deployments", "-n", SYSTEM_NAMESPACE)["items"]
    roles = {"kigi-repository-writer": "AWS"}
    roles["kigi-repository-reader"] = "KIGI_READER" if "KIGI_READER_ACCESS_KEY_ID" in target.environment else "AWS"
    target.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "manifests" / "namespace.yaml")
    )
    target.apply(
        *(_object("Secret", name, data=_credentials(target.environment, role)) for name, role in roles.items())
    )
    target.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(REPOSITORY / "manifests"))
    if repository:
        target.apply(_repository(target.environment))
    # The disk of a developer's machine may have little free space, and the local cluster's kubelet does not evict pods
    # when the disk fills.
    target.kubectl(
        "-n", SYSTEM_NAMESPACE, "set", "env", "daemonset/kigi-node-cache", "-c", "cache", "KIGI_MIN_FREE=1Gi"
    )
    if is_new:
        _wait_for_rollout(target, "deployment/kigi-operator")
    else:
        _restart(target, "deployment/kigi-operator")  # the image may have changed under the same name
    target.kubectl("wait", "--for=condition=Ready", "layerrepository", "--all", "--timeout=120s")
    # New pods mount the credentials immediately; running ones get them a minute later.
    _restart(target, "daemonset/kigi-node-cache")
    _wait_for_caches(target)


def _restart(target: Target, workload: str) -> None:
    target.kubectl("-n", SYSTEM_NAMESPACE, "rollout", "restart", workload)
    _wait_for_rollout(target, workload)


def _wait_for_rollout(target: Target, workload: str) -> None:
    target.kubectl("-n", SYSTEM_NAMESPACE, "rollout", "status", workload, "--timeout=300s")


def _repository(environment: Mapping[str, str]) -> dict[str, Any]:
    """The S3 server as the default repository of all namespaces."""
    return {
        "apiVersion": API_VERSION,
        "kind": "LayerRepository",
        "metadata": {"name": "main"},
        "spec": {
            "s3": {"endpoint": environment["KIGI_S3_ENDPOINT"], "bucket": environment["KIGI_S3_BUCKET"]},
            "credentials": {
                "readerSecretRef": {"name": "kigi-repository-reader"},
                "writerSecretRef": {"name": "kigi-repository-writer"},
            },
            "namespaceSelector": {},
            "defaultFor": "AllNamespaces",
        },
    }


def _credentials(environment: Mapping[str, str], role: str) -> dict[str, str]:
    """Data of a Secret, from the variables ``<role>_ACCESS_KEY_ID`` and ``<role>_SECRET_ACCESS_KEY``."""
    keys = {"accessKeyId": f"{role}_ACCESS_KEY_ID", "secretAccessKey": f"{role}_SECRET_ACCESS_KEY"}
    return {field: base64.b64encode(environment[name].encode()).decode() for field, name in keys.items()}


def _wait_for_caches(target: Target) -> None:
    """Wait until every NodeCache has a status. Raises DemoFailed after 120 s."""
    deadline = time.monotonic() + 120
    while True:
        caches = target.get("nodecaches")["items"]
        if caches and all(cache.get("status", {}).get("observedGeneration", -1) >= 0 for cache in caches):
            return
        if time.monotonic() > deadline:
            raise DemoFailed(f"not every daemon has reported within 120 s; {len(caches)} NodeCaches exist")
        time.sleep(0.5)


def _object(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": SYSTEM_NAMESPACE}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}
