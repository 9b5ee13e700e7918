"""Multus, for VMs with more networks than the pod's: added to a cluster that runs, gone with it.

Source: the thin plugin of Multus 4 (docs/configuration.md there): a CNI plugin that calls the node's own for a pod's
first network, and for the others does what the NetworkAttachmentDefinitions say that the pod's annotation names.
"""

import json
import shutil
from typing import Any

import yaml

from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.node import Node, pod_network

BRIDGE = "kigi900"
"""A link on which NetworkAttachmentDefinitions may join VMs: `down` removes it as it does those of the nodes."""


def add_multus(cluster: Cluster) -> None:
    """From now on each new pod of the nodes that run gets its networks by Multus. Idempotent."""
    cluster.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump(_definition()))
    cluster.kubectl(
        "wait", "--for=condition=Established", "crd/network-attachment-definitions.k8s.cni.cncf.io", "--timeout=60s"
    )
    for member in cluster.nodes():
        member.extra_plugins.mkdir(exist_ok=True)
        shutil.copy2(binary("multus"), member.extra_plugins / "multus")
        incoming = member.networks / "multus.new"
        incoming.write_text(json.dumps(_network(cluster, member)))
        incoming.rename(
            member.networks / "00-multus.conf"
        )  # containerd takes the first by name, as soon as it is there


def bridge_attachment(name: str, namespace: str) -> dict[str, Any]:
    """A NetworkAttachmentDefinition that joins VMs of one node at layer 2, without addresses."""
    config = {"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": BRIDGE, "ipam": {}}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"config": json.dumps(config)},
    }


def _network(cluster: Cluster, node: Node) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "multus",
        "type": "multus",
        "kubeconfig": str(cluster.kubeconfig),
        "binDir": str(node.plugins),
        "confDir": str(node.networks),
        "cniDir": str(node.directory / "multus"),
        "delegates": [pod_network(node)],
    }


def _definition() -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "network-attachment-definitions.k8s.cni.cncf.io"},
        "spec": {
            "group": "k8s.cni.cncf.io",
            "scope": "Namespaced",
            "names": {
                "plural": "network-attachment-definitions",
                "singular": "network-attachment-definition",
                "kind": "NetworkAttachmentDefinition",
                "shortNames": ["net-attach-def"],
            },
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
