"""The mirror's stores: one for each kind, with its indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from kigi.adapters.kubernetes import resources
from kigi.domain.observed import ClaimRecord, MachineRecord, PolicyRecord, VmiRecord, VolumeRecord
from kigi.mirror.indexed import Each, Store
from kigi.mirror.records import (
    CacheRecord,
    CaptureRecord,
    CsiNodeRecord,
    DeploymentRecord,
    GrantRecord,
    ImageRecord,
    InstanceRecord,
    InstancetypeRecord,
    KubeVirtRecord,
    NamespaceRecord,
    NodeRecord,
    PluginRecord,
    PrefetchRecord,
    QuotaRecord,
    RepositoryRecord,
    ResetRecord,
    SystemRecord,
)
from kigi.mirror.references import references_of

P = TypeVar("P", ClaimRecord, MachineRecord, VmiRecord, PolicyRecord)


def _store_of_parts() -> Store[P]:
    """Objects of instances, by deployment and by instance: (namespace, deployment, instance)."""
    return Store(deployment=lambda r: r.deployment, instance=lambda r: (*r.deployment, r.instance))


class Stores:
    """Records of all kinds."""

    def __init__(self) -> None:
        self.images: Store[ImageRecord] = Store(
            namespace=lambda r: r.meta.namespace,
            names=Each(references_of),
            digest=lambda r: getattr(r.image, "digest", None),
        )
        self.systems: Store[SystemRecord] = Store(namespace=lambda r: r.meta.namespace, names=Each(references_of))
        self.grants: Store[GrantRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.deployments: Store[DeploymentRecord] = Store(
            namespace=lambda r: r.meta.namespace, names=Each(references_of)
        )
        self.instances: Store[InstanceRecord] = Store(
            namespace=lambda r: r.meta.namespace, deployment=lambda r: r.deployment, names=Each(references_of)
        )
        self.resets: Store[ResetRecord] = Store(namespace=lambda r: r.meta.namespace, deployment=lambda r: r.deployment)
        self.captures: Store[CaptureRecord] = Store(namespace=lambda r: r.meta.namespace, names=Each(references_of))
        self.prefetches: Store[PrefetchRecord] = Store(namespace=lambda r: r.meta.namespace, names=Each(references_of))
        self.repositories: Store[RepositoryRecord] = Store()
        self.quotas: Store[QuotaRecord] = Store()
        self.namespaces: Store[NamespaceRecord] = Store()
        self.nodes: Store[NodeRecord] = Store()
        self.csi_nodes: Store[CsiNodeRecord] = Store()
        self.caches: Store[CacheRecord] = Store()
        self.volumes: Store[VolumeRecord] = Store(
            deployment=lambda r: r.deployment,
            instance=lambda r: (*r.deployment, r.instance),
            node=lambda r: r.node,
            handle=lambda r: r.handle,
        )
        self.claims: Store[ClaimRecord] = _store_of_parts()
        self.machines: Store[MachineRecord] = _store_of_parts()
        self.vmis: Store[VmiRecord] = _store_of_parts()
        self.policies: Store[PolicyRecord] = _store_of_parts()
        self.kubevirts: Store[KubeVirtRecord] = Store()
        self.plugins: Store[PluginRecord] = Store()
        self.instancetypes: Store[InstancetypeRecord] = Store(namespace=lambda r: r.meta.namespace)
        self.cluster_instancetypes: Store[InstancetypeRecord] = Store()

    def by_kind(self) -> Mapping[str, Store[Any]]:
        """Every store, by the kind of its objects."""
        return {
            resources.IMAGE.kind: self.images,
            resources.SYSTEM.kind: self.systems,
            resources.GRANT.kind: self.grants,
            resources.DEPLOYMENT.kind: self.deployments,
            resources.INSTANCE.kind: self.instances,
            resources.RESET.kind: self.resets,
            resources.CAPTURE.kind: self.captures,
            resources.PREFETCH.kind: self.prefetches,
            resources.REPOSITORY.kind: self.repositories,
            resources.QUOTA.kind: self.quotas,
            resources.NAMESPACE.kind: self.namespaces,
            resources.NODE.kind: self.nodes,
            resources.CSI_NODE.kind: self.csi_nodes,
            resources.NODE_CACHE.kind: self.caches,
            resources.VOLUME.kind: self.volumes,
            resources.CLAIM.kind: self.claims,
            resources.MACHINE.kind: self.machines,
            resources.VMI.kind: self.vmis,
            resources.POLICY.kind: self.policies,
            resources.KUBEVIRT.kind: self.kubevirts,
            resources.PLUGIN.kind: self.plugins,
            resources.INSTANCETYPE.kind: self.instancetypes,
            resources.CLUSTER_INSTANCETYPE.kind: self.cluster_instancetypes,
        }
