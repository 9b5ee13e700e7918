"""The page ``docs/reference/permissions.md``: what each of Kigi's roles may do, from the manifests of the roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
USERS = ROOT / "manifests/rbac/users.yaml"
TEAM = ROOT / "manifests/examples/team.yaml"
HEADER = """\
<!-- Made by 'make docs' from manifests/rbac/users.yaml and manifests/examples/team.yaml; do not edit. -->
# Permissions

What each role may do. `tests/integration/test_permissions.py` asks a real API server for every cell.

| role | bind it | for |
|---|---|---|
| `kigi-view` | is part of Kubernetes' role `view` | readers of a namespace |
| `kigi-edit` | is part of Kubernetes' roles `edit` and `admin` | owners of a namespace; they can create any VM there |
| `kigi-instructor` | in a namespace | who runs an exercise |
| `kigi-trainee` | in a namespace, with a role per team such as [team.yaml](../../manifests/examples/team.yaml) | \
one instance, here that of team 7 |
| `kigi-access` | in a namespace, beside `kigi-instructor` | who gives teams access with `kigi access` |
| `kigi-cluster-view` | in the cluster | `kigi plan` and `kigi gc` |
| `kigi-node-cache-view` | in the cluster | what nodes hold |
| `kigi-prefetch-pin` | in the cluster | pinned prefetches |
| `kigi-administrator` | in the cluster | repositories and quotas |

Verbs such as `reset` are [Kigi's own](names.md#verbs). Only operator and daemons
write a status.
"""
Rule = Mapping[str, Any]


class Action(NamedTuple):
    """A request, as a SubjectAccessReview has it."""

    text: str
    verb: str
    group: str
    resource: str
    subresource: str = ""
    name: str = ""
    is_cluster: bool = False


class Role(NamedTuple):
    """A column: the rules that an account gets, and whether it gets them in the whole cluster."""

    title: str
    rules: tuple[Rule, ...]
    is_cluster: bool = False


KIGI, KUBEVIRT, CONSOLES = "kigi.dev", "kubevirt.io", "subresources.kubevirt.io"
TREES = ("vmimagenodes", "systemnodes")
OWN, OTHER = "office-7", "office-8"


def _instance_actions(name: str, whose: str) -> Iterator[Action]:
    yield Action(f"get the instance of {whose}", "get", KIGI, "systeminstances", name=name)
    yield Action(f"reset the instance of {whose}", "reset", KIGI, "systeminstances", name=name)
    yield Action(f"switch the instance of {whose}", "patch", KIGI, "systeminstances", name=name)
    yield Action(f"capture the instance of {whose}", "capture", KIGI, "systeminstances", name=name)
    yield Action(f"get a VM of {whose}", "get", KUBEVIRT, "virtualmachineinstances", name=f"{name}-mail1")
    for sub in ("console", "vnc", "vnc/screenshot"):
        text = f"{sub.rpartition('/')[2]} of a VM of {whose}"
        yield Action(text, "get", CONSOLES, "virtualmachineinstances", sub, f"{name}-mail1")


def actions() -> list[Action]:
    """The rows."""
    rows = [*_instance_actions(OWN, "team 7"), *_instance_actions(OTHER, "team 8")]
    rows += [
        Action("stop a VM", "patch", KUBEVIRT, "virtualmachines", name=f"{OWN}-mail1"),
        Action("restart a VM", "update", CONSOLES, "virtualmachines", "restart", f"{OWN}-mail1"),
    ]
    rows += [
        Action(f"{verb} {kind}", verb, KIGI, kind) for kind in TREES for verb in ("list", "create", "patch", "delete")
    ]
    for kind in (
        "systemdeployments",
        "systeminstances",
        "systemresets",
        "systemcaptures",
        "systemprefetches",
        "treegrants",
    ):
        rows += [Action(f"{verb} {kind}", verb, KIGI, kind) for verb in ("list", "create", "patch", "delete")]
    rows += [
        Action("reset a whole deployment", "reset", KIGI, "systemdeployments", name="office"),
        Action("scale a deployment", "patch", KIGI, "systemdeployments", "scale", "office"),
        Action("write a status", "patch", KIGI, "systeminstances", "status", OWN),
        Action("pin prefetched layers", "pin", KIGI, "systemprefetches", is_cluster=True),
        Action("report any status", "report", KIGI, "systeminstances", "status", is_cluster=True),
        Action("mount a disk in any pod", "mount", KIGI, "disks", is_cluster=True),
        Action("list deployments of all namespaces", "list", KIGI, "systemdeployments", is_cluster=True),
        Action("list repositories", "list", KIGI, "layerrepositories", is_cluster=True),
        Action("create repositories", "create", KIGI, "layerrepositories", is_cluster=True),
        Action("create quotas", "create", KIGI, "systemquotas", is_cluster=True),
        Action("list NodeCaches", "list", "node.kigi.dev", "nodecaches", is_cluster=True),
        Action("patch NodeCaches", "patch", "node.kigi.dev", "nodecaches", is_cluster=True),
        Action("read Secrets", "get", "", "secrets"),
        Action("create pods", "create", "", "pods"),
        Action("give a team access", "access", KIGI, "systeminstances"),
        Action("make a token of an account", "create", "", "serviceaccounts", "token", "kigi-access-office-7"),
        Action("create roles", "create", "rbac.authorization.k8s.io", "roles"),
        Action("impersonate an account", "impersonate", "", "serviceaccounts", name="kigi-access-office-7"),
    ]  # fmt: skip
    return rows


def _documents(path: Path) -> Iterable[dict[str, Any]]:
    return yaml.safe_load_all(path.read_text(encoding="utf-8"))


def roles() -> list[Role]:
    """The columns, with the rules as the manifests have them."""
    found = {item["metadata"]["name"]: tuple(item["rules"]) for item in _documents(USERS)}
    team = next(tuple(item["rules"]) for item in _documents(TEAM) if item["kind"] == "Role")
    return [
        Role("kigi-view", found["kigi-view"]),
        Role("kigi-edit", found["kigi-edit"]),
        Role("kigi-instructor", found["kigi-instructor"]),
        Role("kigi-trainee", (*found["kigi-trainee"], *team)),
        Role("kigi-access", found["kigi-access"]),
        *(
            Role(name, found[name], is_cluster=True)
            for name in ("kigi-cluster-view", "kigi-node-cache-view", "kigi-prefetch-pin", "kigi-administrator")
        ),
    ]


def allows(role: Role, action: Action) -> bool:
    """What Kubernetes decides for an account with this role."""
    if action.is_cluster and not role.is_cluster:
        return False
    resource = f"{action.resource}/{action.subresource}" if action.subresource else action.resource
    return any(
        action.group in rule["apiGroups"]
        and resource in rule["resources"]
        and action.verb in rule["verbs"]
        and ("resourceNames" not in rule or action.name in rule["resourceNames"])
        for rule in role.rules
    )


def render_permissions() -> str:
    """The whole page."""
    columns = roles()
    titles = [role.title.removeprefix("kigi-") for role in columns]
    lines = [HEADER, "| | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    for action in actions():
        cells = ["yes" if allows(role, action) else "" for role in columns]
        lines.append(f"| {action.text} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
