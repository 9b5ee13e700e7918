"""Verbs that write one field of a deployment, of instances or of machines: switch, start and stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import BY_KIND, SYSTEM
from kigi.cli.choice import Choice, Chosen, find_chosen, reported_machines
from kigi.cli.cluster import EDIT_MANAGER, Access, open_cluster
from kigi.cli.consent import Consent
from kigi.cli.output import Format, print_message
from kigi.cli.preview import Effect, confirm_change
from kigi.cli.spec_fields import Part, owners, refuse_owned, with_field
from kigi.cli.wait import object_reference, report_all, wait_until_ready
from kigi.domain.instance_ranges import exact_instances, format_instances
from kigi.errors import Conflict, DeploymentMissing, MachineUnknown, SystemMissing

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

Value = str | dict[str, str]
"""Value of a field: a word, or a reference to a state."""
WRITE_ATTEMPTS = 5
"""Attempts to write, each on the newest object; another writer may come first every time."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A field and its value for each instance, and what the verb says about it."""

    field: str
    value_for: Callable[[str | None], Value]
    """Value for an instance; None: for the deployment as a whole."""
    command: str
    """The call that this edit is, without instances, such as ``kigi switch office clean``."""
    effect: Effect | None = None
    """What it asks about; None: it destroys nothing, and does not ask."""
    is_per_instance: bool = False
    """Whether the values differ, so that also the whole deployment is written instance by instance."""
    before: Callable[[KubeSession, Chosen], str] | None = None
    """Runs after the consent and before the first write; returns a line that is printed at the end."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options that these verbs share."""

    consent: Consent
    force: bool
    wait_s: float
    form: Format


def edit_deployment(access: Access, name: str, choice: Choice, edit: Edit, options: Options) -> None:
    """Shows the effect, asks, writes the field and waits up to ``options.wait_s`` for Ready; raises KigiError.

    All objects are checked before the first is written. ``options.force``: also a field that another manager keeps.
    """
    namespace, consent = access.default_namespace(), options.consent
    with open_cluster(access) as kube:
        chosen = find_chosen(kube, namespace, name, choice)
        targets = _targets(chosen, edit)
        check_targets(kube, namespace, targets, edit, force=options.force)
        notes = list(_own_values(chosen, edit))
        if edit.effect is not None:
            documents = [_edited(target, edit) for target in targets]
            if not confirm_change(kube, chosen, documents, edit.effect, consent, options.form, notes=notes):
                return
        last = edit.before(kube, chosen) if edit.before is not None else ""
        with report_all(options.form) as done:
            written = [_write_target(kube, namespace, target, edit, done, force=options.force) for target in targets]
            for note in notes:
                print_message(note)
            if last:
                print_message(last)
            _wait(kube, written, options.wait_s, done)


@dataclass(frozen=True, slots=True)
class Target:
    """One object with the parts of it that are written; ``instance`` None: the deployment."""

    instance: str | None
    parts: tuple[Part, ...]
    object_name: str
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Kind of the object."""
        return self.parts[0].kind


def _targets(chosen: Chosen, edit: Edit) -> list[Target]:
    """The objects to write. Raises MachineUnknown if none has a named machine."""
    if chosen.is_whole and not edit.is_per_instance:
        part = Part()
        if chosen.body is None:
            raise DeploymentMissing(f"you may not read SystemDeployment {chosen.namespace}/{chosen.deployment}")
        return [Target(None, (part,), chosen.deployment, chosen.body)]
    targets: list[Target] = []
    for body in chosen.instances:
        instance = str(body["spec"]["name"])
        machines = chosen.machines_of(body)
        if chosen.machines and not machines:
            continue
        parts = tuple(Part(instance, machine) for machine in machines) or (Part(instance),)
        targets.append(Target(instance, parts, parts[0].object_name(chosen.deployment), body))
    if not targets:
        raise DeploymentMissing(
            f"there is no SystemInstance of {chosen.namespace}/{chosen.deployment} that you may change; kigi status "
            f"{chosen.deployment} lists them"
        )
    return targets


def check_targets(kube: KubeSession, namespace: str, targets: Iterable[Target], edit: Edit, *, force: bool) -> None:
    """Raises SystemMissing for a state that does not exist, and FieldOwned unless ``force``."""
    states: set[str] = set()
    for target in targets:
        value = edit.value_for(target.instance)
        if isinstance(value, dict) and value.get("namespace", namespace) == namespace:
            states.add(value["name"])
        for part in target.parts if not force else ():
            refuse_owned(target.body, part, edit.field, value)
    for state in sorted(states):
        if kube.get(SYSTEM, namespace, state) is None:
            raise SystemMissing(f"there is no SystemNode {namespace}/{state}")


def _own_values(chosen: Chosen, edit: Edit) -> Iterable[str]:
    """Instances that keep a value of their own, which an edit of the whole deployment does not change."""
    if not chosen.is_whole or edit.is_per_instance:
        return
    value = edit.value_for(None)
    own = [
        str(one["spec"]["name"])
        for one in chosen.instances
        for level in (one["spec"], *(one["spec"].get("machines") or ()))
        if level.get(edit.field, value) != value
    ]
    if own:
        yield (
            f"instances {format_instances(own)} keep a {edit.field} of their own; for these, too: "
            f"{edit.command} {exact_instances(own)}"
        )


def _edited(target: Target, edit: Edit, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The object with the new value of each part."""
    body = body if body is not None else target.body
    spec, value = body["spec"], edit.value_for(target.instance)
    for part in target.parts:
        spec = with_field(spec, part, edit.field, value)
    return {**body, "spec": spec}


def _write_target(
    kube: KubeSession, namespace: str, target: Target, edit: Edit, done: list[dict[str, Any]], *, force: bool
) -> dict[str, Any]:
    """Writes one object, and adds what was done to ``done``; the object as written."""
    value = edit.value_for(target.instance)
    written = _write(kube, namespace, target, edit, force=force)
    text = value["name"] if isinstance(value, dict) else value
    for part in target.parts:
        others = owners(written["metadata"], part.managed_path(edit.field))
        reference = object_reference(BY_KIND[target.kind], namespace, target.object_name)
        owned = [manager for manager, _ in others]
        done.append({**reference, "field": part.text(edit.field), "value": text, "alsoOwnedBy": owned})
        print_message(f"{namespace}/{target.object_name}: {part.text(edit.field)} is {text}, and {EDIT_MANAGER}'s")
        for manager, operation in others:
            print_message(f"also {manager}'s ({operation}): its next change sets it back", "dim")
    return written


def _write(kube: KubeSession, namespace: str, target: Target, edit: Edit, *, force: bool) -> dict[str, Any]:
    """The object as written; raises KigiError."""
    attempt, resource, body = 1, BY_KIND[target.kind], target.body
    while True:
        if not force:
            for part in target.parts:
                refuse_owned(body, part, edit.field, edit.value_for(target.instance))
        try:
            return kube.replace(resource, _edited(target, edit, body))
        except Conflict:
            if attempt == WRITE_ATTEMPTS:
                raise
            attempt += 1
        newest = kube.get(resource, namespace, target.object_name)
        if newest is None:
            raise DeploymentMissing(f"there is no {target.kind} {namespace}/{target.object_name} any more")
        body = newest
        _check_parts(body, target.parts)


def _check_parts(body: Mapping[str, Any], parts: Iterable[Part]) -> None:
    known = reported_machines(body)
    for part in parts:
        if part.machine is not None and known and part.machine not in known:
            names = ", ".join(sorted(known))
            raise MachineUnknown(f"SystemInstance {body['metadata']['name']} has no machine {part.machine}: {names}")


def _wait(
    kube: KubeSession, written: Sequence[Mapping[str, Any]], wait_s: float, done: Sequence[dict[str, Any]]
) -> None:
    """Waits until every object is Ready, all of them within ``wait_s``."""
    if wait_s <= 0:
        return
    deadline = time.monotonic() + wait_s
    for entry in done:
        entry["ready"] = False
    for body in written:
        entries = [entry for entry in done if entry["name"] == body["metadata"]["name"]]
        state: dict[str, Any] = {}
        left_s = max(deadline - time.monotonic(), 0.001)
        wait_until_ready(kube, BY_KIND[entries[0]["kind"]], body, left_s, state)
        for entry in entries:
            entry.update(state)
