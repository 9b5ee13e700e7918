"""``kigi switch``, ``kigi reset`` and ``kigi capture``: wishes written into specs, never against another owner.

A field that somebody else keeps (a GitOps pipeline, a file that is applied server-side) would be set back by its owner:
it is refused with the owner's name and the other ways. Overrides of single instances are seldom owned by anybody.
"""

from __future__ import annotations

import copy
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT, SYSTEM, Resource
from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.causes import cause_of
from kigi.cli.cluster import MANAGER, Access, open_cluster
from kigi.cli.output import Format, say, spinner, tell
from kigi.domain import names
from kigi.errors import Conflict, DeploymentMissing, KigiError, MachineUnknown, SpecInvalid, SystemMissing

TRIES = 5
LOOK_S = 0.5
_PIPELINES = re.compile(
    r"argo|flux|kustomize-controller|helm|fleet|terraform|pulumi|rancher|config-sync", re.IGNORECASE
)


class FieldOwned(SpecInvalid):
    """Somebody else keeps the field, and would set it back."""

    reason = "FieldOwned"


class NotReached(KigiError):
    """What was waited for did not come, or cannot come without a person."""

    reason = "NotReached"


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of a deployment: all, one instance, or one machine of an instance."""

    instance: int | None = None
    machine: str | None = None

    def path(self, field: str) -> tuple[str, ...]:
        """Of a field of that part, as ``managedFields`` name it below ``f:spec``."""
        if self.instance is None:
            return (f"f:{field}",)
        item = f'k:{{"instance":{self.instance}}}'
        if self.machine is None:
            return ("f:overrides", item, f"f:{field}")
        return ("f:overrides", item, "f:machines", f'k:{{"name":"{self.machine}"}}', f"f:{field}")

    def text(self, field: str) -> str:
        """The field for a person."""
        if self.instance is None:
            return f"spec.{field}"
        machine = f".machines[{self.machine}]" if self.machine is not None else ""
        return f"spec.overrides[instance {self.instance}]{machine}.{field}"


def with_field(spec: Mapping[str, Any], place: Place, field: str, value: Any) -> dict[str, Any]:
    """The spec with that field set; overrides are made where there are none."""
    new = copy.deepcopy(dict(spec))
    target: dict[str, Any] = new
    if place.instance is not None:
        target = _item(new.setdefault("overrides", []), "instance", place.instance)
    if place.machine is not None:
        target = _item(target.setdefault("machines", []), "name", place.machine)
    target[field] = value
    return new


def _item(items: list[dict[str, Any]], key: str, value: Any) -> dict[str, Any]:
    for item in items:
        if item[key] == value:
            return item
    items.append({key: value})
    return items[-1]


def owners(metadata: Mapping[str, Any], path: Sequence[str]) -> list[tuple[str, str]]:
    """(manager, operation) of everybody but ``kigi-cli`` who owns that field below ``f:spec``."""
    return sorted(
        (str(entry.get("manager")), str(entry.get("operation")))
        for entry in metadata.get("managedFields") or ()
        if not entry.get("subresource")
        and entry.get("manager") != MANAGER
        and _has(entry.get("fieldsV1") or {}, ("f:spec", *path))
    )


def _has(tree: Mapping[str, Any], path: Sequence[str]) -> bool:
    for step in path:
        if step not in tree:
            return False
        tree = tree[step]
    return True


def refuse_owned(body: Mapping[str, Any], place: Place, field: str, value: Any) -> None:
    """Raises FieldOwned if an owner of the field would set it back; one that is set as wished already is no matter."""
    if _value_at(body["spec"], place, field) == value:
        return
    keepers = [
        manager
        for manager, operation in owners(body["metadata"], place.path(field))
        if operation == "Apply" or _PIPELINES.search(manager)
    ]
    if keepers:
        others = "" if place.instance is not None else ", or name an --instance: overrides are nobody's"
        raise FieldOwned(
            f"{place.text(field)} of SystemDeployment {body['metadata']['name']} is kept by {', '.join(keepers)}, "
            f"which would set it back: change it there{others}, or take it over with --force"
        )


def _value_at(spec: Mapping[str, Any], place: Place, field: str) -> Any:
    found: Mapping[str, Any] = spec
    for key, value, items in (("instance", place.instance, "overrides"), ("name", place.machine, "machines")):
        if value is not None:
            found = next((item for item in found.get(items) or () if item[key] == value), {})
    return found.get(field)


def run_switch(
    access: Access, name: str, state: str, place: Place, *, force: bool, wait_s: float, form: Format = Format.TABLE
) -> None:
    """Wishes another state; raises KigiError."""
    with _telling(form) as done:
        _act(access, name, place, "system", lambda: {"name": state}, done, force=force, wait_s=wait_s)


def run_reset(
    access: Access, name: str, place: Place, *, force: bool, wait_s: float, form: Format = Format.TABLE
) -> None:
    """Wishes fresh disks; raises KigiError."""
    with _telling(form) as done:
        _act(access, name, place, "reset", _token, done, force=force, wait_s=wait_s)


def run_capture(
    access: Access, name: str, spec: Mapping[str, Any], *, wait_s: float, form: Format = Format.TABLE
) -> None:
    """Creates a SystemCapture; raises KigiError."""
    with _telling(form) as done:
        _capture(access, name, spec, done, wait_s)


@contextmanager
def _telling(form: Format) -> Iterator[dict[str, Any]]:
    """What is put into the dict was done, and is told to programs, also when what was waited for did not come."""
    done: dict[str, Any] = {}
    try:
        yield done
    finally:
        if done:
            tell(done, form)


def _token() -> str:
    return f"kigi-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def _act(
    access: Access,
    name: str,
    place: Place,
    field: str,
    value: Callable[[], Any],
    done: dict[str, Any],
    *,
    force: bool,
    wait_s: float,
) -> None:
    """``done`` gets what was written: object, ``field``, ``value``, ``alsoOwnedBy``; ``ready`` if it is waited for."""
    namespace = access.default_namespace()
    if place.machine is not None and place.instance is None:
        raise SpecInvalid(f"machine {place.machine}: name its instance too")
    with open_cluster(access) as kube:
        wanted = value()
        written = _write(kube, namespace, name, place, field, wanted, force=force)
        said = wanted["name"] if isinstance(wanted, dict) else wanted
        others = owners(written["metadata"], place.path(field))
        done.update(_object(DEPLOYMENT, namespace, name), field=place.text(field), value=said)
        done["alsoOwnedBy"] = [manager for manager, _ in others]
        say(f"{namespace}/{name}: {place.text(field)} is {said}, and {MANAGER}'s")
        for manager, operation in others:
            say(f"also {manager}'s ({operation}): its next change sets it back", "dim")
        if wait_s > 0:
            done["ready"] = False
            _wait(kube, DEPLOYMENT, namespace, name, written["metadata"]["generation"], wait_s)
            done["ready"] = True


def _object(resource: Resource, namespace: str, name: str) -> dict[str, Any]:
    return {"kind": resource.kind, "namespace": namespace, "name": name}


def _write(
    kube: KubeSession, namespace: str, name: str, place: Place, field: str, wanted: Any, *, force: bool
) -> dict[str, Any]:
    """The deployment with that field set; raises KigiError."""
    for attempt in range(TRIES):
        body = kube.get(DEPLOYMENT, namespace, name)
        if body is None:
            raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{name}")
        _check(kube, namespace, body, place, wanted["name"] if field == "system" else None)
        if not force:
            refuse_owned(body, place, field, wanted)
        try:
            return kube.replace(DEPLOYMENT, {**body, "spec": with_field(body["spec"], place, field, wanted)})
        except Conflict:
            if attempt == TRIES - 1:
                raise
    raise AssertionError("a last attempt returns or raises")


def _check(kube: KubeSession, namespace: str, body: Mapping[str, Any], place: Place, state: str | None) -> None:
    """What the operator would only say later."""
    name, replicas = body["metadata"]["name"], body["spec"].get("replicas", 1)
    if place.instance is not None and not 0 <= place.instance < replicas:
        raise DeploymentMissing(
            f"SystemDeployment {name} has {replicas} instances, from 0; there is no {place.instance}"
        )
    known = set(_machines(body, place.instance))
    if place.machine is not None and known and place.machine not in known:
        raise MachineUnknown(
            f"instance {place.instance} of {name} has no machine {place.machine}: {', '.join(sorted(known))}"
        )
    if state is not None and kube.get(SYSTEM, namespace, state) is None:
        raise SystemMissing(f"there is no SystemNode {namespace}/{state}")


def _machines(body: Mapping[str, Any], instance: int | None) -> Iterator[str]:
    for each in (body.get("status") or {}).get("instances") or ():
        if each["instance"] == instance:
            yield from (machine["name"] for machine in each.get("machines") or ())


def _capture(access: Access, name: str, spec: Mapping[str, Any], done: dict[str, Any], wait_s: float) -> None:
    namespace = access.default_namespace()
    metadata = {"name": name, "namespace": namespace}
    body = {"apiVersion": names.API_VERSION, "kind": CAPTURE.kind, "metadata": metadata, "spec": dict(spec)}
    with open_cluster(access) as kube:
        if kube.get(DEPLOYMENT, namespace, spec["deployment"]["name"]) is None:
            raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{spec['deployment']['name']}")
        made = kube.create(CAPTURE, body)
        done.update(_object(CAPTURE, namespace, name), spec=dict(spec))
        say(f"SystemCapture {namespace}/{name} is ordered")
        if wait_s > 0:
            done["ready"] = False
            _wait(kube, CAPTURE, namespace, name, made["metadata"]["generation"], wait_s)
            done["ready"] = True


def _wait(kube: KubeSession, resource: Resource, namespace: str, name: str, generation: int, wait_s: float) -> None:
    """Until it is Ready; raises NotReached when it stalls, is gone, or the time is over."""
    end = time.monotonic() + wait_s
    message = "the operator has not looked at it yet"
    with spinner(message) as update:
        while True:
            body = kube.get(resource, namespace, name)
            if body is None:
                raise NotReached(f"{resource.kind} {namespace}/{name} was deleted")
            status = body.get("status") or {}
            if status.get("observedGeneration", -1) >= generation:
                conditions = {c["type"]: c for c in status.get("conditions") or ()}
                ready = conditions.get("Ready", {})
                message = f"{ready.get('reason')}: {ready.get('message', '')}"
                if ready.get("status") == "True":
                    say(f"{resource.kind} {namespace}/{name} is ready: {ready.get('message', '')}")
                    return
                if conditions.get("Stalled", {}).get("status") == "True":
                    raise NotReached(f"{message}; {cause_of(str(ready.get('reason'))).remedy}")
                update(message)
            if time.monotonic() > end:
                raise NotReached(f"{resource.kind} {namespace}/{name} is not ready after {wait_s:.0f} s: {message}")
            time.sleep(LOOK_S)
