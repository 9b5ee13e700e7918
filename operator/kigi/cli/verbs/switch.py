"""``kigi switch``."""

from __future__ import annotations

import click

from kigi.cli.cluster import Access
from kigi.cli.completion import complete_states
from kigi.cli.deployment_edit import edit_deployment
from kigi.cli.options import cluster_options, deployment_argument, force_option, result_option, wait_option
from kigi.cli.output import Format
from kigi.cli.spec_fields import Part
from kigi.domain.tree_names import ref_to


@click.command("switch")
@deployment_argument
@click.argument("state", shell_complete=complete_states)
@click.option("--instance", help="Only this instance, by its name.")
@click.option("--machine", help="Only this machine of the instance.")
@force_option
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    state: str,
    instance: str | None,
    machine: str | None,
    force: bool,
    wait_s: float,
    form: Format,
) -> None:
    """Put a deployment, an instance or a machine into another state.

    \b
    DEPLOYMENT: SystemDeployment.
    STATE: SystemNode to run; NAMESPACE/NAME in another namespace.
    """
    part, value = Part(instance, machine), ref_to(state)
    edit_deployment(access, deployment, part, "systemRef", value, force=force, wait_s=wait_s, form=form)
