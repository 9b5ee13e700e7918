"""Kigi's own namespace: the operator, the daemons' pods, and who leads."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.adapters.kubernetes.installation import DAEMONS, DEFINITION, OPERATOR, POD
from kigi.adapters.kubernetes.resources import EVENT, LEASE, NAMESPACE
from kigi.doctor.facts import Body, Facts
from kigi.doctor.findings import Diagnosis
from kigi.doctor.images import waiting_images
from kigi.doctor.leases import age_s
from kigi.domain.names import ANNOTATION_VERSION
from kigi.domain.versions import MAX_MINORS, minor_of, version_skew

OPERATOR_NAME, DAEMONS_NAME = "kigi-operator", "kigi-node-cache"
PRIVILEGED = "pod-security.kubernetes.io/enforce"
KUBELET_ROOT = (
    "if that is not /var/lib/kubelet, name it with the component manifests/components/kubelet-root; k0s and MicroK8s "
    "have components of their own"
)
LEASES_PATIENCE = 3.0
"""A leader that has not renewed its Lease for so many of its durations has ended."""


def check_installation(facts: Facts) -> Iterator[Diagnosis]:
    """Whether Kigi is in its namespace, whole or not at all."""
    name = f"Namespace/{facts.namespace}"
    if not facts.is_installed:
        text = "Kigi is not installed in this cluster"
        if facts.served is None and facts.of(DEFINITION).unread:
            text = "you may not see whether Kigi is installed in this cluster"
        yield Diagnosis("installation", "not checked", name, text, "kubectl apply --server-side -k manifests")
        return
    listings = (OPERATOR, facts.of(OPERATOR)), (DAEMONS, facts.of(DAEMONS))
    for (resource, listing), wanted in zip(listings, (OPERATOR_NAME, DAEMONS_NAME), strict=True):
        what = f"{resource.kind}/{wanted}"
        if listing.unread:
            yield Diagnosis("installation", "not checked", what, listing.unread)
        elif listing.find(wanted) is None:
            text = f"it does not exist in namespace {facts.namespace}"
            remedy = "kubectl apply --server-side -k manifests, or name Kigi's namespace with --kigi-namespace"
            yield Diagnosis("installation", "error", what, text, remedy)


def check_namespace(facts: Facts) -> Iterator[Diagnosis]:
    """Whether Pod Security lets the daemons' privileged pods start."""
    body = facts.of(NAMESPACE).find(facts.namespace)
    if body is None or not facts.is_installed:
        return
    level = (body["metadata"].get("labels") or {}).get(PRIVILEGED, "privileged")
    if level != "privileged":
        text = f"its label {PRIVILEGED} is {level}: the daemons' pods, which mount disks, are refused"
        remedy = f"kubectl label --overwrite namespace {facts.namespace} {PRIVILEGED}=privileged"
        yield Diagnosis("namespace", "error", f"Namespace/{facts.namespace}", text, remedy)


def check_operator(facts: Facts) -> Iterator[Diagnosis]:
    """Whether the operator's pods are ready."""
    body = facts.of(OPERATOR).find(OPERATOR_NAME)
    if body is None:
        return
    wanted, name = int(body["spec"].get("replicas", 1)), f"Deployment/{OPERATOR_NAME}"
    ready = int((body.get("status") or {}).get("readyReplicas") or 0)
    if wanted == 0:
        remedy = f"kubectl -n {facts.namespace} scale deployment {OPERATOR_NAME} --replicas=2"
        yield Diagnosis("operator", "error", name, "spec.replicas is 0: nothing is deployed or changed", remedy)
    elif ready == 0:
        remedy = f"kubectl -n {facts.namespace} describe pods -l app.kubernetes.io/name={OPERATOR_NAME}"
        yield Diagnosis("operator", "error", name, f"none of its {wanted} pods is ready", remedy)
    elif ready < wanted:
        remedy = f"kubectl -n {facts.namespace} describe pods -l app.kubernetes.io/name={OPERATOR_NAME}"
        yield Diagnosis("operator", "warning", name, f"{ready} of {wanted} pods are ready", remedy)
    else:
        yield Diagnosis("operator", "ok", name, f"{ready} pods are ready")


def check_leader(facts: Facts) -> Iterator[Diagnosis]:
    """Whether an operator leads, and renews its Lease."""
    listing, name = facts.of(LEASE), f"Lease/{OPERATOR_NAME}"
    if not facts.is_installed:
        return
    if listing.unread:
        yield Diagnosis("leader", "not checked", name, listing.unread)
        return
    lease, remedy = listing.find(OPERATOR_NAME), f"kubectl -n {facts.namespace} logs deployment/{OPERATOR_NAME}"
    spec = (lease or {}).get("spec") or {}
    if lease is None or not spec.get("holderIdentity"):
        yield Diagnosis("leader", "error", name, "no operator leads: nothing is deployed or changed", remedy)
        return
    age, duration_s = age_s(facts, lease), float(spec.get("leaseDurationSeconds") or 30)
    if age is not None and age > LEASES_PATIENCE * duration_s:
        text = f"{spec['holderIdentity']} has not renewed it for {age:.0f} s: nothing is deployed or changed"
        yield Diagnosis("leader", "error", name, text, remedy)
        return
    yield Diagnosis("leader", "ok", name, f"{spec['holderIdentity']} leads")


def check_versions(facts: Facts) -> Iterator[Diagnosis]:
    """The versions of the operator and of ``kigi`` itself; nodes have theirs."""
    version = operator_version(facts)
    if not version:
        return
    name, ours = f"Deployment/{OPERATOR_NAME}", minor_of(facts.version)
    if ours is not None and version_skew("", facts.version, version):
        older = "kigi" if ours < (minor_of(version) or ours) else "the operator"
        text = f"it has version {version}, and this kigi {facts.version}: more than {MAX_MINORS} minor version apart"
        yield Diagnosis("versions", "warning", name, text, f"upgrade {older} to the other's version")
    else:
        yield Diagnosis("versions", "ok", name, f"version {version}")


def operator_version(facts: Facts) -> str:
    """Version that the leading operator shows in its Lease; empty: not known."""
    lease = facts.of(LEASE).find(OPERATOR_NAME)
    return str(((lease or {"metadata": {}})["metadata"].get("annotations") or {}).get(ANNOTATION_VERSION) or "")


def check_own_images(facts: Facts) -> Iterator[Diagnosis]:
    """Whether nodes can pull Kigi's image, for operator and daemons."""
    for image, pods in waiting_images(facts.of(POD).items).items():
        names = sorted(pod["metadata"]["name"] for pod in pods)
        text = f"image {image} cannot be pulled for {len(names)} pods, the first {names[0]}"
        remedy = (
            "push it to a registry that the nodes can pull from, and name it in the manifests "
            f"(kustomize edit set image); a private registry needs a pull secret in namespace {facts.namespace}"
        )
        yield Diagnosis("image of Kigi", "error", f"Namespace/{facts.namespace}", text, remedy)


def check_pods(facts: Facts) -> Iterator[Diagnosis]:
    """Containers of Kigi that end again and again, and pods that the API server or the kubelet refuses."""
    for pod in facts.of(POD).items:
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            if (status.get("state") or {}).get("waiting", {}).get("reason") == "CrashLoopBackOff":
                name = pod["metadata"]["name"]
                text = f"its container {status['name']} ends again and again ({status.get('restartCount', 0)} restarts)"
                remedy = f"kubectl -n {facts.namespace} logs {name} -c {status['name']} --previous"
                yield Diagnosis("pods", "error", f"Pod/{name}", text, remedy)
    pods = {pod["metadata"]["name"] for pod in facts.of(POD).items}
    seen = set()
    for event in facts.of(EVENT).items:
        found = _refused(facts, event, pods)
        if found is not None and (found.object, found.sentence) not in seen:
            seen.add((found.object, found.sentence))
            yield found


def _refused(facts: Facts, event: Body, pods: set[str]) -> Diagnosis | None:
    """What an event about a pod that cannot start means; None for other events, and for pods that are gone."""
    regarding, note = event.get("regarding") or {}, str(event.get("note") or "")
    what = f"{regarding.get('kind')}/{regarding.get('name')}"
    if event.get("type") != "Warning":
        return None
    if event.get("reason") == "FailedCreate" and regarding.get("kind") in ("DaemonSet", "ReplicaSet"):
        owner = facts.of(DAEMONS).find(str(regarding.get("name")))
        if owner is not None and (owner.get("status") or {}).get("numberReady") == _scheduled(owner):
            return None
        remedy = "permit the pod: the namespace's pod-security label, or on OpenShift a SecurityContextConstraint"
        return Diagnosis("pods", "error", what, f"its pods are refused: {note}", remedy)
    if event.get("reason") == "FailedMount" and regarding.get("name") in pods and "hostPath" in note:
        if _is_ready(facts, str(regarding.get("name"))):
            return None
        text = f"a directory of the host does not exist: {note}"
        return Diagnosis("kubelet directories", "error", what, text, KUBELET_ROOT)
    return None


def _scheduled(daemons: Body) -> int:
    return int((daemons.get("status") or {}).get("desiredNumberScheduled") or 0)


def _is_ready(facts: Facts, pod: str) -> bool:
    body = facts.of(POD).find(pod)
    conditions = ((body or {}).get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
