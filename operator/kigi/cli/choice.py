"""Which instances and machines of a deployment a verb is about: one syntax and one check for all verbs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.domain.instance_ranges import Selection, format_instances, parse_instances
from kigi.domain.names import instance_object, instance_order
from kigi.errors import DeploymentMissing, Forbidden, MachineUnknown, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.cli.options import Function

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the caller named. No ``selection``: all instances; no ``machines``: all of the instances."""

    selection: Selection | None = None
    machines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What exists of it."""

    namespace: str
    deployment: str
    body: Body | None
    """The SystemDeployment; None: the caller may not read it."""
    instances: tuple[Body, ...]
    """The chosen SystemInstances in their order; none if the caller may not read them."""
    names: tuple[str, ...]
    """Names of the chosen instances, also of those that the caller may not read."""
    machines: tuple[str, ...]
    is_everything: bool
    """Whether no instances were named."""

    @property
    def is_whole(self) -> bool:
        """Whether the deployment as a whole is meant, with the instances that it gets later."""
        return self.is_everything and not self.machines

    def machines_of(self, instance: Body) -> tuple[str, ...]:
        """The named machines that the instance has; all named ones before it has a status. Empty: all machines."""
        known = reported_machines(instance)
        return tuple(name for name in self.machines if not known or name in known)


def choice_options(function: Function) -> Function:
    """Adds arguments and options that name instances and machines; the function gets one ``choice``."""
    help_text = "The same as the argument MACHINE; may be repeated."
    decorated = click.option("--machine", "machines", multiple=True, help=help_text)(_with_choice(function))
    return _with_instances(click.argument("machine", nargs=-1)(decorated))


def instance_options(function: Function) -> Function:
    """Adds the argument and options that name instances; the function gets one ``choice``."""
    return _with_instances(_with_choice(function))


def _with_choice(function: Function) -> Function:
    @functools.wraps(function)
    def call(
        *,
        instances: str | None,
        instance: str | None,
        all_but: str | None,
        machine: tuple[str, ...] = (),
        machines: tuple[str, ...] = (),
        **values: object,
    ) -> None:
        words = (instances, *machine) if instances is not None else machine
        function(choice=make_choice(words, instance, all_but, machines), **values)

    return call


def _with_instances(function: Function) -> Function:
    options = (
        click.argument("instances", required=False),
        click.option("--instance", metavar="INSTANCES", help="The same as the argument INSTANCES."),
        click.option("--all-but", metavar="INSTANCES", help="All instances but these, in place of INSTANCES."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def make_choice(
    words: tuple[str, ...], instance: str | None = None, all_but: str | None = None, machines: tuple[str, ...] = ()
) -> Choice:
    """Puts arguments and options together; raises OptionInvalid.

    The first of ``words`` names instances unless an option does.
    """
    if instance is not None and all_but is not None:
        raise OptionInvalid("--instance and --all-but exclude each other: give one of them")
    text = all_but if all_but is not None else instance
    if text is None and words:
        text, words = words[0], words[1:]
    named = tuple(dict.fromkeys((*words, *machines)))
    if text is None:
        return Choice(None, named)
    try:
        return Choice(Selection(parse_instances(text), is_exclusion=all_but is not None), named)
    except SpecInvalid as exc:
        what = "--all-but" if all_but is not None else "--instance" if instance is not None else "INSTANCES"
        raise OptionInvalid(f"{what}: {exc}") from exc


def find_chosen(kube: KubeSession, namespace: str, deployment: str, choice: Choice) -> Chosen:
    """What exists of the choice.

    Raises DeploymentMissing, InstanceUnknown or MachineUnknown; Forbidden if the caller may read too little to know.
    """
    body = _readable(kube, namespace, deployment)
    try:
        bodies = [one for one in list_objects(kube, INSTANCE, namespace) if is_of(one, deployment)]
    except Forbidden:
        return _unlisted(kube, namespace, deployment, body, choice)
    known = {str(one["spec"]["name"]): one for one in bodies}
    selection = choice.selection
    chosen = tuple(known) if selection is None else selection.choose(deployment, known)
    names = tuple(sorted(chosen, key=instance_order))
    instances = tuple(known[name] for name in names)
    check_machines(deployment, instances, choice.machines)
    return Chosen(namespace, deployment, body, instances, names, choice.machines, selection is None)


def _readable(kube: KubeSession, namespace: str, deployment: str) -> Body | None:
    """The SystemDeployment; None if the caller may not read it."""
    try:
        body = kube.get(DEPLOYMENT, namespace, deployment)
    except Forbidden:
        return None
    if body is None:
        raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{deployment}")
    return body


def _unlisted(kube: KubeSession, namespace: str, deployment: str, body: Body | None, choice: Choice) -> Chosen:
    """For a caller who may read single instances at most, such as a trainee."""
    selection = choice.selection
    if selection is None:
        return Chosen(namespace, deployment, body, (), (), choice.machines, is_everything=True)
    if selection.is_exclusion:
        raise Forbidden(
            f"--all-but: you may not list the SystemInstances of namespace {namespace}; name the instances, or get "
            "the ClusterRole kigi-view"
        )
    instances: list[Body] = []
    for name in selection.names:
        try:
            one = kube.get(INSTANCE, namespace, instance_object(deployment, name))
        except Forbidden:
            continue
        if one is None:
            raise DeploymentMissing(f"there is no SystemInstance {namespace}/{instance_object(deployment, name)}")
        instances.append(one)
    check_machines(deployment, instances, choice.machines)
    return Chosen(namespace, deployment, body, tuple(instances), selection.names, choice.machines, is_everything=False)


def is_of(instance: Body, deployment: str) -> bool:
    """Whether the SystemInstance is one of the deployment."""
    return bool(instance["spec"]["deploymentRef"]["name"] == deployment)


def reported_machines(instance: Body) -> dict[str, Body]:
    """Machines of the instance's status by name; none before the operator has written it."""
    return {str(one["name"]): one for one in (instance.get("status") or {}).get("machines") or ()}


def check_machines(deployment: str, instances: Iterable[Body], machines: Iterable[str]) -> None:
    """Raises MachineUnknown for a machine that none of the instances has.

    The operator would report it later, as a condition. An instance without a status may have any machine.
    """
    reported = [reported_machines(one) for one in instances]
    if not reported or not all(reported):
        return
    known = sorted({name for one in reported for name in one})
    for machine in machines:
        if machine not in known:
            raise MachineUnknown(f"{deployment} has no machine {machine} in these instances: {', '.join(known)}")


one_instance_option = click.option(
    "--instance", metavar="INSTANCE", help="Name of the instance; default: the only one of the deployment."
)
"""``instance``: of a verb that is about one machine."""


def one_instance(access: Access, deployment: str, instance: str | None) -> str:
    """The named instance, or the only one; raises OptionInvalid if it is not one, and KigiError."""
    if instance is not None:
        named = make_choice((), instance).selection
        assert named is not None
        if len(named.names) != 1:
            raise OptionInvalid(f"--instance {instance}: name one instance; this verb is about one machine")
        return named.names[0]
    with open_cluster(access) as kube:
        chosen = find_chosen(kube, access.default_namespace(), deployment, Choice())
    if len(chosen.names) != 1:
        has = f"{deployment} has {format_instances(chosen.names)}" if chosen.names else "it is not known which exist"
        raise OptionInvalid(f"--instance: name one: {has}")
    return chosen.names[0]
