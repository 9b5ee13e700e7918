"""The way back for what Kigi has created: volumes, claims, VMs and policies belong to SystemDeployments again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from kigi.domain import kinds, names
from kigi.domain.fingerprint import Fingerprint
from kigi.migration.crds import OLD
from kigi.migration.problems import Body

Owners = Mapping[tuple[str, str], Body]
"""SystemDeployments by namespace and name."""


def owners_of(deployments: Iterable[Body]) -> Owners:
    """The deployments by namespace and name."""
    return {(body["metadata"]["namespace"], body["metadata"]["name"]): body for body in deployments}


def children_back(children: Iterable[Body], owners: Owners) -> Iterator[Body]:
    """Those that must change, as they must be. What belongs to no deployment stays as it is."""
    for body in children:
        owner = owners.get(_owner_key(body))
        if owner is not None:
            new = _child(body, owner)
            if new != body:
                yield new


def children_of_deleted(children: Iterable[Body], owners: Owners) -> Iterator[Body]:
    """Those that belong to deployments that are being deleted."""
    for body in children:
        owner = owners.get(_owner_key(body))
        if owner is not None and "deletionTimestamp" in owner["metadata"]:
            yield body


def _owner_key(body: Body) -> tuple[str, str]:
    labels = body["metadata"].get("labels") or {}
    return labels.get(names.LABEL_NAMESPACE, ""), labels.get(names.LABEL_DEPLOYMENT, "")


def _child(body: Body, owner: Body) -> Body:
    meta = {**body["metadata"]}
    annotations = {**(meta.get("annotations") or {})}
    if names.ANNOTATION_OWNER in annotations:
        del annotations[names.ANNOTATION_OWNER]
        annotations[names.ANNOTATION_DEPLOYMENT_OWNER] = owner["metadata"]["uid"]
    if names.ANNOTATION_FINGERPRINT in annotations:
        text = annotations[names.ANNOTATION_FINGERPRINT]
        annotations[names.ANNOTATION_FINGERPRINT] = fingerprint_back(text, owner["spec"].get("resetToken"))
    meta["annotations"] = annotations
    if meta.get("ownerReferences"):
        others = [ref for ref in meta["ownerReferences"] if not ref["apiVersion"].startswith(f"{names.GROUP}/")]
        meta["ownerReferences"] = [*others, _reference(owner)]
    return {**body, "metadata": meta}


def _reference(owner: Body) -> Body:
    """Not a controller: the next upgrade adds the SystemInstance, and an object has one controller at most."""
    return {
        "apiVersion": f"{names.GROUP}/{OLD}",
        "kind": kinds.DEPLOYMENT,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }


def fingerprint_back(text: str, token: str | None) -> str:
    """The disk's fingerprint as v1alpha1 writes it; ``token``: the deployment's reset token.

    A disk that has had this token is not reset for it again. Tokens of instances and machines are gone.
    """
    found = Fingerprint.from_text(text)
    if found is None:
        return text
    data: Body = {"image": found.image, "system": found.system}
    data["resets"] = [token if token is not None and token in found.tokens else None, None, None]
    if found.disks:
        data["disks"] = dict(found.disks)
    return json.dumps(data, sort_keys=True)
