"""The steps of a migration. Each can be repeated: a call after an interruption resumes where the last one stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    DEPLOYMENT,
    IMAGE,
    INSTANCE,
    LEASE,
    PREFETCH,
    QUOTA,
    REPOSITORY,
    SYSTEM,
    Resource,
)
from kigi.adapters.kubernetes.session import KubeSession
from kigi.domain.comparison import includes
from kigi.domain.names import GROUP, VERSION
from kigi.errors import Conflict, KigiError, SpecInvalid, Waiting
from kigi.migration.backup import Backup
from kigi.migration.conversion import UNSEEN
from kigi.migration.crds import OLD, final, needs_migration, stored_only, transition
from kigi.migration.problems import Body, title

DEFINITION = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
CONFIG_MAP = Resource("v1", "ConfigMap", "configmaps")
CONVERTED = (IMAGE, SYSTEM, DEPLOYMENT, CAPTURE, PREFETCH)
"""Kinds that v1alpha1 has."""
ADDED = (INSTANCE, REPOSITORY, QUOTA)
"""Kinds of v1alpha2 that a conversion makes objects of."""
BY_KIND = {resource.kind: resource for resource in (*CONVERTED, *ADDED)}
ESTABLISH_S = 60.0
"""Time until the API server serves a new definition."""
BUSY_S = 60.0
"""Time for which the API server may answer 429 after a definition has changed."""
LOCKED_S = 3600.0
"""Time for which an interrupted migration keeps operators away."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the operator is, and how its objects are called."""

    namespace: str
    lease: str
    config_map: str = "kigi-repositories"
    """Repositories of v1alpha1."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a migration reads and writes. ``sleep`` and ``clock`` in seconds; tests replace them."""

    kube: KubeSession
    release: Mapping[str, Body]
    """Name -> CustomResourceDefinition of the release."""
    report: Callable[[str], None] = lambda text: None
    """Takes each step before it is carried out."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def export(cluster: Cluster, namespace: str, config_map: str) -> Backup:
    """Every object of v1alpha1, as it is stored. Raises SpecInvalid if the cluster has no v1alpha1 any more."""
    definitions = [body for resource in CONVERTED if (body := definition(cluster, resource)) is not None]
    served = {version for body in definitions for version in _served_versions(body)}
    if OLD not in served:
        raise SpecInvalid(
            f"no {GROUP}/{OLD} is served in this cluster, so there is nothing to export; to resume a migration, give "
            "--backup with the file of the first call"
        )
    objects: list[Body] = []
    for resource in CONVERTED:
        old = Resource(f"{GROUP}/{OLD}", resource.kind, resource.plural)
        objects += [without_managed_fields(body) for body in cluster.kube.list_all(old)]
    config = cluster.kube.get(CONFIG_MAP, namespace, config_map)
    return Backup(tuple(objects), tuple(definitions), config)


def has_begun(cluster: Cluster) -> bool:
    """Whether any kind has v1alpha2 already: v1alpha1 cannot be read any more."""
    definitions = [body for resource in CONVERTED if (body := definition(cluster, resource)) is not None]
    return any(version["name"] == VERSION for body in definitions for version in body["spec"]["versions"])


def is_complete(cluster: Cluster) -> bool:
    """Whether every object was converted: a definition has been told that none is stored in v1alpha1."""
    definitions = [body for resource in CONVERTED if (body := definition(cluster, resource)) is not None]
    return has_begun(cluster) and any(not needs_migration(body) for body in definitions)


def some_object(cluster: Cluster) -> tuple[Resource, Body] | None:
    """Any object of a converted kind, with the kind in a version that is served; None: there is none."""
    for resource in CONVERTED:
        for version in _served_versions(definition(cluster, resource)):
            kind = Resource(f"{GROUP}/{version}", resource.kind, resource.plural)
            for body in cluster.kube.list_all(kind):
                return kind, body
    return None


def _served_versions(definition: Body | None) -> list[str]:
    versions = definition["spec"]["versions"] if definition is not None else ()
    return [version["name"] for version in versions if version["served"]]


def serve_new(cluster: Cluster, backup: Backup) -> None:
    """Puts v1alpha2 in the place of v1alpha1, whose objects are still stored as they were."""
    cluster.report("definitions: v1alpha2 is stored, v1alpha1 is listed only")
    for resource in CONVERTED:
        live = definition(cluster, resource)
        if live is not None and needs_migration(live):
            wanted = transition(_with_versions(live, backup), _release(cluster, resource))
            if not includes(live["spec"], wanted["spec"]):
                cluster.kube.replace(DEFINITION, wanted)
    for resource in ADDED:
        _create_definition(cluster, resource)
    for resource in BY_KIND.values():
        wait_served(cluster, resource)


def changes(cluster: Cluster, backup: Backup) -> list[str]:
    """Objects that are not as the backup has them, before the first one is converted."""
    saved = {body["metadata"]["uid"]: body for body in backup.objects}
    live = {body["metadata"]["uid"]: body for resource in CONVERTED for body in cluster.kube.list_all(resource)}
    found = [title(live.get(uid) or saved[uid]) for uid in saved.keys() ^ live.keys()]
    both = saved.keys() & live.keys()
    return sorted(found + [title(live[uid]) for uid in both if _version(saved[uid]) != _version(live[uid])])


def _version(body: Body) -> str:
    return str(body["metadata"].get("resourceVersion"))


def apply(cluster: Cluster, backup: Backup, objects: tuple[Body, ...]) -> None:
    """Writes the converted objects. Nothing else may write meanwhile: see ``lock`` and ``freeze``.

    Raises SpecInvalid, with the old definitions in place again, if the API server refuses a converted object.
    """
    serve_new(cluster, backup)
    todo = [body for body in objects if not _is_written(cluster, body)]
    _rehearse(cluster, backup, todo)
    for body in todo:
        cluster.report(f"writing {title(body)}")
        _write(cluster, body)
    wrong = [title(body) for body in objects if not _is_written(cluster, body)]
    if wrong:
        raise Waiting(f"{', '.join(wrong[:5])}: not as written; something else writes them. Stop it, and resume")
    finish(cluster)


def finish(cluster: Cluster) -> None:
    """Drops v1alpha1, once no object is stored in it."""
    cluster.report("definitions: v1alpha1 is dropped")
    for resource in CONVERTED:
        live = definition(cluster, resource)
        if live is None:
            continue
        if needs_migration(live):
            live = cluster.kube.replace(DEFINITION, stored_only(live, VERSION), subresource="status")
        wanted = final(live, _release(cluster, resource))
        if not includes(live["spec"], wanted["spec"]):
            cluster.kube.replace(DEFINITION, wanted)


def _rehearse(cluster: Cluster, backup: Backup, todo: list[Body]) -> None:
    """Sends every write without effect first; if one is refused, the old definitions return."""
    refused: list[str] = []
    for body in todo:
        try:
            _write(cluster, body, dry_run=True)
        except KigiError as exc:
            refused.append(f"{title(body)}: {exc}")
    if not refused:
        return
    if not any(_is_written(cluster, body) for body in todo):
        restore(cluster, backup)
    raise SpecInvalid("the API server refuses converted objects, and nothing was changed:\n" + "\n".join(refused))


def restore(cluster: Cluster, backup: Backup) -> None:
    """Puts the definitions of v1alpha1 back. Only before the first object was written."""
    for old in backup.definitions:
        live = cluster.kube.get(DEFINITION, None, old["metadata"]["name"])
        if live is not None and OLD in (version["name"] for version in live["spec"]["versions"]):
            (new,) = [v for v in live["spec"]["versions"] if v["name"] == VERSION] or [None]
            if new is None:
                continue
            both = [*old["spec"]["versions"], {**new, "served": False, "storage": False}]
            live = cluster.kube.replace(DEFINITION, {**live, "spec": {**old["spec"], "versions": both}})
            live = cluster.kube.replace(DEFINITION, stored_only(live, OLD), subresource="status")
            cluster.kube.replace(DEFINITION, {**live, "spec": old["spec"]})


def _write(cluster: Cluster, body: Body, *, dry_run: bool = False) -> None:
    resource = BY_KIND[body["kind"]]
    meta = body["metadata"]
    if "uid" not in meta:
        try:
            cluster.kube.create(resource, body, dry_run=dry_run)
        except Conflict:
            if not _is_written(cluster, body):
                raise
        return
    live = cluster.kube.get(resource, meta.get("namespace"), meta["name"])
    if live is None or live["metadata"]["uid"] != meta["uid"]:
        raise SpecInvalid(f"{title(body)} was deleted or recreated since the backup; begin again with another --backup")
    kept = {key: meta[key] for key in ("annotations", "finalizers") if key in meta}
    cleared = {key: value for key, value in live["metadata"].items() if key not in ("annotations", "finalizers")}
    if not _has_spec(live, body):
        live = cluster.kube.replace(resource, body | {"metadata": {**cleared, **kept}}, dry_run=dry_run)
    if not dry_run and not _has_status(live, body):
        cluster.kube.replace(resource, live | {"status": body["status"]}, subresource="status")


def _is_written(cluster: Cluster, body: Body) -> bool:
    meta = body["metadata"]
    live = cluster.kube.get(BY_KIND[body["kind"]], meta.get("namespace"), meta["name"])
    return live is not None and _has_spec(live, body) and _has_status(live, body)


def _has_spec(live: Body, body: Body) -> bool:
    finalizers = body["metadata"].get("finalizers")
    if finalizers is not None and sorted(live["metadata"].get("finalizers") or ()) != sorted(finalizers):
        return False
    return includes(live.get("spec"), body["spec"])


def _has_status(live: Body, body: Body) -> bool:
    if "status" not in body:
        return True
    if body["status"] == UNSEEN:
        return bool(live.get("status") == UNSEEN)
    return includes(live.get("status"), _ended(body["status"]))


def _ended(status: Mapping[str, Any]) -> Body:
    return {key: status[key] for key in ("conditions", "completionTime") if key in status}


def lock(cluster: Cluster, namespace: str, lease_name: str, duration_s: float = LOCKED_S) -> None:
    """Takes the operators' Lease, so that no operator of any version acts. Raises SpecInvalid while one leads.

    After an interruption it keeps operators away for ``duration_s``, or until a call resumes.
    """
    lease = cluster.kube.get(LEASE, namespace, lease_name)
    holder = (lease or {}).get("spec", {}).get("holderIdentity")
    if lease is not None and holder and holder != HOLDER:
        cluster.report(f"waiting until the lease of operator {holder} has ended")
        cluster.sleep(float(lease["spec"].get("leaseDurationSeconds") or 15) + 1)
        again = cluster.kube.get(LEASE, namespace, lease_name)
        if again is not None and again["spec"].get("holderIdentity") and again["spec"] != lease["spec"]:
            raise SpecInvalid(
                f"an operator runs ({holder}); stop it: kubectl -n {namespace} scale deployment kigi-operator "
                "--replicas=0"
            )
        lease = again
    spec = {"holderIdentity": HOLDER, "leaseDurationSeconds": int(duration_s)}
    if lease is None:
        manifest = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "spec": spec}
        cluster.kube.create(LEASE, manifest | {"metadata": {"name": lease_name, "namespace": namespace}})
    else:
        cluster.kube.replace(LEASE, lease | {"spec": {**lease["spec"], **spec}})


HOLDER = "kigi-migrate"


def unlock(cluster: Cluster, namespace: str, lease_name: str) -> None:
    """Gives the Lease up, so that the new operator begins immediately."""
    lease = cluster.kube.get(LEASE, namespace, lease_name)
    if lease is not None and lease["spec"].get("holderIdentity") == HOLDER:
        cluster.kube.replace(
            LEASE, lease | {"spec": {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
        )


def definition(cluster: Cluster, resource: Resource) -> Body | None:
    """The CustomResourceDefinition of one of Kigi's kinds; None: there is none."""
    return cluster.kube.get(DEFINITION, None, f"{resource.plural}.{GROUP}")


def _release(cluster: Cluster, resource: Resource) -> Body:
    return cluster.release[f"{resource.plural}.{GROUP}"]


def _with_versions(live: Body, backup: Backup) -> Body:
    """The live definition with an entry of v1alpha1, which an interrupted call may have replaced already."""
    old = next(body for body in backup.definitions if body["metadata"]["name"] == live["metadata"]["name"])
    versions = [version for version in old["spec"]["versions"] if version["name"] == OLD]
    return {**live, "spec": {**live["spec"], "versions": versions}}


def _create_definition(cluster: Cluster, resource: Resource) -> None:
    if definition(cluster, resource) is None:
        cluster.kube.create(DEFINITION, _release(cluster, resource))


def wait_served(cluster: Cluster, resource: Resource) -> None:
    """Returns when the API server serves the kind. Raises Waiting after ESTABLISH_S."""
    end = cluster.clock() + ESTABLISH_S
    while not _is_served(definition(cluster, resource)):
        if cluster.clock() > end:
            raise Waiting(f"CustomResourceDefinition {resource.plural}.{GROUP} is not served; see its conditions")
        cluster.sleep(0.5)


def _is_served(definition: Body | None) -> bool:
    conditions: Iterator[Mapping[str, Any]] = iter((definition or {}).get("status", {}).get("conditions") or ())
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def without_managed_fields(body: Body) -> Body:
    """The object without the record of its writers, which is long."""
    return {**body, "metadata": {key: value for key, value in body["metadata"].items() if key != "managedFields"}}
