"""KubeVirt from its Go module and Debian packages: its images, and its installation by its own virt-operator.

This repository contains no part of KubeVirt. Commands are built from the Go module, the CRD and the operator's RBAC are
read from the module's folder in the Go module cache, and virt-operator installs the rest.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from localcluster import images, rootfs
from localcluster.bounded import DOWNLOAD_S, run
from localcluster.build import binary
from localcluster.images import Image

NAMESPACE = "kubevirt"
_REGISTRY = "registry.local/kubevirt"
_COMPILE_S = 600.0
"""Timeout for compiling one C file."""

# libvirt, QEMU, firmware and TPM for virt-launcher; nftables, iproute2 and procps for virt-handler. All images share
# one root, so that the node stores its layer once.
_PACKAGES = (
    "qemu-system-x86 qemu-utils libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-log libvirt-clients seabios "
    "ovmf swtpm swtpm-tools ipxe-qemu nftables iproute2 procps acl passt xorriso libcap2-bin"
)
# Debian has no virtqemud. libvirtd with the QEMU driver serves the same protocol on a socket with another name.
_VIRTQEMUD = """#!/bin/sh
mkdir -p /var/run/libvirt
ln -sf libvirt-sock /var/run/libvirt/virtqemud-sock
exec /usr/sbin/libvirtd "$@"
"""
# virt-handler searches for serial consoles below /proc/PID/root/var/run. Debian's /var/run is an absolute link, which
# would resolve inside virt-handler's own root, so it is replaced by a relative one. The links in OVMF have the names
# under which KubeVirt searches for EFI firmware.
_ROOT_SCRIPT = f"""
groupadd --gid 107 qemu
useradd --uid 107 --gid 107 --home-dir /home/qemu --no-create-home --shell /usr/sbin/nologin qemu
apt-get update -q
apt-get install -q -y --no-install-recommends {_PACKAGES}
ln -sf /usr/bin/qemu-system-x86_64 /usr/bin/qemu-kvm
ln -sfn ../run /var/run
mkdir -p /usr/lib64/qemu-kvm /usr/libexec
ln -sf /usr/bin/qemu-system-x86_64 /usr/libexec/qemu-kvm
for part in CODE VARS; do ln -sf "OVMF_${{part}}_4M.fd" "/usr/share/OVMF/OVMF_$part.fd"; done
chown root:root /var/lib/libvirt /var/cache/libvirt
"""
# virt-launcher runs as user 107 and needs this capability on its file: without it the kernel refuses the exec (EPERM).
_CAP_NET_BIND_SERVICE = 10
_CAPABILITIES = {"usr/bin/virt-launcher-monitor": images.file_capability(_CAP_NET_BIND_SERVICE)}
_LAUNCHER = ("virt-launcher", "virt-launcher-monitor", "virt-freezer", "virt-probe", "virt-tail")
_QEMU_USER = 107


@dataclass(frozen=True, slots=True)
class Release:
    """A version of KubeVirt that the cluster can run, and its differences from other versions."""

    version: str
    folder: str
    """Folder below ``go/`` with the pinned module; also a prefix of the names of stored layers."""
    gate: str
    """Feature gate that Kigi's access to the disks needs."""
    suffix: str = ""
    """Suffix of the release's commands in ``build.PROGRAMS``."""
    deployments: tuple[str, ...] = ("virt-operator", "virt-api", "virt-controller")
    launcher: tuple[str, ...] = _LAUNCHER
    directories: Mapping[str, int] = field(default_factory=dict)
    """Additional directories of virt-launcher's image: path -> number of the owner."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Additional fields of the KubeVirt object's ``spec.configuration``."""

    def command(self, name: str) -> Path:
        """Path of a command such as ``virtctl``; built first if it is not in the cache."""
        return binary(f"{name}{self.suffix}")

    def image_name(self, component: str) -> str:
        """Image name, with registry and tag, of a component such as ``virt-api``."""
        return f"{_REGISTRY}/{component}:{self.version}"

    def source(self) -> Path:
        """Folder of KubeVirt's module in the Go module cache; downloaded if missing."""
        folder = Path(__file__).parent / "go" / self.folder
        command = ["go", "mod", "download", "-json", f"kubevirt.io/kubevirt@{self.version}"]
        answer = run(command, timeout_s=DOWNLOAD_S, cwd=folder)
        return Path(json.loads(answer.stdout)["Dir"])


RELEASES: Mapping[str, Release] = {
    "1.7": Release("v1.7.0", "kubevirt", "Sidecar"),
    "1.9": Release(
        "v1.9.0",
        "kubevirt19",
        "Plugins",
        suffix="-1.9",
        deployments=("virt-operator", "virt-api", "virt-controller", "virt-exportproxy"),
        launcher=(*_LAUNCHER, "libvirt-hook-client"),
        # virt-launcher replaces the hook of its image by libvirt-hook-client, so it must own this directory.
        directories={"etc/libvirt/hooks": _QEMU_USER},
        # virt-template has its own images, which this cluster does not need; its Go modules here are stand-ins.
        configuration={"virtTemplateDeployment": {"enabled": False}},
    ),
}
DEFAULT_RELEASE = "1.7"


def build_root(cache: Path) -> rootfs.Root:
    """The root file system of all images: Debian with libvirt and QEMU. Takes minutes the first time."""
    return rootfs.extend(cache, rootfs.base(cache), "kubevirt", _ROOT_SCRIPT)


def build_service_images(cache: Path, release: Release) -> list[Image]:
    """Images of operator, API and controller; needs only the commands without cgo."""
    command = release.command
    return [_image(cache, release, name, {f"usr/bin/{name}": command(name)}, "1001") for name in release.deployments]


def build_node_images(cache: Path, release: Release) -> list[Image]:
    """Images of the components that run on each node, and in each VM's pod."""
    command, module = release.command, release.source()
    source = module / "cmd/virt-launcher"
    launcher: dict[str, Path | str | bytes] = {f"usr/bin/{name}": command(name) for name in release.launcher}
    launcher |= {
        "usr/bin/container-disk": _build_container_disk(cache, release.version, module),
        "usr/bin/node-labeller.sh": source / "node-labeller/node-labeller.sh",
        "usr/sbin/virtqemud": _VIRTQEMUD,
        "etc/libvirt/qemu.conf": source / "qemu.conf",
        "etc/libvirt/virtqemud.conf": source / "virtqemud.conf",
        "etc/libvirt/virtlogd.conf": b"",
        "etc/libvirt/hooks/qemu": source / "qemu",
    }
    handler = {f"usr/bin/{name}": command(name) for name in ("virt-handler", "virt-chroot")}
    return [
        _image(cache, release, "virt-handler", handler),
        _image(cache, release, "virt-launcher", launcher, directories=release.directories),
        _image(cache, release, "sidecar-shim", {"usr/bin/sidecar-shim": command("sidecars")}, "1001"),
    ]


def _image(
    cache: Path,
    release: Release,
    name: str,
    files: Mapping[str, Path | str | bytes],
    user: str = "",
    directories: Mapping[str, int] | None = None,
) -> Image:
    """The image of one component; its own layer is built again when a file changes."""
    root = build_root(cache)
    # The path of a built command contains a hash of all its inputs.
    contents = [str(value) if isinstance(value, Path) else value for value in files.values()]
    state = rootfs.key(*files, *contents, repr(_CAPABILITIES), repr(release))
    prefix = f"{release.folder}-{name}-"
    target = cache / "layers" / f"{prefix}{state}.tar"
    layer = images.load(target) or images.pack_files(files, target, capabilities=_CAPABILITIES, directories=directories)
    rootfs.forget(cache, prefix, {target.stem})
    return Image(release.image_name(name), (*root.layers, layer), entrypoint=(f"/usr/bin/{name}",), user=user)


def _build_container_disk(cache: Path, version: str, module: Path) -> Path:
    """The static helper that keeps a containerDisk's socket open, compiled from one C file of the module."""
    target = cache / "bin" / f"container-disk-{version}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source = module / "cmd/container-disk-v2alpha/main.c"
        run(["gcc", "-static", "-O2", "-o", target, source], timeout_s=_COMPILE_S)
    return target


def operator_manifests(release: Release) -> list[dict[str, Any]]:
    """Objects to apply, in this order: namespace, KubeVirt's CRD, virt-operator's RBAC, virt-operator."""
    generated = release.source() / "manifests/generated"
    values = {"Namespace": NAMESPACE}
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged"},
            },
        }
    ]
    for name in ("kv-resource.yaml", "kubevirt-priority-class.yaml", "rbac-operator.authorization.k8s.yaml.in"):
        text = re.sub(r"{{\s*\.(\w+)\s*}}", lambda match: values[match[1]], (generated / name).read_text())
        objects.extend(item for item in yaml.safe_load_all(text) if item)
    return [*objects, _operator_deployment(release)]


def _operator_deployment(release: Release) -> dict[str, Any]:
    labels = {"kubevirt.io": "virt-operator"}
    components = (*release.deployments, "virt-handler", "virt-launcher", "sidecar-shim")
    env = [
        {"name": f"{name.upper().replace('-', '_')}_IMAGE", "value": release.image_name(name)} for name in components
    ]
    container = {
        "name": "virt-operator",
        "image": release.image_name("virt-operator"),
        "imagePullPolicy": "Never",
        "command": ["virt-operator"],
        "args": ["--port", "8443", "-v", "2"],
        "env": [
            *env,
            {"name": "KUBEVIRT_VERSION", "value": release.version},
            {
                "name": "WATCH_NAMESPACE",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['olm.targetNamespaces']"}},
            },
        ],
        "ports": [{"containerPort": 8443, "name": "metrics"}, {"containerPort": 8444, "name": "webhooks"}],
        "readinessProbe": {
            "httpGet": {"path": "/metrics", "port": 8443, "scheme": "HTTPS"},
            "timeoutSeconds": 30,
            "periodSeconds": 2,
        },
        "resources": {"requests": {"cpu": "10m", "memory": "100Mi"}},
        "volumeMounts": [
            {"name": "certificates", "mountPath": "/etc/virt-operator/certificates", "readOnly": True},
            {"name": "profile-data", "mountPath": "/profile-data"},
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "virt-operator", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": {**labels, "name": "virt-operator", "prometheus.kubevirt.io": "true"}},
                "spec": {
                    "serviceAccountName": "kubevirt-operator",
                    "priorityClassName": "kubevirt-cluster-critical",
                    "dnsPolicy": "Default",
                    "securityContext": {"runAsNonRoot": True},
                    "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
                    "containers": [container],
                    "volumes": [
                        {"name": "certificates", "secret": {"secretName": "kubevirt-operator-certs", "optional": True}},
                        {"name": "profile-data", "emptyDir": {}},
                    ],
                },
            },
        },
    }


def kubevirt_object(release: Release) -> dict[str, Any]:
    """The KubeVirt object: software emulation, the release's feature gate, one replica per part, small requests."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": NAMESPACE},
        "spec": {
            "imagePullPolicy": "Never",
            "infra": {"replicas": 1},
            "configuration": {
                "imagePullPolicy": "Never",
                "developerConfiguration": {
                    "useEmulation": True,
                    "featureGates": [release.gate],
                    # Ten guests share two cores: each guest CPU requests a fiftieth of a core.
                    "cpuAllocationRatio": 50,
                },
                **release.configuration,
                "supportContainerResources": [
                    {"type": "sidecar", "resources": {"requests": {"cpu": "1m", "memory": "32Mi"}}},
                    {"type": "guest-console-log", "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}}},
                ],
            },
            "customizeComponents": {
                "patches": [
                    _patch("Deployment", "virt-api", "100m"),
                    _patch("Deployment", "virt-controller", "300m"),
                    _patch("DaemonSet", "virt-handler", "300m"),
                ]
            },
        },
    }


def _patch(kind: str, component: str, cpu: str) -> dict[str, str]:
    """Patch of a component's CPU request and readiness probe.

    With KubeVirt's request of 10m, ten booting guests leave it a fiftieth of the CPU. Its probes begin after 15 s and
    repeat after 10 s, and virt-operator starts one component after another.
    """
    container = {
        "name": component,
        "resources": {"requests": {"cpu": cpu}},
        "readinessProbe": {"initialDelaySeconds": 1, "periodSeconds": 2},
    }
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    return {"resourceType": kind, "resourceName": component, "type": "strategic", "patch": json.dumps(patch)}
