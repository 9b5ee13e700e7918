"""Adds Multus to a running cluster, for VMs with more networks than the pod network; `down` removes it.

Source: docs/configuration.md of Multus 4, thin plugin. This CNI plugin delegates a pod's first network to the node's
own plugin. For the other networks it follows the NetworkAttachmentDefinitions in the pod's annotation.
"""

import json
import shutil
from typing import Any

import yaml

from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.definitions import wait_until_served
from localcluster.node import Node, pod_network

BRIDGE = "kigi900"
"""Name of a bridge for NetworkAttachmentDefinitions; `down` removes it with the nodes' bridges."""


def add_multus(cluster: Cluster) -> None:
    """Let Multus set up the networks of all new pods on the current nodes. Idempotent."""
    cluster.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump(_definition()))
    wait_until_served(cluster.kubectl)
    for member in cluster.nodes():
        member.extra_plugins.mkdir(exist_ok=True)
        shutil.copy2(binary("multus"), member.extra_plugins / "multus")
        incoming = member.networks / "multus.new"
        incoming.write_text(json.dumps(_network(cluster, member)))
        # containerd uses the first configuration by name as soon as it appears.
        incoming.rename(member.networks / "00-multus.conf")


def bridge_attachment(name: str, namespace: str) -> dict[str, Any]:
    """A NetworkAttachmentDefinition that connects VMs of one node at layer 2, without IP addresses."""
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
