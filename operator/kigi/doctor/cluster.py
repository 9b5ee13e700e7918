"""Kubernetes and KubeVirt: their versions, and the feature gate of the disk hook."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.adapters.kubernetes.resources import KUBEVIRT, PLUGIN
from kigi.adapters.kubevirt import kubevirt_state
from kigi.doctor.facts import Facts
from kigi.doctor.findings import Diagnosis
from kigi.domain.versions import minor_of

KUBERNETES_SINCE = (1, 30)
"""ValidatingAdmissionPolicies are v1 since then."""
KUBEVIRT_SINCE, KUBEVIRT_NEWEST = (1, 7), (1, 9)
"""The releases that Kigi is tested with."""
PLUGIN_NAME = "kigi-disks"


def check_kubernetes(facts: Facts) -> Iterator[Diagnosis]:
    """The version of the API server."""
    name, number = "Kubernetes", minor_of(facts.kubernetes)
    if number is None:
        text = f"the API server reports the version {facts.kubernetes!r}"
        yield Diagnosis("kubernetes", "not checked", name, text, "compare it with 1.30, the oldest supported version")
    elif number < KUBERNETES_SINCE:
        text = f"version {facts.kubernetes} is older than 1.30"
        yield Diagnosis("kubernetes", "error", name, text, "upgrade Kubernetes: Kigi's admission policies need 1.30")
    else:
        yield Diagnosis("kubernetes", "ok", name, f"version {facts.kubernetes}")


def check_kubevirt(facts: Facts) -> Iterator[Diagnosis]:
    """Whether there is a KubeVirt of a supported version."""
    listing = facts.of(KUBEVIRT)
    if listing.unread:
        yield Diagnosis("kubevirt", "not checked", "KubeVirt", listing.unread)
        return
    if not listing.items:
        text = "there is no KubeVirt object in the cluster"
        yield Diagnosis("kubevirt", "error", "KubeVirt", text, "install KubeVirt 1.7, 1.8 or 1.9")
        return
    found = listing.items[0]
    name = f"KubeVirt/{found['metadata']['name']}"
    version = str((found.get("status") or {}).get("observedKubeVirtVersion") or "")
    number = minor_of(version)
    if number is None:
        text = f"it is not deployed: status.observedKubeVirtVersion is {version!r}"
        remedy = f"kubectl -n {found['metadata'].get('namespace')} describe kubevirt {found['metadata']['name']}"
        yield Diagnosis("kubevirt", "error", name, text, remedy)
    elif number < KUBEVIRT_SINCE:
        text = f"version {version} is older than 1.7"
        yield Diagnosis("kubevirt", "error", name, text, "upgrade KubeVirt to 1.7, 1.8 or 1.9")
    elif number > KUBEVIRT_NEWEST:
        text = f"version {version} is newer than 1.9, the newest that this version of Kigi was tested with"
        yield Diagnosis(
            "kubevirt", "warning", name, text, "upgrade Kigi, or try a deployment before others depend on it"
        )
    else:
        yield Diagnosis("kubevirt", "ok", name, f"version {version}")


def check_feature_gate(facts: Facts) -> Iterator[Diagnosis]:
    """Whether KubeVirt offers a hook: Sidecar (1.7, 1.8) or Plugins (1.9)."""
    listing = facts.of(KUBEVIRT)
    if listing.unread or not listing.items:
        return
    state = kubevirt_state(listing.items)
    number, found = minor_of(state.version), listing.items[0]["metadata"]
    if number is None or number < KUBEVIRT_SINCE:
        return
    name = f"KubeVirt/{found['name']}"
    if state.hook is None:
        gate = "Plugins" if number >= KUBEVIRT_NEWEST else "Sidecar"
        text = f"the feature gate {gate} is off: no VM starts on a layered disk"
        remedy = (
            f"kigi enable-hook: it adds {gate} to spec.configuration.developerConfiguration.featureGates beside the "
            "gates that are set"
        )
        yield Diagnosis("feature gate", "error", name, text, remedy)
        return
    yield Diagnosis("feature gate", "ok", name, f"the hook is a {state.hook}")
    plugins = facts.of(PLUGIN)
    if state.hook == "Plugin" and facts.is_installed and not plugins.unread and plugins.find(PLUGIN_NAME) is None:
        text = "the operator has not created it: no VM starts on a layered disk"
        remedy = f"kubectl -n {facts.namespace} logs deployment/kigi-operator"
        yield Diagnosis("feature gate", "error", f"Plugin/{PLUGIN_NAME}", text, remedy)
