"""Pods of a tenant that mount a disk of Kigi, or take the place of Kigi's and KubeVirt's own pods.

hostPath and CAP_SYS_ADMIN at the level ``privileged`` reach the node's disk. docs/security.md names them as not
defended, and they are not tried here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from kigi.domain.names import CSI_DRIVER, STORAGE_CLASS, claim_name
from tests.campaigns.tenant_attack import CORE, OWN, Attack, Object, Victim, collection, make

IMAGE = "kigi:dev"
"""The one image that every node has."""
PLACE = "/stolen"
DISK = claim_name(OWN, "1", "m0", 1)
"""Claim of the tenant's own machine."""
SCRIPT = f"""
for file in $(find {PLACE} -type f); do
  chmod 666 $file; printf EVIL | dd of=$file bs=1 seek=70000 conv=notrunc; ln $file {PLACE}/second; mv $file $file.x
done
rm -rf {PLACE}/*; mount -o remount,rw {PLACE}; sleep 30
"""
MOUNTS: dict[str, Object] = {
    "whole": {},
    "readOnly": {"readOnly": True},
    "recursiveReadOnly": {"readOnly": True, "recursiveReadOnly": "IfPossible"},
    "subPath .": {"subPath": "."},
    "subPath chain": {"subPath": "chain"},
    "subPath of a layer": {"subPath": "chain/{layer}"},
    "subPath disk": {"subPath": "disk.img"},
    "subPath upwards": {"subPath": "../../volumes"},
    "subPathExpr": {"subPathExpr": "$(PART)"},
    "propagation None": {"mountPropagation": "None"},
    "propagation HostToContainer": {"mountPropagation": "HostToContainer"},
    "propagation Bidirectional": {"mountPropagation": "Bidirectional"},
    "device": {},
}
PLACES = ("containers", "initContainers", "ephemeralContainers")
RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 107,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True)
class Source:
    """A volume of a pod. ``refused``: no pod may be made with it."""

    volume: Object
    refused: bool = False
    pod_name: str = ""
    """Required name of the pod, for a claim whose name follows from it."""


def sources(victim: Victim) -> dict[str, Source]:
    """The volumes; ``needed`` makes the claims that they name."""

    def claim(name: str) -> Object:
        return {"persistentVolumeClaim": {"claimName": name}}

    template = {"spec": claim_spec(victim.volume)}
    inline = {
        "driver": CSI_DRIVER,
        "volumeAttributes": victim.volumes[victim.volume]["spec"]["csi"]["volumeAttributes"],
    }
    return {
        "own Kigi claim": Source(claim(DISK), refused=True),
        "name of the victim's claim": Source(claim(victim.claims[0]), refused=True),
        "claim of the victim's volume": Source(claim("stolen")),
        "inline volume": Source({"csi": inline}),
        "ephemeral volume": Source({"ephemeral": {"volumeClaimTemplate": template}}),
        "ephemeral volume with a Kigi name": Source(
            {"ephemeral": {"volumeClaimTemplate": template}}, refused=True, pod_name="virt-launcher-x.1.m.r1.a"
        ),
    }


def claim_spec(volume: str) -> Object:
    """Of a claim that asks for one PersistentVolume by name."""
    resources = {"requests": {"storage": "1Mi"}}
    return {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": STORAGE_CLASS,
        "volumeName": volume,
        "resources": resources,
    }


def needed(namespace: str, victim: Victim) -> Iterator[Attack]:
    """Claims that pods name, and that are attacks of their own."""
    for name in ("stolen", victim.claims[0]):
        body = make("PersistentVolumeClaim", name, claim_spec(victim.volume), CORE, labels=dict(victim.labels))
        path = collection(namespace, "persistentvolumeclaims", CORE)
        yield Attack("claims", f"claim {name} with volumeName", "POST", path, body)


def pod_attacks(namespace: str, level: str, victim: Victim, numbers: Iterator[int]) -> Iterator[Attack]:
    """A pod for each source, option of a mount, and kind of container."""
    layer = f"{next(iter(victim.images.values()))['digest'].partition(':')[2]}.qcow2"
    for (what, source), how, place in itertools.product(sources(victim).items(), MOUNTS, PLACES):
        name = source.pod_name or f"{'virt-launcher-' if next(numbers) % 2 else ''}pod-{next(numbers)}"
        body = pod(name, source.volume, how, place, level, layer)
        path = collection(namespace, "pods", CORE)
        refused = source.refused or place == "ephemeralContainers" or how == "propagation Bidirectional"
        yield Attack("pods", f"{level}: {what}, {how}, {place}", "POST", path, body, refused=refused)


def pod(name: str, volume: Object, how: str, place: str, level: str, layer: str = "") -> Object:
    """A pod with the volume in one container."""
    container = _container("c", level)
    holder = container if place == "containers" else _container("thief", level)
    if how == "device":
        holder["volumeDevices"] = [{"name": "data", "devicePath": PLACE}]
    else:
        options = {key: str(v).format(layer=layer) if key == "subPath" else v for key, v in MOUNTS[how].items()}
        holder["volumeMounts"] = [{"name": "data", "mountPath": PLACE, **options}]
        holder["env"] = [{"name": "PART", "value": "chain"}]
    spec: Object = {
        "containers": [container],
        "volumes": [{"name": "data", **volume}],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
    }
    if place != "containers":
        spec[place] = [holder]
    return make("Pod", name, spec, CORE)


def _container(name: str, level: str) -> Object:
    security = RESTRICTED if level == "restricted" else {"runAsUser": 0}
    found: Object = {"name": name, "image": IMAGE, "command": ["sh", "-c", SCRIPT], "securityContext": dict(security)}
    return found | {"imagePullPolicy": "IfNotPresent"}


def wrapper_attacks(namespace: str, level: str, numbers: Iterator[int]) -> Iterator[Attack]:
    """Objects whose controllers make pods with the tenant's own Kigi claim."""
    template = pod("unnamed", {"persistentVolumeClaim": {"claimName": DISK}}, "whole", "containers", level)
    job = {"template": {"spec": template["spec"]}, "backoffLimit": 0}
    labels = {"app": "thief"}
    always = {"metadata": {"labels": labels}, "spec": template["spec"] | {"restartPolicy": "Always"}}
    several = {"selector": {"matchLabels": labels}, "template": always}
    claims = [{"metadata": {"name": "data"}, "spec": claim_spec("")}]
    for plural, kind, version, spec in (
        ("deployments", "Deployment", "apps/v1", several),
        ("replicasets", "ReplicaSet", "apps/v1", several),
        ("daemonsets", "DaemonSet", "apps/v1", several),
        ("statefulsets", "StatefulSet", "apps/v1", several | {"serviceName": "x", "volumeClaimTemplates": claims}),
        ("replicationcontrollers", "ReplicationController", CORE, {"selector": labels, "template": always}),
        ("jobs", "Job", "batch/v1", job),
        ("cronjobs", "CronJob", "batch/v1", {"schedule": "* * * * *", "jobTemplate": {"spec": job}}),
    ):
        body = make(kind, f"w{next(numbers)}", spec, version)
        yield Attack("wrappers", f"{level}: {kind}", "POST", collection(namespace, plural, version), body)


def identity_attacks(namespace: str, level: str, victim: Victim, numbers: Iterator[int]) -> Iterator[Attack]:
    """Pods that look like Kigi's or KubeVirt's own."""
    path = collection(namespace, "pods", CORE)
    scratch = {"emptyDir": {}}
    token = {"serviceAccountToken": {"audience": "kigi-peer", "path": "token", "expirationSeconds": 3600}}
    for title, volume, spec, metadata, refused in (
        ("labels of the daemon", scratch, {}, {"labels": {"app.kubernetes.io/name": "kigi-node-cache"}}, False),
        ("labels of the operator", scratch, {}, {"labels": {"app.kubernetes.io/name": "kigi-operator"}}, False),
        (
            "labels of the victim's pods",
            scratch,
            {},
            {"labels": {**victim.labels, "kubevirt.io": "virt-launcher"}},
            False,
        ),
        ("account of the daemon", scratch, {"serviceAccountName": "kigi-node-cache"}, {}, True),
        ("account of the operator", scratch, {"serviceAccountName": "kigi-operator"}, {}, True),
        ("account of KubeVirt", scratch, {"serviceAccountName": "kubevirt-controller"}, {}, True),
        ("token for peers", {"projected": {"sources": [token]}}, {}, {}, False),
        ("Secrets of Kigi", {"secret": {"secretName": "kigi-daemon-repositories"}}, {}, {}, False),
        ("owned by the victim's VM", scratch, {}, {"ownerReferences": [victim.owner("VirtualMachine")]}, False),
    ):
        for name in (f"virt-launcher-{next(numbers)}", f"plain-{next(numbers)}"):
            body = pod(name, volume, "whole", "containers", level)
            body["spec"] |= spec
            body["metadata"] |= metadata
            yield Attack("identities", f"{level}: {title}", "POST", path, body, refused=refused)
