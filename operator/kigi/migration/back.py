"""The way back, from v1alpha2 to v1alpha1: pure, and complete before anything is written.

An object that has not changed since the migration gets the spec of the export. Any other is converted, and the result
converted forth again: what does not come out as it is now cannot be expressed in v1alpha1, and is a problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kigi.domain import kinds, names
from kigi.domain.comparison import includes
from kigi.migration.back_machines import machine_back
from kigi.migration.backup import Backup
from kigi.migration.conversion import Conversion, convert
from kigi.migration.crds import OLD, dropped_fields
from kigi.migration.names import CAPTURED_FROM, EQUALS, OLD_FINALIZER
from kigi.migration.problems import Body, Findings, without_none

Settings = Mapping[tuple[str, str], Mapping[str, Body]]
"""(namespace, deployment) -> name of the instance -> what differs for it."""
KEPT = (kinds.IMAGE, kinds.SYSTEM, kinds.DEPLOYMENT, kinds.PREFETCH)
"""Kinds whose objects go back; ended captures go back if the export has them."""
_SWITCH = {"ReplaceChanged": "KeepUnchanged"}
_SETTINGS = ("systemRef", "powerState", "machines")
_PROVENANCE = "provenance"
"""v1alpha1 does not have the name of the capture."""
_REMEDY = "v1alpha1 cannot express it; change the object, or delete it, before you go back"


def convert_back(objects: Sequence[Body], backup: Backup) -> Conversion:
    """Every object in v1alpha1. ``objects``: all of v1alpha2, with their SystemInstances."""
    findings = Findings()
    saved = {body["metadata"]["uid"]: body for body in backup.objects}
    forth = {_uid(body): body for body in convert(backup.objects).objects if "uid" in body["metadata"]}
    instances = _instances(objects)
    result: list[Body] = []
    for body in objects:
        uid = _uid(body)
        if body["kind"] == kinds.CAPTURE:
            if uid in saved:
                result.append(_as_old(body, saved[uid]["spec"], saved[uid]))
            else:
                findings.note(body, "this record of a capture is deleted; its images and its state stay")
        elif body["kind"] in KEPT:
            unchanged = uid in saved and _equal(forth[uid]["spec"], body["spec"])
            own = instances.get(_key(body), {}) if body["kind"] == kinds.DEPLOYMENT else {}
            spec = saved[uid]["spec"] if unchanged and body["kind"] != kinds.DEPLOYMENT else _spec(body, own)
            result.append(_as_old(body, spec, saved.get(uid) if unchanged else None))
    _check(objects, result, instances, findings)
    _check_fields(result, backup, findings)
    return Conversion(tuple(result), findings)


def _check(objects: Iterable[Body], old: list[Body], instances: Settings, findings: Findings) -> None:
    """Converts everything forth again."""
    again = convert([body for body in old if body["kind"] != kinds.CAPTURE])
    by_key = {(body["kind"], *_key(body)): body for body in again.objects}
    settings = _instances(again.objects)
    for body in objects:
        if body["kind"] not in KEPT or _is_going(body):
            continue
        found, wanted = by_key[body["kind"], *_key(body)]["spec"], _without_defaults(body)
        for name in sorted((found.keys() | wanted.keys()) - {_PROVENANCE}):
            if not _equal(found.get(name), wanted.get(name)):
                findings.problem(body, f"spec.{name}: {_REMEDY}")
        key = _key(body)
        if body["kind"] == kinds.DEPLOYMENT and not _equal(settings.get(key, {}), instances.get(key, {})):
            findings.problem(body, f"the settings of its SystemInstances: {_REMEDY}")
    findings.problems.extend(again.findings.problems)


def _check_fields(old: Iterable[Body], backup: Backup, findings: Findings) -> None:
    """The API server prunes silently what the schemas of v1alpha1 do not have."""
    schemas: dict[str, Body] = {}
    for definition in backup.definitions:
        version = next(each for each in definition["spec"]["versions"] if each["name"] == OLD)
        schemas[definition["spec"]["names"]["kind"]] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for body in (body for body in old if not _is_going(body)):
        for path in dropped_fields(body["spec"], schemas[body["kind"]]):
            findings.problem(body, f"spec.{path} in v1alpha1: {_REMEDY}")


def _without_defaults(body: Body) -> Body:
    if body["kind"] != kinds.DEPLOYMENT:
        return dict(body["spec"])
    spec = {"replicas": 1, **body["spec"]}
    if spec.get("powerState") == "On":
        del spec["powerState"]
    return spec


def _instances(objects: Iterable[Body]) -> Settings:
    """Settings of SystemInstances that have some: (namespace, deployment) -> name -> settings."""
    found: dict[tuple[str, str], dict[str, Body]] = defaultdict(dict)
    for body in objects:
        if body["kind"] == kinds.INSTANCE and "deletionTimestamp" not in body["metadata"]:
            spec = body["spec"]
            settings = {key: spec[key] for key in _SETTINGS if spec.get(key)}
            if settings:
                found[body["metadata"]["namespace"], spec["deploymentRef"]["name"]][spec["name"]] = settings
    return found


def _as_old(body: Body, spec: Body, saved: Body | None) -> Body:
    meta = {**body["metadata"]}
    annotations = {**(meta.get("annotations") or {}), **_provenance(body)}
    meta["annotations"] = (saved["metadata"].get("annotations") or {}) if saved is not None else annotations
    back = {names.DEPLOYMENT_FINALIZER: OLD_FINALIZER}
    if _is_going(body):  # the API server refuses new finalizers on it; ``back_run`` deletes what belongs to it
        back = {}
    known = (names.CAPTURE_FINALIZER, names.DEPLOYMENT_FINALIZER)
    finalizers = [back.get(name, name) for name in meta.get("finalizers") or ()]
    meta["finalizers"] = [name for name in finalizers if name not in known]
    status = {"status": saved["status"]} if saved is not None and "status" in saved else {}
    return {
        "apiVersion": f"{names.GROUP}/{OLD}",
        "kind": body["kind"],
        "metadata": meta,
        "spec": spec,
        **status,
    }


def _provenance(body: Body) -> dict[str, str]:
    provenance = body["spec"].get(_PROVENANCE) or {}
    if flattened := provenance.get("flattened"):
        return {EQUALS: f"{flattened['imageName']}@{flattened['digest']}"}
    if captured := provenance.get("captured"):
        return {CAPTURED_FROM: "/".join(captured["instanceName"].rsplit("-", 1))}
    return {}


def _spec(body: Body, instances: Mapping[str, Body]) -> Body:
    match body["kind"]:
        case kinds.IMAGE:
            return _image(body["spec"])
        case kinds.SYSTEM:
            return _system(body["spec"])
        case kinds.PREFETCH:
            return _prefetch(body["spec"])
        case _:
            return _deployment(body["spec"], instances)


def _image(spec: Mapping[str, Any]) -> Body:
    repository = (spec.get("repositoryRef") or {}).get("name")
    return without_none(
        parent=spec.get("parentRef"),
        layer={**spec["layer"], **({"repository": repository} if repository else {})},
        os=(spec.get("guest") or {}).get("os"),
        description=spec.get("description"),
    )


def _system(spec: Mapping[str, Any]) -> Body:
    networks = spec.get("networks") or ()
    multus = {each["name"]: each["multusRef"]["name"] for each in networks if each.get("multusRef")}
    listed = [
        without_none(name=each["name"], multus=multus.get(each["name"]), description=each.get("description"))
        for each in networks
    ]
    machines = [machine_back(machine, multus) for machine in spec.get("machines") or ()]
    return without_none(
        parent=spec.get("parentRef"),
        description=spec.get("description"),
        networks=listed or None,
        machines=machines or None,
    )


def _deployment(spec: Mapping[str, Any], instances: Mapping[str, Body]) -> Body:
    on_switch = (spec.get("updateStrategy") or {}).get("onSwitch")
    overrides = [_override(name, instances[name]) for name in sorted(instances, key=names.instance_order)]
    return without_none(
        system=spec["systemRef"],
        replicas=spec.get("replicas", 1),
        running=False if spec.get("powerState") == "Off" else None,
        reset=spec.get("resetToken"),
        switchPolicy=_SWITCH.get(on_switch or ""),
        placement=spec.get("placement") or None,
        isolation="Instances" if (spec.get("isolation") or {}).get("mode") == "Instance" else None,
        prefetch=spec.get("prefetchRefs") or None,
        overrides=[override for override in overrides if override is not None] or None,
    )


def _override(name: str, settings: Mapping[str, Any]) -> Body | None:
    """None for an instance that v1alpha1 cannot name; the comparison finds it."""
    if not (name.isascii() and name.isdecimal()):
        return None
    machines = [{"name": each["name"], **_level(each)} for each in settings.get("machines") or ()]
    return {"instance": int(name), **_level(settings), **({"machines": machines} if machines else {})}


def _level(settings: Mapping[str, Any]) -> Body:
    power = settings.get("powerState")
    return without_none(system=settings.get("systemRef"), running=None if power is None else power == "On")


def _prefetch(spec: Mapping[str, Any]) -> Body:
    nodes = spec.get("nodes") or {}
    targets = spec.get("targetRefs") or ()
    return without_none(
        systems=[{"name": each["name"]} for each in targets if each.get("kind") == kinds.SYSTEM],
        nodes=nodes.get("names"),
        nodeSelector=nodes.get("matchLabels"),
        count=spec.get("nodeCount"),
        parallelism=spec.get("parallelism"),
        tolerations=spec.get("tolerations"),
        pinned=True if spec.get("retention") == "Pinned" else None,
    )


def _is_going(body: Body) -> bool:
    return "deletionTimestamp" in body["metadata"]


def _equal(one: object, other: object) -> bool:
    return includes(one, other) and includes(other, one)


def _key(body: Body) -> tuple[str, str]:
    return body["metadata"].get("namespace") or "", body["metadata"]["name"]


def _uid(body: Body) -> str:
    return str(body["metadata"]["uid"])
