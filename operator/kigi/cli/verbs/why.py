"""``kigi why``: what keeps an object from being Ready, followed to its origin, with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    DEPLOYMENT,
    GRANT,
    IMAGE,
    INSTANCE,
    NODE_CACHE,
    PREFETCH,
    QUOTA,
    REPOSITORY,
    RESET,
    SYSTEM,
    Resource,
)
from kigi.cli.causes import CAUSES
from kigi.cli.choice import Choice, instance_options, is_of
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.completion import complete_deployments
from kigi.cli.exit_codes import ExitCode, OptionInvalid
from kigi.cli.explain import Bodies, Entry, Key, explain
from kigi.cli.options import cluster_options, format_option
from kigi.cli.output import Format, Rows, object_name, print_data
from kigi.domain.instance_ranges import Selection
from kigi.domain.names import instance_object
from kigi.errors import Forbidden, SpecInvalid

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

KINDS = {
    "ksd": DEPLOYMENT,
    "ksi": INSTANCE,
    "kcap": CAPTURE,
    "kreset": RESET,
    "kpre": PREFETCH,
    "ksys": SYSTEM,
    "kimg": IMAGE,
    "kgrant": GRANT,
    "knc": NODE_CACHE,
    "krepo": REPOSITORY,
    "kquota": QUOTA,
}
"""Kinds that can be asked about, by their short names in the API."""
ADMINISTRATORS = (NODE_CACHE, REPOSITORY, QUOTA)
"""Kinds of the cluster, which are left out if the caller may not read them."""
COLUMNS = ("object", "reason", "stalled", "message", "cause", "remedy", "explains")
"""``explains``: the object that is not Ready because of this one."""
NO_REMEDY = "nothing to do: it continues by itself"


@click.command("why")
@click.argument("subject", required=False, shell_complete=complete_deployments)
@instance_options
@format_option(Format.NAME, Format.CSV, text="Text for people; name, csv, json or yaml for programs.")
@cluster_options()
@click.pass_context
def command(ctx: click.Context, access: Access, subject: str | None, choice: Choice, form: Format) -> None:
    """Explain what is not Ready, with cause and remedy.

    Follows each cause to its origin. The exit code is 3 if anything is not Ready.

    \b
    SUBJECT: deployment, KIND/NAME, or a reason such as NoRoom; default: everything in the namespace.
    INSTANCES: only these of the deployment, such as 7, 1-8,12 or red,blue.
    """
    ctx.exit(print_explanation(access, subject, form, choice.selection))


def print_explanation(access: Access, subject: str | None, form: Format, selection: Selection | None = None) -> int:
    """Prints the explanation; the exit code: NOT_READY if something is not Ready. Raises KigiError.

    A reason (of an event, a log, an error) is explained without a cluster: no deployment has such a name.
    """
    if subject in CAUSES:
        known = {"reason": subject, **CAUSES[subject]._asdict()}
        print_data(
            known, lambda: _render_reason(known), form, rows=lambda: Rows(tuple(known), [known]), names=lambda: ()
        )
        return ExitCode.DONE
    bodies = _read(access)
    data = explain(bodies, chosen(bodies, subject, selection))
    print_data(
        data,
        lambda: _render(data, subject),
        form,
        rows=lambda: Rows(COLUMNS, _rows(data, None)),
        names=lambda: [object_name(*entry["object"].split("/", 1)) for entry in data],
    )
    return ExitCode.NOT_READY if data else ExitCode.DONE


def _read(access: Access) -> Bodies:
    namespace = access.default_namespace()
    bodies: dict[Key, dict[str, Any]] = {}
    with open_cluster(access) as kube:
        for resource in KINDS.values():
            try:
                for body in list_objects(kube, resource, namespace):
                    bodies[resource.kind, body["metadata"]["name"]] = body
            except Forbidden:
                if resource not in ADMINISTRATORS:
                    raise
    return bodies


def chosen(bodies: Bodies, subject: str | None, selection: Selection | None = None) -> list[Key]:
    """The object that ``subject`` names as ``NAME`` (a deployment) or ``KIND/NAME``, or all.

    With a ``selection``: the instances of that deployment. Raises SpecInvalid or InstanceUnknown.
    """
    if subject is None:
        if selection is not None:
            raise OptionInvalid("name the deployment whose instances are meant")
        return sorted(bodies)
    kind, slash, name = subject.partition("/")
    if not slash:
        kind, name = DEPLOYMENT.kind, subject
    resource = _resource(kind)
    if (resource.kind, name) not in bodies:
        raise SpecInvalid(f"there is no {resource.kind} {name}")
    if selection is None:
        return [(resource.kind, name)]
    if resource is not DEPLOYMENT:
        raise OptionInvalid(f"{subject} has no instances: name a SystemDeployment")
    of_it = [body["spec"]["name"] for (kind, _), body in bodies.items() if kind == INSTANCE.kind and is_of(body, name)]
    return [(INSTANCE.kind, instance_object(name, one)) for one in selection.choose(name, of_it)]


def _resource(word: str) -> Resource:
    """By kind, plural, singular or short name, as kubectl takes them."""
    for short, resource in KINDS.items():
        if word == short or word.lower() in (resource.kind.lower(), resource.plural, resource.plural.removesuffix("s")):
            return resource
    raise SpecInvalid(f"{word!r} is none of Kigi's kinds: {', '.join(each.plural for each in KINDS.values())}")


def _rows(data: list[Entry], explains: str | None) -> Iterator[Entry]:
    """Every entry, followed by those of what it depends on."""
    for entry in data:
        yield {**entry, "explains": explains}
        yield from _rows(entry["because"], entry["object"])


def _render(data: list[Entry], subject: str | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not data:
        return Text(f"{subject} is ready" if subject else "everything is ready")
    return Group(*(line for entry in data for line in (*_lines(entry, 0), Text())))


def _render_reason(known: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    return Text.assemble((known["reason"], "bold"), f": {known['cause']}\n  ", (known["remedy"] or NO_REMEDY, "green"))


def _lines(entry: Entry, depth: int) -> Iterator[Text]:
    """Pieces of text instead of markup, because messages contain brackets."""
    from rich.text import Text

    indent = "  " * depth
    colour = "red" if entry["stalled"] else "yellow"
    yield Text.assemble(indent, (entry["object"], "bold"), "  ", (entry["reason"], colour), f": {entry['cause']}")
    if entry["message"]:
        yield Text(f"{indent}  {entry['message']}")
    yield Text(f"{indent}  {entry['remedy'] or NO_REMEDY}", "green")
    for cause in entry["because"]:
        yield from _lines(cause, depth + 1)
