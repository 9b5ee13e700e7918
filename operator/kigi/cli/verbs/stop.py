"""``kigi stop``."""

from __future__ import annotations

import click

from kigi.cli.choice import Choice, choice_options
from kigi.cli.cluster import Access
from kigi.cli.consent import Consent, consent_options
from kigi.cli.deployment_edit import Edit, Options, edit_deployment
from kigi.cli.options import cluster_options, deployment_argument, force_option, result_option, wait_option
from kigi.cli.output import Format
from kigi.cli.preview import Effect


@click.command("stop")
@deployment_argument
@choice_options
@consent_options
@force_option
@wait_option
@result_option
@cluster_options()
def command(
    access: Access, deployment: str, choice: Choice, consent: Consent, force: bool, wait_s: float, form: Format
) -> None:
    """Shut VMs down; their disks stay.

    Writes spec.powerState: Off. Shows the machines, and asks.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCES: only these, such as 7, 1-8,12 or red,blue; default: all.
    MACHINE: only these machines of the instances.
    """
    edit = Edit(
        field="powerState",
        value_for=lambda _: "Off",
        command=f"kigi stop {deployment}",
        effect=Effect("stop", "stop", loses=False),
    )
    edit_deployment(access, deployment, choice, edit, Options(consent, force, wait_s, form))
