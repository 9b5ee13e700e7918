"""``kigi switch``."""

from __future__ import annotations

import click

from kigi.cli.choice import Choice, choice_options
from kigi.cli.cluster import Access
from kigi.cli.completion import complete_states
from kigi.cli.consent import Consent, consent_options
from kigi.cli.deployment_edit import Edit, Options, Value, edit_deployment
from kigi.cli.keep import INSTANCE_MARK, keep_option, keeper
from kigi.cli.options import cluster_options, deployment_argument, force_option, result_option, wait_option
from kigi.cli.output import Format
from kigi.cli.preview import Effect
from kigi.domain.tree_names import ref_to


@click.command("switch")
@deployment_argument
@click.argument("state", shell_complete=complete_states)
@choice_options
@keep_option
@consent_options
@force_option
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    state: str,
    choice: Choice,
    keep: str | None,
    consent: Consent,
    force: bool,
    wait_s: float,
    form: Format,
) -> None:
    """Put a deployment, instances or machines into another state.

    Shows the machines, the bytes that move and what guests lose, and asks.

    \b
    DEPLOYMENT: SystemDeployment.
    STATE: SystemNode to run; NAMESPACE/NAME in another namespace; {instance} in it stands for each instance's name.
    INSTANCES: only these, such as 7, 1-8,12 or red,blue; default: all.
    MACHINE: only these machines of the instances.
    """

    def value_for(instance: str | None) -> Value:
        return ref_to(state.replace(INSTANCE_MARK, instance or ""))

    edit = Edit(
        field="systemRef",
        value_for=value_for,
        command=f"kigi switch {deployment} {state}",
        effect=Effect(f"switch to {state}:", "takes the state, on a fresh disk if its image differs"),
        is_per_instance=INSTANCE_MARK in state,
        before=keeper(keep) if keep is not None else None,
    )
    edit_deployment(access, deployment, choice, edit, Options(consent, force, wait_s, form))
