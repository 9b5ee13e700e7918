"""The chart's templates: the manifests' objects with expressions where values decide."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tools.chart.emit import Scalar, Tree, When, render
from tools.chart.source import Object, SourceFile, label
from tools.chart.workloads import is_workload, with_values

SYSTEM = "kigi-system"
"""Namespace in the manifests; the release's namespace in the chart."""
_KEEP = "helm.sh/resource-policy"
_CONDITIONS = {
    "Namespace": ".Values.namespace.create",
    "CustomResourceDefinition": ".Values.crds.install",
    "NetworkPolicy": ".Values.networkPolicies.enabled",
    "PodDisruptionBudget": "gt (int .Values.operator.replicas) 1",
}
"""Kind -> condition under which its objects exist."""
_DIRECTORIES = {"/var/lib/kubelet": ".Values.kubelet.rootDirectory", "/var/lib/kigi": ".Values.daemon.cacheDirectory"}


def template(source: SourceFile, condition: str = "") -> str:
    """One template file; under ``condition``, if there is one.

    Raises ValueError, naming the object, if the namespace of the manifests is left in it.
    """
    parts = []
    for item in source.objects:
        text = "---\n" + render(with_expressions(item))
        if SYSTEM in text:
            raise ValueError(f"{label(item)}: the chart cannot replace the namespace {SYSTEM} in one of its fields")
        if own := _CONDITIONS.get(item["kind"]):
            text = wrapped(text, own)
        parts.append(text)
    return wrapped("".join(parts), condition) if condition else "".join(parts)


def wrapped(text: str, condition: str) -> str:
    """``text`` under a condition of a template."""
    return f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"


def with_expressions(source: Object) -> Object:
    """A copy of the object with expressions in it."""
    item = copy.deepcopy(source)
    if is_workload(item):
        item = with_values(item)
        item = _replaced(item, _directory)
    meta = item["metadata"]
    if item["kind"] == "CustomResourceDefinition":
        _annotate(meta, When(".Values.crds.keep", "keep"))
    if item["kind"] == "Namespace":
        _annotate(meta, "keep")
        label_sync = When(".Values.openshift.enabled", "false")
        meta["labels"] = {**meta["labels"], "security.openshift.io/scc.podSecurityLabelSync": label_sync}
    if item["kind"] == "ClusterRoleBinding" and meta["name"] == "kigi-disk-mount":
        (subject,) = item["subjects"]
        subject["namespace"] = Scalar(".Values.kubevirt.namespace")
    if item["kind"] in _ADAPTED:
        _ADAPTED[item["kind"]](item)
    replaced: Object = _replaced(item, _namespace)
    return replaced


def _labelled(key: str) -> Callable[[Object], None]:
    def adapt(item: Object) -> None:
        labels = f".Values.{key}.labels"
        own = item["metadata"].get("labels", {})
        defaults = "dict " + " ".join(f'"{name}" "{value}"' for name, value in own.items())
        item["metadata"]["labels"] = Tree(f"(merge ({defaults}) {labels})")

    return adapt


def _storage(item: Object) -> None:
    (claim,) = item["spec"]["volumeClaimTemplates"]
    name = ".Values.s3.storageClassName"
    claim["spec"]["storageClassName"] = When(name, Scalar(f"{name} | quote"))
    claim["spec"]["resources"]["requests"]["storage"] = Scalar(".Values.s3.size | quote")
    (bucket,) = item["spec"]["template"]["spec"]["initContainers"]
    bucket["command"][-1] = Scalar(".Values.s3.bucket | quote")


def _repository(item: Object) -> None:
    item["metadata"]["name"] = Scalar(".Values.s3.repository")
    item["spec"]["s3"]["bucket"] = Scalar(".Values.s3.bucket | quote")


_ADAPTED: dict[str, Callable[[Object], None]] = {
    "PodMonitor": _labelled("podMonitor"),
    "PrometheusRule": _labelled("prometheusRule"),
    "ConfigMap": _labelled("dashboards"),
    "StatefulSet": _storage,
    "LayerRepository": _repository,
}


def _annotate(meta: dict[str, Any], value: Any) -> None:
    """Adds the annotation without leaving an empty map when its condition is false."""
    present = meta.get("annotations")
    if isinstance(value, When) and not present:
        meta["annotations"] = When(value.condition, {_KEEP: value.value})
    else:
        meta["annotations"] = {**(present or {}), _KEEP: value}


def _replaced(node: Any, change: Callable[[str], Any]) -> Any:
    match node:
        case str():
            return change(node)
        case dict():
            return {key: _replaced(value, change) for key, value in node.items()}
        case list():
            return [_replaced(value, change) for value in node]
        case When(condition, value):
            return When(condition, _replaced(value, change))
        case _:
            return node


def _namespace(text: str) -> Any:
    if text == SYSTEM:
        return Scalar(".Release.Namespace")
    before, found, after = text.partition(f".{SYSTEM}.")
    return Scalar(f'printf "{before}.%s.{after}" .Release.Namespace | quote') if found else text


def _directory(text: str) -> Any:
    for directory, value in _DIRECTORIES.items():
        if text == directory or text.startswith(f"{directory}/"):
            return Scalar(f'printf "%s{text.removeprefix(directory)}" {value} | quote')
    return text
