"""``--keep``: captures instances before a verb destroys what their guests wrote, so that one switch undoes it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import CAPTURE, SYSTEM
from kigi.cli.choice import Chosen
from kigi.cli.exit_codes import NotReached, OptionInvalid
from kigi.cli.identity import caller_name
from kigi.cli.output import print_message
from kigi.cli.wait import wait_until_ready
from kigi.domain import names
from kigi.domain.instance_ranges import exact_instances
from kigi.errors import DeploymentMissing, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

INSTANCE_MARK = "{instance}"
"""In the name of a state: stands for the name of each instance."""
KEEP_S = 3600.0
"""Time for the captures of --keep; after it nothing is destroyed."""
MAX_STATE_NAME = 63
_STATE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and (len(value) > MAX_STATE_NAME or not _STATE.fullmatch(value)):
        raise click.BadParameter(f"{value!r} is no name of a state: at most 63 lower-case letters, digits, '-' and '.'")
    return value


keep_option = click.option(
    "--keep",
    metavar="NAME",
    callback=_checked,
    help="First capture the instances as the state NAME (several: NAME-INSTANCE), and wait for it.",
)


def keeper(name: str) -> Callable[[KubeSession, Chosen], str]:
    """A step that captures the chosen instances as ``name`` and returns how to undo what follows."""
    return lambda kube, chosen: keep_instances(kube, chosen, name)


def keep_instances(kube: KubeSession, chosen: Chosen, name: str) -> str:
    """Captures each chosen instance and waits for all; the command that switches back.

    Raises KigiError before anything is captured if a name is taken or too long; NotReached if a capture fails.
    """
    states = state_names(chosen.names, name)
    if not states:
        raise DeploymentMissing(f"--keep: {chosen.deployment} has no instance to capture")
    for state in states.values():
        if kube.get(SYSTEM, chosen.namespace, state) is not None:
            raise SpecInvalid(f"--keep: SystemNode {chosen.namespace}/{state} exists already; choose another name")
    created = create_captures(kube, chosen, states, description=f"before a change of {chosen.deployment}")
    print_message(f"captures {exact_instances(states)} of {chosen.deployment}; nothing is changed before all are ready")
    deadline = time.monotonic() + KEEP_S
    for body in created:
        try:
            wait_until_ready(kube, CAPTURE, body, max(deadline - time.monotonic(), 0.001), {})
        except NotReached as exc:
            raise NotReached(f"--keep: nothing was changed: {exc}; the captures that are ready stay") from exc
    return f"undo: {undo_command(chosen, name)}"


def state_names(instances: Iterable[str], name: str) -> dict[str, str]:
    """Name of the new state of each instance; raises OptionInvalid if one is too long."""
    every = tuple(instances)
    states = {instance: name if len(every) == 1 else f"{name}-{instance}" for instance in every}
    longest = max(states.values(), key=len, default="")
    if len(longest) > MAX_STATE_NAME:
        raise OptionInvalid(f"the name {longest} has {len(longest)} characters, and may have {MAX_STATE_NAME}")
    return states


def undo_command(chosen: Chosen, name: str) -> str:
    """The call of ``kigi switch`` that puts the instances into the states that were kept."""
    state = name if len(chosen.names) == 1 else f"{name}-{INSTANCE_MARK}"
    words = ["kigi", "switch", chosen.deployment, state, exact_instances(chosen.names), *chosen.machines]
    return shlex.join([*words, "-n", chosen.namespace])


def create_captures(
    kube: KubeSession,
    chosen: Chosen,
    states: Mapping[str, str],
    *,
    description: str | None = None,
    quiesce_policy: str | None = None,
) -> list[dict[str, Any]]:
    """Creates a SystemCapture for each instance; ``states``: the name of each. Raises Conflict if one exists."""
    user = caller_name(kube)
    bodies = {str(one["spec"]["name"]): one for one in chosen.instances}
    created: list[dict[str, Any]] = []
    for instance, state in states.items():
        body = bodies.get(instance)
        machines = chosen.machines_of(body) if body is not None else chosen.machines
        if chosen.machines and not machines:
            continue
        spec = capture_spec(f"{chosen.deployment}-{instance}", machines, description, quiesce_policy, user)
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": CAPTURE.kind,
            "metadata": {"name": state, "namespace": chosen.namespace},
            "spec": spec,
        }
        created.append(kube.create(CAPTURE, manifest))
    return created


def capture_spec(
    instance: str,
    machines: tuple[str, ...],
    description: str | None,
    quiesce_policy: str | None,
    requested_by: str,
) -> dict[str, Any]:
    """Spec of the SystemCapture; no ``machines``: all of the instance."""
    spec: dict[str, Any] = {"instanceRef": {"name": instance}, "requestedBy": requested_by}
    if quiesce_policy is not None:
        spec["quiescePolicy"] = quiesce_policy
    if machines:
        spec["machines"] = list(machines)
    if description is not None:
        spec["target"] = {"description": description}
    return spec
