"""``kigi capture``: creates a SystemCapture."""

from __future__ import annotations

from typing import Any

import click

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.identity import caller_name
from kigi.cli.options import cluster_options, deployment_argument, result_option, wait_option
from kigi.cli.output import Format, print_message
from kigi.cli.wait import object_reference, report, wait_until_ready
from kigi.domain import names
from kigi.errors import DeploymentMissing


@click.command("capture")
@deployment_argument
@click.option("--name", required=True, help="Name of the SystemCapture and of the new state.")
@click.option("--instance", required=True, help="Name of the instance within the deployment, such as 7.")
@click.option("--machine", multiple=True, help="Only this machine; may be repeated.")
@click.option("--description", help="Free text.")
@click.option(
    "--quiesce-policy",
    type=click.Choice(["FreezeIfPossible", "FreezeRequired", "PauseOnly"]),
    help="Whether guests freeze their file systems before the copy.  [default: FreezeIfPossible]",
)
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    name: str,
    instance: str,
    machine: tuple[str, ...],
    description: str | None,
    quiesce_policy: str | None,
    wait_s: float,
    form: Format,
) -> None:
    """Keep a running instance as a new state.

    Its VMs are paused while their disks are copied, and then continue.

    \b
    DEPLOYMENT: SystemDeployment.
    """
    namespace = access.default_namespace()
    metadata = {"name": name, "namespace": namespace}
    body = {"apiVersion": names.API_VERSION, "kind": CAPTURE.kind, "metadata": metadata}
    with report(form) as done, open_cluster(access) as kube:
        if kube.get(DEPLOYMENT, namespace, deployment) is None:
            raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{deployment}")
        spec = capture_spec(f"{deployment}-{instance}", machine, description, quiesce_policy, caller_name(kube))
        created = kube.create(CAPTURE, {**body, "spec": spec})
        done.update(object_reference(CAPTURE, namespace, name), spec=spec)
        print_message(f"SystemCapture {namespace}/{name} is created for {spec['requestedBy']}")
        wait_until_ready(kube, CAPTURE, created, wait_s, done)


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
