"""``kigi reset``."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

import click

from kigi.cli.cluster import Access
from kigi.cli.deployment_edit import edit_deployment
from kigi.cli.options import cluster_options, deployment_argument, force_option, result_option, wait_option
from kigi.cli.output import Format
from kigi.cli.spec_fields import Part


@click.command("reset")
@deployment_argument
@click.argument("instance", type=int, required=False)
@click.argument("machine", required=False)
@force_option
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    instance: int | None,
    machine: str | None,
    force: bool,
    wait_s: float,
    form: Format,
) -> None:
    """Replace disks by fresh ones: what guests wrote is lost.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCE: only this instance.
    MACHINE: only this machine of the instance.
    """
    part, token = Part(instance, machine), new_token(datetime.now(UTC))
    edit_deployment(access, deployment, part, "reset", token, force=force, wait_s=wait_s, form=form)


def new_token(now: datetime) -> str:
    """A value that ``reset`` never had before: any change of the field makes fresh disks."""
    return f"kigi-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
