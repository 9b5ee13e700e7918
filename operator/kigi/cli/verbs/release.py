"""``kigi release``: frees objects that wait for an operator that is gone, by removing Kigi's finalizers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    DEPLOYMENT,
    IMAGE,
    INSTANCE,
    OPERATOR,
    SYSTEM,
    VOLUME,
)
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.consent import Consent, consent_options
from kigi.cli.options import cluster_options, output_option
from kigi.cli.output import Format, print_data, print_message, print_on_stderr, table
from kigi.domain.hanging import Hanging, hanging_object
from kigi.errors import Conflict, InUse, NotFound

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kigi.adapters.kubernetes.session import KubeSession

ORDER = (CAPTURE, INSTANCE, DEPLOYMENT, SYSTEM, IMAGE, VOLUME)
"""Users come before what they use, as the operator would do it."""
BUSY_S = 15.0
"""While a CRD is deleted, the API server answers for some seconds that it is busy with it."""
ATTEMPTS = 5
"""Other controllers remove their own finalizers meanwhile."""


@click.command("release")
@consent_options
@click.option("--force", is_flag=True, help="Also while an operator is installed that should do it.")
@output_option
@cluster_options(all_namespaces=True)
def command(access: Access, consent: Consent, force: bool, form: Format) -> None:
    """Free deleted objects that wait for an operator that is gone.

    After an uninstallation in the wrong order, objects stay in deletion: only the operator removes Kigi's finalizers.
    Lists these objects with what is left behind, asks, and removes Kigi's finalizers. Those of others stay. Objects
    that are not being deleted stay as they are. Default: all namespaces, and the volumes; -n: one namespace.
    """
    with open_cluster(access, busy_s=BUSY_S) as kube:
        _refuse_beside_an_operator(kube, force or consent.dry_run)
        found = list(_hanging(kube, access.namespace))
        if form is Format.TABLE:
            print_data(None, lambda: _table(found), Format.TABLE)
        elif not (consent.dry_run or consent.yes):
            print_on_stderr(_table(found))
        if consent.dry_run or not found:
            _report(found, [], form, "" if found else "no object waits for Kigi's operator")
            return
        consent.obtain(f"remove Kigi's finalizers from these {len(found)} objects?")
        freed = [one for one in found if _release(kube, one)]
    _report(found, freed, form, f"{len(freed)} of {len(found)} objects are freed")


def _report(found: Iterable[Hanging], freed: Iterable[Hanging], form: Format, text: str) -> None:
    if form is not Format.TABLE:
        data = {"hanging": [asdict(one) for one in found], "freed": [asdict(one) for one in freed]}
        print_data(data, lambda: "", form)
    elif text:
        print_message(text)


def _refuse_beside_an_operator(kube: KubeSession, is_allowed: bool) -> None:
    """An operator does this itself, in an order that loses nothing."""
    for body in list_objects(kube, OPERATOR, None):
        if body["spec"].get("replicas", 1) and not is_allowed:
            name = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
            raise InUse(
                f"Deployment {name} has replicas: the operator frees deleted objects itself, and kigi why names what "
                "it waits for; repair it, scale it to 0, or give --force"
            )


def _hanging(kube: KubeSession, namespace: str | None) -> Iterator[Hanging]:
    for resource in ORDER:
        if resource.namespaced or namespace is None:
            for body in list_objects(kube, resource, namespace):
                found = hanging_object(body)
                if found is not None:
                    yield found


def _release(kube: KubeSession, one: Hanging) -> bool:
    """Removes Kigi's finalizers from the object with that uid; False if it is gone."""
    resource = next(each for each in ORDER if each.kind == one.kind)
    for _ in range(ATTEMPTS):
        body = kube.get(resource, one.namespace, one.name)
        present = hanging_object(body) if body is not None else None
        if body is None or present is None or present.uid != one.uid:
            return False
        try:
            kube.json_patch(resource, one.namespace, one.name, _operations(body, present))
        except NotFound:
            return False
        except Conflict:
            continue
        return True
    raise Conflict(f"{one.kind} {one.name} changes all the time; call this again")


def _operations(body: dict[str, Any], one: Hanging) -> list[dict[str, Any]]:
    return [
        {"op": "test", "path": "/metadata/uid", "value": one.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": body["metadata"]["resourceVersion"]},
        {"op": "add", "path": "/metadata/finalizers", "value": list(one.others)},
    ]


def _table(found: list[Hanging]) -> RenderableType:
    columns = ("KIND", "NAMESPACE", "NAME", "REMOVED", "STAYS", "LEFT BEHIND")
    return table(
        columns,
        (
            (one.kind, one.namespace, one.name, " ".join(one.ours), " ".join(one.others), one.left_behind)
            for one in found
        ),
    )
