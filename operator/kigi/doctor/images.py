"""Images that nodes cannot pull: Kigi's own, and that of the disk hook in users' namespaces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from kigi.adapters.kubernetes.installation import OPERATOR, VM_POD
from kigi.adapters.kubernetes.resources import KUBEVIRT
from kigi.adapters.kubevirt import kubevirt_state
from kigi.doctor.facts import Body, Facts
from kigi.doctor.findings import Diagnosis

WAITING = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
SHOWN = 3
HOOK_VARIABLE = "KIGI_HOOK_IMAGE"


def waiting_images(pods: Iterable[Body]) -> dict[str, list[Body]]:
    """Pods by the image that cannot be pulled for them."""
    found: dict[str, list[Body]] = defaultdict(list)
    for pod in pods:
        status = pod.get("status") or {}
        containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        waiting = {
            str(each.get("image"))
            for each in containers
            if ((each.get("state") or {}).get("waiting") or {}).get("reason") in WAITING
        }
        for image in waiting:
            found[image].append(pod)
    return dict(sorted(found.items()))


def check_hook_image(facts: Facts) -> Iterator[Diagnosis]:
    """Whether the pods of VMs, in their users' namespaces, get their images."""
    listing = facts.of(VM_POD)
    if listing.unread and facts.is_installed:
        yield Diagnosis("hook image", "not checked", "pods of VMs", listing.unread)
    for image, pods in waiting_images(listing.items).items():
        spaces = sorted({pod["metadata"]["namespace"] for pod in pods})
        more = f" and {len(spaces) - SHOWN} more" if len(spaces) > SHOWN else ""
        text = f"image {image} cannot be pulled for {len(pods)} VMs in namespace {', '.join(spaces[:SHOWN])}{more}"
        remedy = (
            f"give the ServiceAccount default of namespace {spaces[0]} a pull secret (imagePullSecrets), or set "
            f"{HOOK_VARIABLE} of Deployment kigi-operator to an image that every namespace can pull"
        )
        yield Diagnosis("hook image", "error", "pods of VMs", text, remedy)


def check_hook_setting(facts: Facts) -> Iterator[Diagnosis]:
    """Whether a hook image that is set has the tag of the operator's, if KubeVirt has no Plugins."""
    body = facts.of(OPERATOR).find("kigi-operator")
    if body is None or kubevirt_state(facts.of(KUBEVIRT).items).hook == "Plugin":
        return
    for container in body["spec"]["template"]["spec"].get("containers") or ():
        for variable in container.get("env") or ():
            value, operator = str(variable.get("value") or ""), str(container.get("image"))
            tags = {_tag(value), _tag(operator)} - {""}  # a digest alone has no version to compare
            if variable.get("name") == HOOK_VARIABLE and len(tags) > 1:
                text = f"{HOOK_VARIABLE} is {value}, and the operator's image {operator}"
                remedy = f"remove {HOOK_VARIABLE}, or give it the same tag: another version's hook may not suit"
                yield Diagnosis("hook image", "warning", "Deployment/kigi-operator", text, remedy)


def _tag(image: str) -> str:
    """``0.1.0`` of ``registry.example:5000/kigi:0.1.0``, also with a digest behind it; empty if there is none."""
    name = image.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2]
