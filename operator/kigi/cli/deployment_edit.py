"""``kigi switch`` and ``kigi reset``: write one field of a SystemDeployment's spec and report what was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, SYSTEM
from kigi.cli.cluster import EDIT_MANAGER, Access, open_cluster
from kigi.cli.output import Format, print_message
from kigi.cli.spec_fields import Part, owners, refuse_owned, with_field
from kigi.cli.wait import object_reference, report, wait_until_ready
from kigi.errors import Conflict, DeploymentMissing, MachineUnknown, SpecInvalid, SystemMissing

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

WRITE_ATTEMPTS = 5
"""Attempts to write, each on the newest object; another writer may come first every time."""


def edit_deployment(
    access: Access, name: str, part: Part, field: str, value: Any, *, force: bool, wait_s: float, form: Format
) -> None:
    """Sets the field of that part and waits up to ``wait_s`` until the deployment is Ready; raises KigiError.

    ``force``: also a field that another field manager keeps.
    """
    if part.machine is not None and part.instance is None:
        raise SpecInvalid(f"machine {part.machine}: name its instance too")
    namespace = access.default_namespace()
    text = value["name"] if isinstance(value, dict) else value
    with report(form) as done, open_cluster(access) as kube:
        written = _write(kube, namespace, name, part, field, value, force=force)
        others = owners(written["metadata"], part.managed_path(field))
        done.update(object_reference(DEPLOYMENT, namespace, name), field=part.text(field), value=text)
        done["alsoOwnedBy"] = [manager for manager, _ in others]
        print_message(f"{namespace}/{name}: {part.text(field)} is {text}, and {EDIT_MANAGER}'s")
        for manager, operation in others:
            print_message(f"also {manager}'s ({operation}): its next change sets it back", "dim")
        wait_until_ready(kube, DEPLOYMENT, written, wait_s, done)


def _write(
    kube: KubeSession, namespace: str, name: str, part: Part, field: str, value: Any, *, force: bool
) -> dict[str, Any]:
    """The deployment as written; raises KigiError."""
    attempt = 1
    while True:
        body = kube.get(DEPLOYMENT, namespace, name)
        if body is None:
            raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{name}")
        check_part(body, part)
        if field == "system" and kube.get(SYSTEM, namespace, value["name"]) is None:
            raise SystemMissing(f"there is no SystemNode {namespace}/{value['name']}")
        if not force:
            refuse_owned(body, part, field, value)
        try:
            return kube.replace(DEPLOYMENT, {**body, "spec": with_field(body["spec"], part, field, value)})
        except Conflict:
            if attempt == WRITE_ATTEMPTS:
                raise
            attempt += 1


def check_part(body: Mapping[str, Any], part: Part) -> None:
    """Raises DeploymentMissing or MachineUnknown if the deployment has no such instance or machine.

    The operator would report the same later, as a condition.
    """
    name, replicas = body["metadata"]["name"], body["spec"].get("replicas", 1)
    if part.instance is not None and not 0 <= part.instance < replicas:
        raise DeploymentMissing(
            f"SystemDeployment {name} has {replicas} instances, from 0; there is no {part.instance}"
        )
    known = set(_machines(body, part.instance))
    if part.machine is not None and known and part.machine not in known:
        raise MachineUnknown(
            f"instance {part.instance} of {name} has no machine {part.machine}: {', '.join(sorted(known))}"
        )


def _machines(body: Mapping[str, Any], instance: int | None) -> Iterator[str]:
    for each in (body.get("status") or {}).get("instances") or ():
        if each["instance"] == instance:
            yield from (machine["name"] for machine in each.get("machines") or ())
