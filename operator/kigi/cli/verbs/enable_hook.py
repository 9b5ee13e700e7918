"""``kigi enable-hook``: KubeVirt's feature gate for Kigi's disks, beside the gates that are set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import KUBEVIRT
from kigi.adapters.kubevirt import kubevirt_state
from kigi.cli.cluster import Access, list_objects, open_cluster
from kigi.cli.options import cluster_options, output_option
from kigi.cli.output import Format, print_message, print_result
from kigi.domain.feature_gates import gate_operations, gate_owner, owner_command
from kigi.errors import Conflict, SpecInvalid

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

ATTEMPTS = 5
"""Another writer may change the KubeVirt object between reading and writing it."""


@click.command("enable-hook")
@click.option("--dry-run", is_flag=True, help="Print the change; make none.")
@output_option
@cluster_options(namespace=False)
def command(access: Access, dry_run: bool, form: Format) -> None:
    """Enable the feature gate that Kigi's disks need in KubeVirt.

    KubeVirt 1.7 and 1.8: Sidecar. 1.9 and later: Plugins. The gates that are set stay, and a cluster that has it is not
    changed. Needs the right to patch the KubeVirt object.
    """
    with open_cluster(access) as kube:
        done = _enable(kube, dry_run)
    if form is Format.TABLE:
        print_message(f"{done['object']}: {done['text']}")
    print_result(done, form)


def _enable(kube: KubeSession, dry_run: bool) -> dict[str, Any]:
    for _ in range(ATTEMPTS):
        body = next(iter(list_objects(kube, KUBEVIRT, None)), None)
        if body is None:
            raise SpecInvalid("there is no KubeVirt object in this cluster; install KubeVirt first")
        meta = body["metadata"]
        done: dict[str, Any] = {"object": f"KubeVirt {meta['namespace']}/{meta['name']}", "changed": False}
        state = kubevirt_state([body])
        if state.hook is not None:
            return done | {"gate": "", "text": f"its hook ({state.hook}) is available already"}
        if not state.gate:
            raise SpecInvalid(state.why_not)
        gate = state.gate
        operations = gate_operations(body, gate)
        done |= {"gate": gate, "operations": operations}
        if owner := gate_owner(body):
            raise SpecInvalid(
                f"{done['object']} belongs to {owner}, which would set its gates back; set {gate} there (and keep what "
                f"the annotation has already): {owner_command(meta['namespace'], gate)}"
            )
        if dry_run:
            return done | {"text": f"feature gate {gate} would be added"}
        try:
            kube.json_patch(KUBEVIRT, meta["namespace"], meta["name"], operations)
        except Conflict:
            continue
        return done | {
            "changed": True,
            "text": f"feature gate {gate} added; KubeVirt's pods take it in within a minute",
        }
    raise Conflict(f"{done['object']} changes all the time; call this again")
