"""``kigi capture``: creates a SystemCapture."""

from __future__ import annotations

from typing import Any

import click

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.options import cluster_options, deployment_argument, result_option, wait_option
from kigi.cli.output import Format, print_message
from kigi.cli.wait import object_reference, report, wait_until_ready
from kigi.domain import names
from kigi.errors import DeploymentMissing


@click.command("capture")
@deployment_argument
@click.option("--name", required=True, help="Name of the SystemCapture and of the new state.")
@click.option("--instance", default=0, show_default=True, help="Index of the instance.")
@click.option("--machine", multiple=True, help="Only this machine; may be repeated.")
@click.option("--description", help="Free text.")
@click.option(
    "--quiesce/--no-quiesce", default=True, help="Ask guests with an agent to flush their file systems before the copy."
)
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    name: str,
    instance: int,
    machine: tuple[str, ...],
    description: str | None,
    quiesce: bool,
    wait_s: float,
    form: Format,
) -> None:
    """Keep a running instance as a new state.

    Its VMs are paused while their disks are copied, and then continue.

    \b
    DEPLOYMENT: SystemDeployment.
    """
    spec = capture_spec(deployment, instance, machine, description, quiesce=quiesce)
    namespace = access.default_namespace()
    metadata = {"name": name, "namespace": namespace}
    body = {"apiVersion": names.API_VERSION, "kind": CAPTURE.kind, "metadata": metadata, "spec": spec}
    with report(form) as done, open_cluster(access) as kube:
        if kube.get(DEPLOYMENT, namespace, deployment) is None:
            raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{deployment}")
        created = kube.create(CAPTURE, body)
        done.update(object_reference(CAPTURE, namespace, name), spec=spec)
        print_message(f"SystemCapture {namespace}/{name} is created")
        wait_until_ready(kube, CAPTURE, created, wait_s, done)


def capture_spec(
    deployment: str, instance: int, machines: tuple[str, ...], description: str | None, *, quiesce: bool
) -> dict[str, Any]:
    """Spec of the SystemCapture; no ``machines``: all of the instance."""
    spec: dict[str, Any] = {"deployment": {"name": deployment}, "instance": instance}
    spec["quiesce"] = "Auto" if quiesce else "Pause"
    if machines:
        spec["machines"] = list(machines)
    if description is not None:
        spec["description"] = description
    return spec
