"""The rights that Kigi's accounts need, and those that callers need to install or to use it.

``tests/unit/doctor/test_rights.py`` compares the accounts' rights with manifests/rbac.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kigi.domain.names import GROUP, NODE_GROUP

OPERATOR_ACCOUNT = "kigi-operator"
DAEMON_ACCOUNT = "kigi-node-cache"
KIGI = "KIGI"
"""Stands for Kigi's namespace; an empty namespace is the whole cluster."""
READ = "get list watch"
WRITE = "get list watch create patch delete"


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind; ``name`` empty: on all objects."""

    verb: str
    group: str
    resource: str
    """Plural, with the subresource after a slash."""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {kind}{named}"


_OPERATOR = (
    (GROUP, "vmimagenodes systemnodes", "get list watch patch create"),
    (GROUP, "systemdeployments", "get list watch patch"),
    (GROUP, "systemcaptures", "get list watch patch delete"),
    (GROUP, "systemprefetches treegrants layerrepositories systemquotas", READ),
    (GROUP, "systeminstances", WRITE),
    (GROUP, "systemresets", "get list watch delete"),
    (
        GROUP,
        "vmimagenodes/status systemnodes/status systemdeployments/status systemcaptures/status systemprefetches/status "
        "treegrants/status systemresets/status systeminstances/status layerrepositories/status systemquotas/status",
        "patch report",
    ),
    (GROUP, "systemdeployments/finalizers systeminstances/finalizers", "update"),
    (NODE_GROUP, "nodecaches", WRITE),
    ("", "nodes namespaces", READ),
    ("storage.k8s.io", "csinodes", READ),
    ("", "persistentvolumes persistentvolumeclaims", WRITE),
    ("kubevirt.io", "virtualmachines", WRITE),
    ("kubevirt.io", "virtualmachineinstances", "get list watch delete"),
    ("kubevirt.io", "kubevirts", READ),
    ("subresources.kubevirt.io", "virtualmachines/restart", "update"),
    (
        "subresources.kubevirt.io",
        "virtualmachineinstances/pause virtualmachineinstances/unpause virtualmachineinstances/freeze "
        "virtualmachineinstances/unfreeze",
        "update",
    ),
    ("networking.k8s.io", "networkpolicies", WRITE),
    ("instancetype.kubevirt.io", "virtualmachineinstancetypes virtualmachineclusterinstancetypes", READ),
    ("plugin.kubevirt.io", "plugins", "get list watch create"),
    ("apiextensions.k8s.io", "customresourcedefinitions", READ),
    ("events.k8s.io", "events", "create"),
)
_DAEMON = (
    (NODE_GROUP, "nodecaches", READ),
    (NODE_GROUP, "nodecaches/status", "patch report"),
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("events.k8s.io", "events", "create"),
)


def _expanded(rules: tuple[tuple[str, str, str], ...], namespace: str = "") -> Iterator[Right]:
    for group, resources, verbs in rules:
        for resource in resources.split():
            for verb in verbs.split():
                yield Right(verb, group, resource, namespace)


ACCOUNT_RIGHTS: dict[str, tuple[Right, ...]] = {
    OPERATOR_ACCOUNT: (
        *_expanded(_OPERATOR),
        Right("patch", "plugin.kubevirt.io", "plugins", name="kigi-disks"),
        *_expanded((("coordination.k8s.io", "leases", "get list watch create update"),), KIGI),
        *_expanded((("", "secrets configmaps", "get"),), KIGI),
        Right("patch", "", "secrets", KIGI, "kigi-daemon-repositories"),
        Right("patch", "", "secrets", KIGI, "kigi-publisher-repositories"),
        Right("get", "apps", "deployments", KIGI, "kigi-operator"),
    ),
    DAEMON_ACCOUNT: (
        *_expanded(_DAEMON),
        *_expanded((("discovery.k8s.io", "endpointslices", "list"),), KIGI),
        *_expanded((("coordination.k8s.io", "leases", "get create patch"),), KIGI),
    ),
}
"""By service account in Kigi's namespace."""

INSTALL_RIGHTS: tuple[Right, ...] = (
    Right("create", "apiextensions.k8s.io", "customresourcedefinitions"),
    Right("create", "", "namespaces"),
    Right("create", "rbac.authorization.k8s.io", "clusterroles"),
    Right("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    Right("create", "admissionregistration.k8s.io", "validatingadmissionpolicies"),
    Right("create", "admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    Right("create", "storage.k8s.io", "csidrivers"),
    Right("create", "", "serviceaccounts", KIGI),
    Right("create", "", "secrets", KIGI),
    Right("create", "", "services", KIGI),
    Right("create", "apps", "deployments", KIGI),
    Right("create", "apps", "daemonsets", KIGI),
    Right("create", "rbac.authorization.k8s.io", "roles", KIGI),
    Right("create", "rbac.authorization.k8s.io", "rolebindings", KIGI),
)
"""What ``kubectl apply -k manifests`` needs."""
USE_RIGHTS: tuple[Right, ...] = (
    *(Right("list", GROUP, kind) for kind in ("vmimagenodes", "systemnodes", "systemdeployments", "systeminstances")),
    *(Right("create", GROUP, kind) for kind in ("systemnodes", "systemdeployments", "systemresets")),
    Right("reset", GROUP, "systemdeployments"),
)
"""What users of a namespace need."""
