"""``kigi reset``: creates a SystemReset."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from kigi.adapters.kubernetes.resources import RESET
from kigi.cli.choice import Choice, Chosen, choice_options, find_chosen
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.consent import Consent, consent_options
from kigi.cli.identity import caller_name
from kigi.cli.keep import keep_instances, keep_option
from kigi.cli.options import cluster_options, deployment_argument, result_option, wait_option
from kigi.cli.output import Format, print_message
from kigi.cli.preview import Effect, confirm_change
from kigi.cli.wait import object_reference, report, wait_until_ready
from kigi.domain import names

WEEK_S = 604_800
EFFECT = Effect("reset", "restart on a fresh disk")


@click.command("reset")
@deployment_argument
@choice_options
@click.option("--reason", help="Free text, which the request keeps.")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(min=0),
    default=WEEK_S,
    show_default=True,
    help="Seconds after its end at which the request is deleted.",
)
@keep_option
@consent_options
@wait_option
@result_option
@cluster_options()
def command(
    access: Access,
    deployment: str,
    choice: Choice,
    reason: str | None,
    ttl_s: int,
    keep: str | None,
    consent: Consent,
    wait_s: float,
    form: Format,
) -> None:
    """Replace disks by fresh ones: what guests wrote is lost.

    Shows the machines, the bytes that move and what guests lose, and asks.

    \b
    DEPLOYMENT: SystemDeployment.
    INSTANCES: only these, such as 7, 1-8,12 or red,blue; default: all.
    MACHINE: only these machines of the instances.
    """
    namespace = access.default_namespace()
    with report(form) as done, open_cluster(access) as kube:
        chosen = find_chosen(kube, namespace, deployment, choice)
        spec = reset_spec(chosen, caller_name(kube), reason, ttl_s)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": RESET.kind,
            "metadata": {"generateName": f"{deployment}-", "namespace": namespace},
            "spec": spec,
        }
        if not confirm_change(kube, chosen, [_planned(body)], EFFECT, consent, form):
            return
        undo = keep_instances(kube, chosen, keep) if keep is not None else ""
        created = kube.create(RESET, body)
        name = created["metadata"]["name"]
        done.update(object_reference(RESET, namespace, name), spec=spec)
        print_message(f"SystemReset {namespace}/{name} is created for {spec['requestedBy']}")
        if undo:
            print_message(undo)
        wait_until_ready(kube, RESET, created, wait_s, done)


def _planned(body: dict[str, Any]) -> dict[str, Any]:
    """The request as the API server would store it now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**body, "metadata": {**body["metadata"], "name": "planned", "creationTimestamp": now}}


def reset_spec(chosen: Chosen, user: str, reason: str | None, ttl_s: int) -> dict[str, Any]:
    """Spec of the SystemReset; no instances: all of the deployment; no machines: all of the instances."""
    spec: dict[str, Any] = {"deploymentRef": {"name": chosen.deployment}, "requestedBy": user}
    if chosen.names and not chosen.is_everything:
        spec["instances"] = list(chosen.names)
    if chosen.machines:
        spec["machines"] = list(chosen.machines)
    if reason is not None:
        spec["reason"] = reason
    return {**spec, "ttlSecondsAfterFinished": ttl_s}
