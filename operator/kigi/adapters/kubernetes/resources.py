"""The API resources that Kigi uses: version, kind, path and label selector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kigi.domain import kinds, names


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, as the API server serves it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True
    selector: str = ""
    """Label selector of the objects that Kigi uses; empty: all."""

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version within the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """Path of an object; without ``name``, of all objects of a namespace or of the cluster."""
        prefix = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [prefix]
        if self.namespaced and namespace is not None:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        parts.extend(part for part in (name, subresource) if part)
        return "/".join(parts)


_OURS = names.LABEL_DEPLOYMENT

IMAGE = Resource(names.API_VERSION, kinds.IMAGE, "vmimagenodes")
SYSTEM = Resource(names.API_VERSION, kinds.SYSTEM, "systemnodes")
DEPLOYMENT = Resource(names.API_VERSION, kinds.DEPLOYMENT, "systemdeployments")
INSTANCE = Resource(names.API_VERSION, kinds.INSTANCE, "systeminstances")
CAPTURE = Resource(names.API_VERSION, kinds.CAPTURE, "systemcaptures")
RESET = Resource(names.API_VERSION, kinds.RESET, "systemresets")
PREFETCH = Resource(names.API_VERSION, kinds.PREFETCH, "systemprefetches")
GRANT = Resource(names.API_VERSION, kinds.GRANT, "treegrants")
REPOSITORY = Resource(names.API_VERSION, kinds.REPOSITORY, "layerrepositories", namespaced=False)
QUOTA = Resource(names.API_VERSION, kinds.QUOTA, "systemquotas", namespaced=False)
NODE_CACHE = Resource(names.NODE_API_VERSION, kinds.NODE_CACHE, "nodecaches", namespaced=False)
NAMESPACE = Resource("v1", "Namespace", "namespaces", namespaced=False)
NODE = Resource("v1", "Node", "nodes", namespaced=False)
CSI_NODE = Resource("storage.k8s.io/v1", "CSINode", "csinodes", namespaced=False)
VOLUME = Resource("v1", kinds.VOLUME, "persistentvolumes", namespaced=False, selector=_OURS)
CLAIM = Resource("v1", kinds.CLAIM, "persistentvolumeclaims", selector=_OURS)
MACHINE = Resource("kubevirt.io/v1", kinds.MACHINE, "virtualmachines", selector=_OURS)
VMI = Resource("kubevirt.io/v1", kinds.VMI, "virtualmachineinstances", selector=_OURS)
POLICY = Resource("networking.k8s.io/v1", kinds.POLICY, "networkpolicies", selector=_OURS)
KUBEVIRT = Resource("kubevirt.io/v1", "KubeVirt", "kubevirts")
PLUGIN = Resource("plugin.kubevirt.io/v1alpha1", kinds.PLUGIN, "plugins", namespaced=False)
INSTANCETYPE = Resource("instancetype.kubevirt.io/v1beta1", kinds.INSTANCETYPE, "virtualmachineinstancetypes")
CLUSTER_INSTANCETYPE = Resource(
    "instancetype.kubevirt.io/v1beta1",
    kinds.CLUSTER_INSTANCETYPE,
    "virtualmachineclusterinstancetypes",
    namespaced=False,
)
SECRET = Resource("v1", "Secret", "secrets")
SERVICE = Resource("v1", "Service", "services")
SERVICE_ACCOUNT = Resource("v1", "ServiceAccount", "serviceaccounts")
ROLE = Resource("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDING = Resource("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
CONFIG_MAP = Resource("v1", "ConfigMap", "configmaps")
LEASE = Resource("coordination.k8s.io/v1", "Lease", "leases")
HEARTBEAT = Resource("coordination.k8s.io/v1", "Lease", "leases", selector=names.LABEL_HEARTBEAT)
"""The Leases of the nodes' daemons, in Kigi's namespace."""
WORKLOAD = Resource("apps/v1", "Deployment", "deployments")
"""Of Kubernetes; DEPLOYMENT is Kigi's."""
CLUSTER_ROLE_BINDING = Resource(
    "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False
)
OPERATOR = Resource("apps/v1", "Deployment", "deployments", selector="app.kubernetes.io/name=kigi-operator")
POD = Resource("v1", "Pod", "pods", selector="kubevirt.io=virt-launcher")
"""Pods of VMs."""
EVENT = Resource("events.k8s.io/v1", "Event", "events")
TOKEN_REVIEW = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False)
SELF_REVIEW = Resource("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False)
ENDPOINT_SLICE = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")

WATCHED = (
    NAMESPACE,
    QUOTA,
    GRANT,
    REPOSITORY,
    IMAGE,
    SYSTEM,
    DEPLOYMENT,
    INSTANCE,
    RESET,
    CAPTURE,
    PREFETCH,
    NODE_CACHE,
    NODE,
    CSI_NODE,
    VOLUME,
    CLAIM,
    MACHINE,
    VMI,
    POLICY,
    KUBEVIRT,
    PLUGIN,
    INSTANCETYPE,
    CLUSTER_INSTANCETYPE,
)
"""Kinds in the mirror, in the order of the first listing: a referenced kind comes before those that refer to it."""

CHILDREN = (VOLUME, CLAIM, MACHINE, VMI)
"""Those of ``WATCHED`` with the most objects and changes: disks and VMs."""

BY_KIND: Mapping[str, Resource] = {resource.kind: resource for resource in WATCHED}


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """The resource of a manifest. KeyError for a kind that is not in the mirror."""
    return BY_KIND[manifest["kind"]]
