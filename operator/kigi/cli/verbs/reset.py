"""``kigi reset``: creates a SystemReset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE, RESET
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.deployment_edit import check_machine
from kigi.cli.identity import caller_name
from kigi.cli.options import cluster_options, deployment_argument, result_option, wait_option
from kigi.cli.output import Format, print_message
from kigi.cli.spec_fields import Part
from kigi.cli.wait import object_reference, report, wait_until_ready
from kigi.domain import names
from kigi.errors import DeploymentMissing, Forbidden

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

WEEK_S = 604_800


@click.command("reset")
@deployment_argument
@click.argument("instance", required=False)
@click.argument("machine", nargs=-1)
@click.option("--reason", help="Free text, which the request keeps.")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(min=0),
    default=WEEK_S,
    show_default=True,
    help="Seconds after its end at which the request is deleted.",
)
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    instance: str | None,
    machine: tuple[str, ...],
    reason: str | None,
    ttl_s: int,
    wait_s: float,
    form: Format,
) -> None:
    """Replace disks by fresh ones: what guests wrote is lost.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCE: only this instance, by its name within the deployment.
    MACHINE: only these machines of the instance.
    """
    namespace = access.default_namespace()
    with report(form) as done, open_cluster(access) as kube:
        _check_names(kube, namespace, deployment, instance, machine)
        spec = reset_spec(deployment, instance, machine, caller_name(kube), reason, ttl_s)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": RESET.kind,
            "metadata": {"generateName": f"{deployment}-", "namespace": namespace},
            "spec": spec,
        }
        created = kube.create(RESET, body)
        name = created["metadata"]["name"]
        done.update(object_reference(RESET, namespace, name), spec=spec)
        print_message(f"SystemReset {namespace}/{name} is created for {spec['requestedBy']}")
        wait_until_ready(kube, RESET, created, wait_s, done)


def reset_spec(
    deployment: str, instance: str | None, machines: tuple[str, ...], user: str, reason: str | None, ttl_s: int
) -> dict[str, Any]:
    """Spec of the SystemReset; no instance: all of the deployment; no ``machines``: all of the instance."""
    spec: dict[str, Any] = {"deploymentRef": {"name": deployment}, "requestedBy": user}
    if instance is not None:
        spec["instances"] = [instance]
    if machines:
        spec["machines"] = list(machines)
    if reason is not None:
        spec["reason"] = reason
    return {**spec, "ttlSecondsAfterFinished": ttl_s}


def _check_names(
    kube: KubeSession, namespace: str, deployment: str, instance: str | None, machines: tuple[str, ...]
) -> None:
    """Raises DeploymentMissing or MachineUnknown; what the caller may not see is left to the operator."""
    part = Part(instance)
    resource = DEPLOYMENT if instance is None else INSTANCE
    try:
        body = kube.get(resource, namespace, part.object_name(deployment))
    except Forbidden:
        return
    if body is None:
        raise DeploymentMissing(f"there is no {resource.kind} {namespace}/{part.object_name(deployment)}")
    for machine in machines:
        check_machine(body, Part(instance, machine))
