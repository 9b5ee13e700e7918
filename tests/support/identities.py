"""Service accounts with given rights, for tests of roles and admission policies on a real API server."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.raw_api import Object, RawApi

ROLES = "/apis/rbac.authorization.k8s.io/v1"


def rule(group: str, resources: Sequence[str], verbs: Sequence[str], names: Sequence[str] = ()) -> Object:
    """One rule of a role; ``names``: the objects that it is about, none: all."""
    found: Object = {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
    return found | ({"resourceNames": list(names)} if names else {})


def identity(
    server: RawApi, namespace: str, account: str, rules: Sequence[Object], *, in_namespace: str | None = None
) -> RawApi:
    """A new service account of ``namespace`` with these rights in ``in_namespace``; "": in the whole cluster."""
    place = namespace if in_namespace is None else in_namespace
    kind, path = ("Role", f"{ROLES}/namespaces/{place}") if place else ("ClusterRole", ROLES)
    name = f"{namespace}-{account}"
    server.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": account}})
    server.create(f"{path}/{kind.lower()}s", {"metadata": {"name": name}, "rules": list(rules)}).object()
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    server.create(f"{path}/{kind.lower()}bindings", binding).object()
    return server.as_account(namespace, account)
