"""``kigi start``."""

from __future__ import annotations

import click

from kigi.cli.choice import Choice, choice_options
from kigi.cli.cluster import Access
from kigi.cli.consent import Consent
from kigi.cli.deployment_edit import Edit, Options, edit_deployment
from kigi.cli.options import cluster_options, deployment_argument, force_option, result_option, wait_option
from kigi.cli.output import Format


@click.command("start")
@deployment_argument
@choice_options
@force_option
@wait_option
@result_option
@cluster_options()
def command(access: Access, deployment: str, choice: Choice, force: bool, wait_s: float, form: Format) -> None:
    """Start VMs on the disks that they have.

    Writes spec.powerState: On.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCES: only these, such as 7, 1-8,12 or red,blue; default: all.
    MACHINE: only these machines of the instances.
    """
    edit = Edit(field="powerState", value_for=lambda _: "On", command=f"kigi start {deployment}")
    edit_deployment(access, deployment, choice, edit, Options(Consent(yes=True), force, wait_s, form))
