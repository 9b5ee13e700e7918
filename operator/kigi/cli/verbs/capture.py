"""``kigi capture``: creates SystemCaptures."""

from __future__ import annotations

import time
from typing import Any

import click

from kigi.adapters.kubernetes.resources import CAPTURE
from kigi.cli.choice import Choice, choice_options, find_chosen
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.keep import create_captures, state_names
from kigi.cli.options import cluster_options, deployment_argument, result_option, wait_option
from kigi.cli.output import Format, print_message
from kigi.cli.wait import object_reference, report_all, wait_until_ready


@click.command("capture")
@deployment_argument
@choice_options
@click.option(
    "--name", required=True, help="Name of the SystemCapture and of the new state; several: NAME-INSTANCE for each."
)
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
    choice: Choice,
    name: str,
    description: str | None,
    quiesce_policy: str | None,
    wait_s: float,
    form: Format,
) -> None:
    """Keep running instances as new states.

    Their VMs are paused while their disks are copied, and then continue.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCES: such as 7, 1-8,12 or red,blue.
    MACHINE: only these machines of the instances.
    """
    if choice.selection is None:
        raise OptionInvalid(f"name the instances to capture, such as: kigi capture {deployment} 7 --name {name}")
    namespace = access.default_namespace()
    with report_all(form) as done, open_cluster(access) as kube:
        chosen = find_chosen(kube, namespace, deployment, choice)
        states = state_names(chosen.names, name)
        created = create_captures(kube, chosen, states, description=description, quiesce_policy=quiesce_policy)
        for body in created:
            state = body["metadata"]["name"]
            done.append({**object_reference(CAPTURE, namespace, state), "spec": body["spec"]})
            print_message(f"SystemCapture {namespace}/{state} is created")
        deadline = time.monotonic() + wait_s
        for entry, body in zip(done, created, strict=True):
            left_s = max(deadline - time.monotonic(), 0.001) if wait_s > 0 else 0.0
            result: dict[str, Any] = entry
            wait_until_ready(kube, CAPTURE, body, left_s, result)
