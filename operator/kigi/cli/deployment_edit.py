"""``kigi switch`` and ``kigi reset``: write one field of a deployment or an instance, and report it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import BY_KIND, SYSTEM
from kigi.cli.cluster import EDIT_MANAGER, Access, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.output import Format, print_message
from kigi.cli.spec_fields import Part, owners, refuse_owned, with_field
from kigi.cli.wait import object_reference, report, wait_until_ready
from kigi.errors import Conflict, DeploymentMissing, MachineUnknown, SystemMissing

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

WRITE_ATTEMPTS = 5
"""Attempts to write, each on the newest object; another writer may come first every time."""


def edit_deployment(
    access: Access, name: str, part: Part, field: str, value: Any, *, force: bool, wait_s: float, form: Format
) -> None:
    """Sets the field of that part and waits up to ``wait_s`` until its object is Ready; raises KigiError.

    ``force``: also a field that another field manager keeps.
    """
    if part.machine is not None and part.instance is None:
        raise OptionInvalid(f"--machine {part.machine}: name its instance too, with --instance")
    namespace = access.default_namespace()
    text = value["name"] if isinstance(value, dict) else value
    with report(form) as done, open_cluster(access) as kube:
        resource, target = BY_KIND[part.kind], part.object_name(name)
        written = _write(kube, namespace, target, part, field, value, force=force)
        others = owners(written["metadata"], part.managed_path(field))
        done.update(object_reference(resource, namespace, target), field=part.text(field), value=text)
        done["alsoOwnedBy"] = [manager for manager, _ in others]
        print_message(f"{namespace}/{target}: {part.text(field)} is {text}, and {EDIT_MANAGER}'s")
        for manager, operation in others:
            print_message(f"also {manager}'s ({operation}): its next change sets it back", "dim")
        wait_until_ready(kube, resource, written, wait_s, done)


def _write(
    kube: KubeSession, namespace: str, name: str, part: Part, field: str, value: Any, *, force: bool
) -> dict[str, Any]:
    """The object as written; raises KigiError."""
    attempt, resource = 1, BY_KIND[part.kind]
    while True:
        body = kube.get(resource, namespace, name)
        if body is None:
            raise DeploymentMissing(f"there is no {part.kind} {namespace}/{name}")
        check_machine(body, part)
        own = field == "systemRef" and value.get("namespace", namespace) == namespace
        if own and kube.get(SYSTEM, namespace, value["name"]) is None:
            raise SystemMissing(f"there is no SystemNode {namespace}/{value['name']}")
        if not force:
            refuse_owned(body, part, field, value)
        try:
            return kube.replace(resource, {**body, "spec": with_field(body["spec"], part, field, value)})
        except Conflict:
            if attempt == WRITE_ATTEMPTS:
                raise
            attempt += 1


def check_machine(body: Mapping[str, Any], part: Part) -> None:
    """Raises MachineUnknown if the instance has no such machine. The operator would report it later, as a condition."""
    known = {machine["name"] for machine in (body.get("status") or {}).get("machines") or ()}
    if part.machine is not None and known and part.machine not in known:
        raise MachineUnknown(
            f"SystemInstance {body['metadata']['name']} has no machine {part.machine}: {', '.join(sorted(known))}"
        )
