"""An account for one team: what it may do, its kubeconfig, and when it ends."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import ROLE, ROLE_BINDING, SERVICE_ACCOUNT
from kigi.cli.choice import reported_machines
from kigi.cli.exit_codes import OptionInvalid
from kigi.domain.names import (
    ANNOTATION_ACCESS_BY,
    ANNOTATION_ACCESS_EXPIRES,
    GROUP,
    LABEL_ACCESS,
    LABEL_DEPLOYMENT,
    LABEL_INSTANCE,
    instance_object,
    machine_name,
)
from kigi.errors import Forbidden, Waiting

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.endpoint import Endpoint
    from kigi.adapters.kubernetes.session import KubeSession

Manifest = dict[str, Any]
PREFIX = "kigi-access-"
"""Begins the name of each account; the policy kigi-access permits no others."""
LEAST_S = 600
"""Shortest lifetime of a token that the API server grants."""
MOST_S = 2_592_000
"""Longest lifetime: 30 days."""
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_RIGHTS = "ClusterRole kigi-access, beside kigi-instructor, gives these rights"


def account_name(deployment: str, instance: str) -> str:
    """ServiceAccount, Role and RoleBinding of the instance."""
    return f"{PREFIX}{instance_object(deployment, instance)}"


def parse_lifetime(text: str) -> int:
    """Seconds of ``30m``, ``8h`` or ``2d``; raises OptionInvalid."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not LEAST_S <= seconds <= MOST_S:
        raise OptionInvalid(f"--for: {text!r} is no time between 10m and 30d; write 30m, 8h or 2d")
    return seconds


def build_account(namespace: str, deployment: str, instance: str, user: str, expires: str) -> Manifest:
    """The ServiceAccount. Everything else is owned by it, and goes with it."""
    meta = _metadata(namespace, deployment, instance)
    meta["annotations"] = {ANNOTATION_ACCESS_BY: user, ANNOTATION_ACCESS_EXPIRES: expires}
    return {"apiVersion": "v1", "kind": SERVICE_ACCOUNT.kind, "metadata": meta, "automountServiceAccountToken": False}


def build_role(account: Mapping[str, Any], deployment: str, body: Mapping[str, Any]) -> Manifest:
    """What a team may do: see its instance, reset it, and open consoles and screens of the machines that it has now.

    The same as manifests/examples/team.yaml. Raises Waiting if the instance has no machines yet.
    """
    instance = str(body["spec"]["name"])
    machines = [machine_name(deployment, instance, name) for name in sorted(reported_machines(body))]
    if not machines:
        raise Waiting(f"instance {instance} of {deployment} has no machines yet; wait until it is deployed")
    screens = ["console", "vnc", "vnc/screenshot"]
    return {
        "apiVersion": ROLE.api_version,
        "kind": ROLE.kind,
        "metadata": _owned(account),
        "rules": [
            _rule(GROUP, ["systeminstances"], ["get", "reset"], [instance_object(deployment, instance)]),
            _rule(GROUP, ["systemresets"], ["create"]),
            _rule("kubevirt.io", ["virtualmachineinstances"], ["get"], machines),
            _rule("subresources.kubevirt.io", [f"virtualmachineinstances/{one}" for one in screens], ["get"], machines),
        ],
    }


def build_binding(account: Mapping[str, Any]) -> Manifest:
    """Gives the account its role."""
    meta = account["metadata"]
    return {
        "apiVersion": ROLE_BINDING.api_version,
        "kind": ROLE_BINDING.kind,
        "metadata": _owned(account),
        "roleRef": {"apiGroup": ROLE.group, "kind": ROLE.kind, "name": meta["name"]},
        "subjects": [{"kind": SERVICE_ACCOUNT.kind, "name": meta["name"], "namespace": meta["namespace"]}],
    }


def _rule(group: str, resources: list[str], verbs: list[str], names: Iterable[str] = ()) -> Manifest:
    rule: Manifest = {"apiGroups": [group], "resources": resources, "verbs": verbs}
    return {**rule, "resourceNames": list(names)} if names else rule


def _metadata(namespace: str, deployment: str, instance: str) -> Manifest:
    labels = {
        LABEL_ACCESS: instance_object(deployment, instance),
        LABEL_DEPLOYMENT: deployment,
        LABEL_INSTANCE: instance,
    }
    return {"name": account_name(deployment, instance), "namespace": namespace, "labels": labels}


def _owned(account: Mapping[str, Any]) -> Manifest:
    meta = account["metadata"]
    owner = {"apiVersion": "v1", "kind": SERVICE_ACCOUNT.kind, "name": meta["name"], "uid": meta["uid"]}
    kept = {key: meta[key] for key in ("name", "namespace")}
    labels = {key: value for key, value in meta["labels"].items() if key.startswith(f"{GROUP}/")}
    return {**kept, "labels": labels, "ownerReferences": [owner]}


def give_access(
    kube: KubeSession, namespace: str, deployment: str, body: Mapping[str, Any], user: str, seconds: int
) -> tuple[str, str]:
    """(token, time of its end) of the team's account, which is made or brought up to date.

    Raises Forbidden with the role that gives the rights, and Waiting if the instance has no machines yet.
    """
    instance = str(body["spec"]["name"])
    try:
        account = kube.apply(SERVICE_ACCOUNT, namespace, build_account(namespace, deployment, instance, user, ""))
        kube.apply(ROLE, namespace, build_role(account, deployment, body))
        kube.apply(ROLE_BINDING, namespace, build_binding(account))
        made = kube.create_token(namespace, account["metadata"]["name"], seconds=seconds)
        expires = str(made["expirationTimestamp"])
        kube.apply(SERVICE_ACCOUNT, namespace, build_account(namespace, deployment, instance, user, expires))
    except Forbidden as exc:
        raise Forbidden(f"{exc}; {_RIGHTS}") from exc
    return str(made["token"]), expires


def revoke_access(kube: KubeSession, namespace: str, accounts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Deletes the accounts; their tokens are refused within seconds, and roles go with them. Names of the deleted."""
    revoked: list[str] = []
    for account in accounts:
        meta = account["metadata"]
        try:
            kube.delete(SERVICE_ACCOUNT, namespace, meta["name"], uid=meta["uid"])
        except Forbidden as exc:
            raise Forbidden(f"{exc}; {_RIGHTS}") from exc
        revoked.append(meta["name"])
    return revoked


def is_access(account: Mapping[str, Any], deployment: str | None) -> bool:
    """Whether ``kigi access`` made the account, for that deployment if one is given."""
    labels = account["metadata"].get("labels") or {}
    return LABEL_ACCESS in labels and deployment in (None, labels.get(LABEL_DEPLOYMENT))


def build_kubeconfig(endpoint: Endpoint, namespace: str, account: str, token: str) -> Manifest:
    """A kubeconfig with the server of ``endpoint`` and the team's token, and nothing of the caller's credentials."""
    cluster: Manifest = {"server": endpoint.server}
    if endpoint.ca is not None:
        cluster["certificate-authority-data"] = base64.b64encode(endpoint.ca).decode()
    if endpoint.insecure:
        cluster["insecure-skip-tls-verify"] = True
    if endpoint.server_name is not None:
        cluster["tls-server-name"] = endpoint.server_name
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": account,
        "clusters": [{"name": "kigi", "cluster": cluster}],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": account, "context": {"cluster": "kigi", "user": account, "namespace": namespace}}],
    }
