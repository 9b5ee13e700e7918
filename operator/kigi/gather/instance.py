"""The view of one SystemInstance, read from the mirror: no request to the API server."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kigi.domain import names
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.names import FIELD_MANAGER
from kigi.domain.observed import VolumeRecord
from kigi.errors import KigiError, NotSelected, SpecInvalid, Waiting
from kigi.gather.nodes import instancetypes_of, load_of_others, nodes_for
from kigi.gather.quotas import gather_allowance
from kigi.gather.resets import accepted_requests
from kigi.mirror.records import DeploymentRecord, InstanceRecord
from kigi.mirror.store import Mirror
from kigi.planning import plugin
from kigi.planning.targets import systems_of_instance
from kigi.planning.view import InstanceObjects, InstanceView, MachineState


class InstancesPending(Waiting):
    """The SystemDeployment has not been reconciled yet: nothing would delete what its instances create."""

    reason = "InstancesPending"


class Deleting(Waiting):
    """The SystemDeployment is being deleted, and deletes its instances."""

    reason = "Deleting"


def gather_instance(mirror: Mirror, record: InstanceRecord, now: datetime) -> InstanceView:
    """The view of one instance. O(its machines and changed nodes).

    Raises SpecInvalid, NotSelected, InstancesPending or Deleting if it cannot be planned.
    """
    deployment = selecting_deployment(mirror, record)
    assert not isinstance(deployment.spec, KigiError)
    assert not isinstance(record.spec, KigiError)
    objects = gather_objects(mirror, *record.deployment, record.name, record)
    key = (*record.deployment, record.name)
    namespace = objects.namespace
    settings, spec = record.spec, deployment.spec
    nodes = nodes_for(mirror, key)
    wanted = {(settings.system_ref or spec.system_ref).tree_name, *systems_of_instance(settings)}
    return InstanceView(
        namespace=namespace,
        deployment=objects.deployment,
        deployment_uid=objects.deployment_uid,
        name=record.name,
        uid=record.meta.uid,
        has_finalizer=objects.has_finalizer,
        volumes=objects.volumes,
        claims=objects.claims,
        machines=objects.machines,
        policies=objects.policies,
        generation=record.meta.generation,
        deployment_generation=deployment.meta.generation,
        settings=settings,
        spec=spec,
        systems={name: mirror.resolved(namespace, name) for name in wanted},
        nodes=nodes,
        kubevirt=kubevirt_of(mirror),
        now=now,
        load=load_of_others(mirror, key),
        resets=accepted_requests(mirror, deployment, record.name, objects.volumes),
        changed_by=_changed_by(record, deployment),
        instancetypes=instancetypes_of(mirror, namespace),
        allowance=gather_allowance(mirror, namespace),
        old_status=record.status,
        written_bytes=_written_bytes(mirror, objects.volumes),
    )


def selecting_deployment(mirror: Mirror, record: InstanceRecord) -> DeploymentRecord:
    """The deployment that asks for the instance; its spec is valid.

    Raises SpecInvalid, NotSelected, InstancesPending or Deleting: then the instance stays as it is.
    """
    if isinstance(record.spec, KigiError):
        raise record.spec
    namespace, name = record.deployment
    deployment = mirror.deployments.get(namespace, name)
    if deployment is None:
        raise NotSelected(
            f"spec.deploymentRef.name: there is no SystemDeployment {namespace}/{name}; create it, or delete this "
            "instance"
        )
    if isinstance(deployment.spec, KigiError):
        raise SpecInvalid(f"SystemDeployment {name}: {deployment.spec}")
    if deployment.meta.deleting:
        raise Deleting(f"SystemDeployment {name} is being deleted, and this instance with it")
    if names.DEPLOYMENT_FINALIZER not in deployment.meta.finalizers:
        raise InstancesPending(f"SystemDeployment {name} has no finalizer yet, which makes it delete its instances")
    if not deployment.spec.selects(record.name):
        raise NotSelected(
            f"spec.name: SystemDeployment {name} does not ask for an instance {record.name}; raise its spec.replicas, "
            "add the name to its spec.instances, or delete this instance"
        )
    if record.owner_uids and deployment.meta.uid not in record.owner_uids:
        raise NotSelected(
            f"metadata.ownerReferences: another SystemDeployment of the name {name} owned this instance; "
            "a fresh one replaces it"
        )
    return deployment


def gather_objects(
    mirror: Mirror, namespace: str, deployment: str, name: str, record: InstanceRecord | None
) -> InstanceObjects:
    """What the instance has created; ``record`` None: its SystemInstance does not exist any more. O(its machines)."""
    key = (namespace, deployment, name)
    owner = mirror.deployments.get(namespace, deployment)
    return InstanceObjects(
        namespace=namespace,
        deployment=deployment,
        deployment_uid=owner.meta.uid if owner is not None else "",
        name=name,
        uid=record.meta.uid if record is not None else "",
        has_finalizer=record is not None and names.INSTANCE_FINALIZER in record.meta.finalizers,
        volumes=tuple(mirror.volumes.by("instance", key)),
        claims=tuple(mirror.claims.by("instance", key)),
        machines=tuple(
            MachineState(vm, mirror.vmis.get(namespace, vm.meta.name)) for vm in mirror.machines.by("instance", key)
        ),
        policies=tuple(mirror.policies.by("instance", key)),
    )


def _written_bytes(mirror: Mirror, volumes: Iterable[VolumeRecord]) -> dict[str, int]:
    found: dict[str, int] = {}
    for volume in volumes:
        cache = mirror.caches.get(None, volume.node)
        written = cache.written_bytes.get(volume.handle) if cache is not None else None
        if written is not None:
            found[volume.meta.name] = written
    return found


def _changed_by(record: InstanceRecord, deployment: DeploymentRecord) -> str:
    """Field manager of the change that the next decision answers: of the instance if its spec is not reported yet."""
    is_reported = record.status is not None and record.status.observed_generation == record.meta.generation
    return deployment.changed_by if is_reported or record.changed_by in ("", FIELD_MANAGER) else record.changed_by


def kubevirt_of(mirror: Mirror) -> KubeVirtState:
    """Version and disk hook of the cluster's KubeVirt."""
    for record in mirror.kubevirts:
        if record.state.hook != "Plugin":
            return record.state
        known = mirror.plugins.get(None, plugin.NAME)
        if known is not None and known.intact and not known.meta.deleting:
            return record.state
        why = f"Plugin {plugin.NAME} does not exist yet as applied; no VM starts on a layered disk without it"
        return KubeVirtState(record.state.version, None, why, pending=True)
    return KubeVirtState(why_not="KubeVirt is not installed: there is no KubeVirt object in the cluster")
