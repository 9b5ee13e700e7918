"""Adds what conforming clusters have and this one lacks: Service addresses, names, and a default StorageClass.

kube-proxy and CoreDNS run as processes of the machine, like the API server. CoreDNS answers at the first node's
address. The StorageClass has static volumes: folders of the first node. `down` removes all of it.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from localcluster import images
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.images import Image
from localcluster.iptables import chains
from localcluster.node import Node, is_restarted, name_servers, node_address, restart_kubelet
from localcluster.paths import cache_dir
from localcluster.processes import Processes, free_port, is_listening
from localcluster.system import ensure_apt_packages

PACKAGES = ("iptables",)
CLASS = "local"
S3_IMAGE = "docker.io/versity/versitygw:v1.8.0"
"""The image that the manifests name, with the program that ``go/versitygw`` pins."""
_RESTART_S = 60.0
_DNS_PORT = 53


def add_services(cluster: Cluster, volumes: int = 1) -> None:
    """Starts kube-proxy and CoreDNS, and makes ``volumes`` empty volumes of the default StorageClass. Idempotent.

    Only pods that start later have the cluster's names.
    """
    ensure_apt_packages(PACKAGES)
    processes = Processes(cluster.directory / "services", detached=True)
    # The API server listens at this address itself, and has no endpoints that kube-proxy could lead to.
    ignored = "service.kubernetes.io/service-proxy-name=none"
    cluster.kubectl("label", "service", "kubernetes", "-n", "default", "--overwrite", ignored)
    cluster.enable_forwarding()
    _start_proxy(cluster, processes)
    _start_dns(cluster, processes)
    members = cluster.nodes()
    for member in members:
        if restart_kubelet(member, [node_address(1)]):
            _wait_until_restarted(member)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *(f"node/{one.name}" for one in members))
    _make_volumes(cluster, members[0], volumes)


def load_s3_image(cluster: Cluster) -> None:
    """Imports the image of versitygw on every node."""
    program = binary("versitygw")
    target = cache_dir() / "layers" / f"versitygw-{program.parent.name}.tar"
    layer = images.load(target) or images.pack_files({"usr/bin/versitygw": program}, target)
    cluster.load_images([Image(S3_IMAGE, (layer,), entrypoint=("/usr/bin/versitygw",))])


def renew_volumes(cluster: Cluster) -> None:
    """Empties the released volumes, and makes them available again."""
    member = cluster.nodes()[0]
    names = [f"persistentvolume/{CLASS}-{path.name}" for path in (member.directory / "volumes").iterdir()]
    cluster.kubectl("delete", *names, "--timeout=60s")
    shutil.rmtree(member.directory / "volumes")
    _make_volumes(cluster, member, len(names))


def _start_proxy(cluster: Cluster, processes: Processes) -> None:
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(cluster.user_kubeconfig("system:kube-proxy"))},
        # The mode nftables would refuse every address of the range without a Service, and with it the API server's.
        "mode": "iptables",
        "iptables": {"localhostNodePorts": False},
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": cluster.nodes()[0].name,
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": f"127.0.0.1:{free_port()}",
        "metricsBindAddress": f"127.0.0.1:{free_port()}",
    }
    if processes.is_running("kube-proxy"):
        return
    path = processes.directory / "kube-proxy.yaml"
    path.write_text(yaml.safe_dump(config))
    processes.start("kube-proxy", [binary("kube-proxy"), f"--config={path}"])
    processes.wait_until("kube-proxy", lambda: bool(chains()))


def _start_dns(cluster: Cluster, processes: Processes) -> None:
    if processes.is_running("coredns"):
        return
    address = node_address(1)
    path = processes.directory / "Corefile"
    path.write_text(
        f".:{_DNS_PORT} {{\n  bind {address}\n  errors\n  kubernetes cluster.local {{\n    kubeconfig "
        f"{cluster.kubeconfig}\n  }}\n  forward . {' '.join(name_servers())}\n}}\n"
    )
    processes.start("coredns", [binary("coredns"), "-conf", path])
    processes.wait_until("coredns", lambda: is_listening(address, _DNS_PORT))


def _wait_until_restarted(member: Node) -> None:
    deadline = time.monotonic() + _RESTART_S
    while not is_restarted(member):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the kubelet of {member.name} has not restarted within {_RESTART_S:.0f} s")
        time.sleep(0.1)


def _make_volumes(cluster: Cluster, member: Node, count: int) -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    objects = [storage_class, *(_volume(member, number) for number in range(1, count + 1))]
    cluster.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump_all(objects))


def _volume(member: Node, number: int) -> dict[str, Any]:
    path: Path = member.directory / "volumes" / str(number)
    path.mkdir(parents=True, exist_ok=True)
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [member.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{CLASS}-{number}"},
        "spec": {
            "storageClassName": CLASS,
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    }
