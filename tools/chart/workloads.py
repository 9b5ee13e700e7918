"""Where values go in the pods of Kigi's workloads, and the defaults that the manifests have there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.chart.emit import Scalar, Tree, When
from tools.chart.settings import FIXED, PROGRAMS, offered
from tools.chart.source import Object, label

HOOK_IMAGE = "KIGI_HOOK_IMAGE"


@dataclass(frozen=True, slots=True)
class Part:
    """Which values a container takes: ``image`` below .Values, and the key of its resources and settings, if any."""

    image: str
    values: str = ""


CONTAINERS = {
    "operator": Part("images.operator", "operator"),
    "cache": Part("images.daemon", "daemon"),
    "capture-publisher": Part("images.daemon", "publisher"),
    "bucket": Part("images.operator"),
    "s3": Part("s3.image", "s3"),
}
_SCHEDULED = {"kigi-operator": "operator", "kigi-node-cache": "daemon"}
"""Workload -> key of its nodeSelector and tolerations."""


def is_workload(item: Object) -> bool:
    """Whether the object has a pod template."""
    return item["kind"] in ("Deployment", "DaemonSet", "StatefulSet")


def pod_of(item: Object) -> dict[str, Any]:
    """Pod spec of a workload, to read or change."""
    spec: dict[str, Any] = item["spec"]["template"]["spec"]
    return spec


def containers(item: Object) -> Iterator[dict[str, Any]]:
    """All containers of a workload. Raises ValueError for one that the chart has no values for."""
    pod = pod_of(item)
    for each in (*pod.get("initContainers", ()), *pod["containers"]):
        if each["name"] not in CONTAINERS:
            raise ValueError(
                f"{label(item)}: add its container {each['name']} to CONTAINERS in tools/chart/workloads.py"
            )
        yield each


def defaults_of(item: Object) -> dict[str, Any]:
    """Values, by path, that the workload has in the manifests."""
    found: dict[str, Any] = {}
    for each in containers(item):
        part = CONTAINERS[each["name"]]
        found[part.image] = image(each["image"])
        found["images.pullPolicy"] = each["imagePullPolicy"]
        if part.values:
            found[f"{part.values}.resources"] = each["resources"]
        if part.values in PROGRAMS:
            names = offered(part.values)
            settings = {entry["name"]: entry["value"] for entry in each["env"] if entry["name"] in names}
            found[f"{part.values}.settings"] = settings
            hooks = [entry["value"] for entry in each["env"] if entry["name"] == HOOK_IMAGE]
            found |= {"images.hook": image(hooks[0])} if hooks else {}
    if key := _SCHEDULED.get(item["metadata"]["name"]):
        found[f"{key}.nodeSelector"] = pod_of(item).get("nodeSelector", {})
        found[f"{key}.tolerations"] = pod_of(item).get("tolerations", [])
    if key == "operator":
        found["operator.replicas"] = item["spec"]["replicas"]
    return found


def image(text: str) -> dict[str, str]:
    """``name:tag@digest`` as values."""
    name, _, digest = text.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return {"repository": f"{path}{slash}{last}", "tag": tag, "digest": digest}


def with_values(item: Object) -> Object:
    """The workload with expressions in place of what values decide; changes ``item``."""
    pod = pod_of(item)
    for each in containers(item):
        _container(each, CONTAINERS[each["name"]])
    if key := _SCHEDULED.get(item["metadata"]["name"]):
        for name in ("nodeSelector", "tolerations"):
            pod[name] = When(f".Values.{key}.{name}", Tree(f".Values.{key}.{name}"))
    if key == "operator":
        item["spec"]["replicas"] = Scalar(".Values.operator.replicas")
        for name in ("runAsUser", "runAsGroup"):  # OpenShift gives each namespace users of its own
            pod["securityContext"][name] = When("not .Values.openshift.enabled", pod["securityContext"][name])
    secrets = ".Values.images.pullSecrets"
    item["spec"]["template"]["spec"] = {"imagePullSecrets": When(secrets, Tree(secrets)), **pod}
    return item


def _container(container: dict[str, Any], part: Part) -> None:
    container["image"] = Scalar(f'include "kigi.image" (list . .Values.{part.image}) | quote')
    container["imagePullPolicy"] = Scalar(".Values.images.pullPolicy")
    if part.values:
        container["resources"] = Tree(f".Values.{part.values}.resources")
    if part.values in PROGRAMS:
        container["env"] = list(_environment(container["env"], part.values))


def _environment(entries: list[Mapping[str, Any]], program: str) -> Iterator[Any]:
    names = offered(program)
    present = [entry["name"] for entry in entries]
    for entry in entries:
        name = entry["name"]
        if name == HOOK_IMAGE:
            yield {"name": name, "value": Scalar('include "kigi.hookImage" . | quote')}
        elif name in names:
            yield _setting(program, name)
        elif "value" in entry and name not in FIXED:
            raise ValueError(f"{name}: no setting of {program}; the chart would hide it from its values")
        else:
            yield entry
    if program == "operator" and HOOK_IMAGE not in present:
        yield When(
            ".Values.images.hook.repository",
            {"name": HOOK_IMAGE, "value": Scalar('include "kigi.hookImage" . | quote')},
        )
    for name in names:
        if name not in present:
            yield _setting(program, name)


def _setting(program: str, name: str) -> When:
    settings = f".Values.{program}.settings"
    return When(
        f'hasKey {settings} "{name}"', {"name": name, "value": Scalar(f'include "kigi.text" {settings}.{name}')}
    )
