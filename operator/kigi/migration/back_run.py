"""The steps of the way back. Each can be repeated: a call after an interruption resumes where the last one stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kigi.adapters.kubernetes.resources import (
    CLAIM,
    INSTANCE,
    MACHINE,
    POLICY,
    VOLUME,
    Resource,
)
from kigi.domain import kinds, names
from kigi.errors import Conflict, NotFound, SpecInvalid, Waiting
from kigi.migration import freeze
from kigi.migration.back import convert_back
from kigi.migration.back_children import children_back, children_of_deleted, owners_of
from kigi.migration.backup import Backup, read_backup, write_backup
from kigi.migration.conversion import Conversion
from kigi.migration.crds import OLD, OPEN_STATUS, back_transition, stored_only
from kigi.migration.problems import Body, title
from kigi.migration.run import (
    BY_KIND,
    CONFIG_MAP,
    CONVERTED,
    DEFINITION,
    Cluster,
    Place,
    definition,
    lock,
    some_object,
    unlock,
    wait_served,
    without_managed_fields,
)

CHILDREN = (VOLUME, CLAIM, MACHINE, POLICY)
ATTEMPTS = 5
"""For an object that something else changes at the same time."""


def back_file(path: Path) -> Path:
    """Where the objects are saved on the way back: beside the file of the way forth."""
    return path.with_name(f"{path.name}.back")


def look_back(cluster: Cluster, path: Path) -> tuple[Backup, Conversion]:
    """What would be written, and the objects as they are now. Raises SpecInvalid if one cannot go back."""
    backup = read_backup(path)
    objects = [without_managed_fields(body) for body in _objects(cluster)]
    conversion = convert_back(objects, backup)
    if conversion.findings.problems:
        raise SpecInvalid("nothing was changed:\n" + "\n".join(conversion.findings.problems))
    return replace(backup, objects=tuple(objects)), conversion


def go_back(cluster: Cluster, path: Path, place: Place) -> int:
    """Stores every object in v1alpha1 again; their number. Raises SpecInvalid and Waiting, after which it is repeated.

    ``path``: the file that ``kigi migrate`` has written; it has the definitions of v1alpha1.
    """
    backup, saved = read_backup(path), back_file(path)
    lock(cluster, place.namespace, place.lease)
    objects: tuple[Body, ...] = ()
    if not _is_served(cluster, OLD):
        try:
            objects = _prepare(cluster, path, saved)
        except SpecInvalid:
            _let_go(cluster, place)
            raise
    elif _is_between(cluster, backup):
        objects = read_backup(saved).objects
        cluster.report(f"resuming from {saved}")
    if objects or _is_between(cluster, backup):
        _serve_old(cluster, backup)
    for body in objects:
        cluster.report(f"writing {title(body)}")
        _write(cluster, body)
    _finish(cluster, backup)
    _restore_config(cluster, backup)
    _delete_policies(cluster)
    _let_go(cluster, place)
    return len(objects)


def _prepare(cluster: Cluster, path: Path, saved: Path) -> tuple[Body, ...]:
    """The objects of v1alpha1, durable in a file; everything that Kigi created belongs to deployments again."""
    probe = next(((BY_KIND[body["kind"]], body) for body in _objects(cluster) if body["kind"] in BY_KIND), None)
    freeze.freeze(cluster.kube, tuple(BY_KIND.values()), probe, sleep=cluster.sleep, clock=cluster.clock)
    now, conversion = look_back(cluster, path)
    write_backup(saved, replace(now, objects=conversion.objects, is_final=True))
    owners = owners_of(body for body in now.objects if body["kind"] == kinds.DEPLOYMENT)
    for resource in CHILDREN:
        for body in children_back(list(cluster.kube.list_all(resource)), owners):
            cluster.report(f"writing {title(body)}")
            _replace_child(cluster, resource, body)
    # The previous operator does not know the finalizer of a deployment that is being deleted, and would never end that.
    for resource in (MACHINE, CLAIM, VOLUME, POLICY):
        for body in children_of_deleted(list(cluster.kube.list_all(resource)), owners):
            cluster.report(f"deleting {title(body)}")
            meta = body["metadata"]
            cluster.kube.delete(resource, meta.get("namespace"), meta["name"], uid=meta["uid"])
    return conversion.objects


def _replace_child(cluster: Cluster, resource: Resource, body: Body) -> None:
    meta = body["metadata"]
    for _ in range(ATTEMPTS):
        live = cluster.kube.get(resource, meta.get("namespace"), meta["name"])
        if live is None or live["metadata"]["uid"] != meta["uid"]:
            return
        wanted = {key: meta[key] for key in ("annotations", "ownerReferences") if key in meta}
        try:
            cluster.kube.replace(resource, {**live, "metadata": {**live["metadata"], **wanted}})
            return
        except Conflict:
            cluster.sleep(0.2)
    raise Waiting(f"{title(body)} is changed all the time by something else; call kigi migrate --back again")


def _objects(cluster: Cluster) -> Iterator[Body]:
    for resource in (*CONVERTED, INSTANCE):
        yield from cluster.kube.list_all(resource)


def _old(resource: Resource) -> Resource:
    return Resource(f"{names.GROUP}/{OLD}", resource.kind, resource.plural)


def _is_served(cluster: Cluster, version: str) -> bool:
    found = [definition(cluster, resource) for resource in CONVERTED]
    served = {each["name"] for body in found if body is not None for each in body["spec"]["versions"] if each["served"]}
    return version in served


def _is_between(cluster: Cluster, backup: Backup) -> bool:
    """Whether some definition is on its way: otherwise users may have changed the objects since."""
    found = [body["metadata"]["name"] for body in backup.definitions]
    return any((live := cluster.kube.get(DEFINITION, None, name)) is not None and _is_open(live) for name in found)


def _serve_old(cluster: Cluster, backup: Backup) -> None:
    cluster.report("definitions: v1alpha1 is stored, v1alpha2 is listed only")
    for old in backup.definitions:
        live = cluster.kube.get(DEFINITION, None, old["metadata"]["name"])
        if live is not None and names.VERSION in live["status"]["storedVersions"]:
            cluster.kube.replace(DEFINITION, back_transition(live, old))
    for resource in CONVERTED:
        wait_served(cluster, resource)


def _write(cluster: Cluster, body: Body) -> None:
    meta, resource = body["metadata"], _old(BY_KIND[body["kind"]])
    live = cluster.kube.get(resource, meta.get("namespace"), meta["name"])
    if live is None or live["metadata"]["uid"] != meta["uid"]:
        return
    kept = {key: meta[key] for key in ("annotations", "finalizers") if key in meta}
    cleared = {key: value for key, value in live["metadata"].items() if key not in ("annotations", "finalizers")}
    live = cluster.kube.replace(resource, body | {"metadata": {**cleared, **kept}})
    if "deletionTimestamp" not in live["metadata"]:  # else it may be gone
        cluster.kube.replace(resource, live | {"status": body.get("status", {})}, subresource="status")


def _finish(cluster: Cluster, backup: Backup) -> None:
    cluster.report("definitions: v1alpha2 is dropped")
    for old in backup.definitions:
        live = cluster.kube.get(DEFINITION, None, old["metadata"]["name"])
        if live is not None and (names.VERSION in live["status"]["storedVersions"] or _is_open(live)):
            live = cluster.kube.replace(DEFINITION, stored_only(live, OLD), subresource="status")
            cluster.kube.replace(DEFINITION, {**live, "spec": old["spec"]})
    known = {body["metadata"]["name"] for body in backup.definitions} | {f"nodecaches.{names.GROUP}"}
    for name, release in sorted(cluster.release.items()):
        if name not in known and (live := cluster.kube.get(DEFINITION, None, name)) is not None:
            cluster.report(f"deleting {name}")
            _free(cluster, release)
            cluster.kube.delete(DEFINITION, None, name, uid=live["metadata"]["uid"])


def _is_open(live: Body) -> bool:
    return any(each["name"] == names.VERSION or OPEN_STATUS in str(each) for each in live["spec"]["versions"])


def _free(cluster: Cluster, release: Body) -> None:
    """Takes the finalizers from all objects of a kind: nothing would, without the present operator."""
    spec = release["spec"]
    version = spec["versions"][0]["name"]
    resource = Resource(
        f"{spec['group']}/{version}", spec["names"]["kind"], spec["names"]["plural"], spec["scope"] == "Namespaced"
    )
    try:
        bodies = list(cluster.kube.list_all(resource))
    except NotFound:
        return
    for body in bodies:
        if body["metadata"].get("finalizers"):
            meta = {key: value for key, value in body["metadata"].items() if key != "finalizers"}
            try:
                cluster.kube.replace(resource, {**body, "metadata": meta})
            except (Conflict, NotFound) as exc:
                raise Waiting(f"{title(body)}: {exc}; call kigi migrate --back again") from exc


def _restore_config(cluster: Cluster, backup: Backup) -> None:
    config = backup.repositories
    if config is None or cluster.kube.get(CONFIG_MAP, config["metadata"]["namespace"], config["metadata"]["name"]):
        return
    kept = {key: config["metadata"][key] for key in ("name", "namespace", "labels") if key in config["metadata"]}
    cluster.kube.create(CONFIG_MAP, {**config, "metadata": kept})


def _delete_policies(cluster: Cluster) -> None:
    """The present release's admission policies know neither the previous operator nor its kinds."""
    for resource in (freeze.BINDING, freeze.POLICY):
        for body in list(cluster.kube.list_all(resource)):
            meta = body["metadata"]
            ours = (meta.get("labels") or {}).get("app.kubernetes.io/part-of") == "kigi"
            if ours and meta["name"] != freeze.NAME:
                cluster.kube.delete(resource, None, meta["name"], uid=meta["uid"])


def _let_go(cluster: Cluster, place: Place) -> None:
    freeze.thaw(cluster.kube, some_object(cluster), sleep=cluster.sleep, clock=cluster.clock)
    unlock(cluster, place.namespace, place.lease)
