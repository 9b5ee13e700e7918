"""What belongs to the victim, and what an attack has changed of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kigi.domain import names
from kigi.domain.names import API_VERSION, NODE_API_VERSION
from tests.campaigns.tenant_attack import CORE, KUBEVIRT, SYSTEM, Object, Victim, collection
from tests.support.raw_api import RawApi

State = dict[str, Any]
OWN_KINDS = ("vmimagenodes", "systemnodes", "systemdeployments", "systeminstances", "systemcaptures", "systemresets")


def state_of(admin: RawApi, victim: Victim) -> State:
    """uid and desired content of each object of the victim and of Kigi, and the runs of its VMs, by kind and name."""
    there, found = victim.namespace, {}
    for plural, version in (
        *((each, API_VERSION) for each in OWN_KINDS),
        ("virtualmachines", KUBEVIRT),
        ("persistentvolumeclaims", CORE),
    ):
        for body in _items(admin, collection(there, plural, version)):
            found[f"{plural}/{body['metadata']['name']}"] = _content(body)
    for body in _items(admin, collection("", "persistentvolumes", CORE)):
        if body["metadata"]["name"] in victim.volumes:
            found[f"persistentvolumes/{body['metadata']['name']}"] = _content(body)
    for body in _items(admin, collection(there, "virtualmachineinstances", KUBEVIRT)):
        status = body.get("status", {})
        paused = any(each["type"] == "Paused" and each["status"] == "True" for each in status.get("conditions") or ())
        found[f"runs/{body['metadata']['name']}"] = (body["metadata"]["uid"], status.get("phase"), paused)
    for plural, version in (("serviceaccounts", CORE), ("daemonsets", "apps/v1"), ("deployments", "apps/v1")):
        for body in _items(admin, collection(SYSTEM, plural, version)):
            found[f"{SYSTEM}/{plural}/{body['metadata']['name']}"] = (body["metadata"]["uid"], _deleting(body))
    for body in _items(admin, collection("", "nodecaches", NODE_API_VERSION)):
        found[f"nodecaches/{body['metadata']['name']}"] = (body["metadata"]["uid"], _deleting(body))
        found[f"orders/{body['metadata']['name']}"] = _orders(body, victim)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is gone or differs; what is new is the victim's own."""
    return sorted(
        f"{key}: {_brief(value)} -> {_brief(after.get(key, 'gone'))}"
        for key, value in before.items()
        if after.get(key) != value
    )


def held_layers(admin: RawApi) -> dict[str, set[str]]:
    """Digests that each node reports as held."""
    return {
        body["metadata"]["name"]: {
            each["digest"] for each in body.get("status", {}).get("layers") or () if each.get("state") == "Held"
        }
        for body in _items(admin, collection("", "nodecaches", NODE_API_VERSION))
    }


def is_ready(body: Object) -> bool:
    """Whether the condition Ready is True of the current generation."""
    return any(
        each["type"] == "Ready"
        and each["status"] == "True"
        and each["observedGeneration"] == body["metadata"]["generation"]
        for each in body.get("status", {}).get("conditions") or ()
    )


def _items(admin: RawApi, path: str) -> Iterator[Object]:
    reply = admin.get(path)
    if reply.code != 404:  # a kind that this cluster does not have
        yield from reply.object()["items"]


def _content(body: Object) -> Object:
    labels = body["metadata"].get("labels") or {}
    mine = {key: value for key, value in labels.items() if key.startswith(f"{names.GROUP}/")}
    return {"uid": body["metadata"]["uid"], "deleting": _deleting(body), "labels": mine, "spec": body.get("spec")}


def _deleting(body: Object) -> bool:
    return "deletionTimestamp" in body["metadata"]


def _orders(cache: Object, victim: Victim) -> list[str]:
    """Orders of a node that copy or delete the victim's disks."""
    handles = {each["spec"]["csi"]["volumeHandle"] for each in victim.volumes.values()}
    spec = cache.get("spec", {})
    copied = [each["volume"] for each in spec.get("captures") or () if each["volume"] in handles]
    return [*copied, *(each for each in spec.get("discardVolumes") or () if each in handles)]


def _brief(value: Any) -> str:
    return str(value)[:300]
