"""``kigi doctor``: whether cluster and installation are as Kigi needs them, with remedies."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access, open_cluster
from kigi.cli.cluster import kigi_namespace as find_namespace
from kigi.cli.exit_codes import ExitCode
from kigi.cli.options import cluster_options, kigi_namespace_option, output_option
from kigi.cli.output import Format, print_data, table

if TYPE_CHECKING:
    from kigi.doctor.findings import Diagnosis

COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "not checked": "dim"}


@click.command("doctor")
@kigi_namespace_option
@click.option(
    "--buckets/--no-buckets",
    default=True,
    show_default=True,
    help="Ask the S3 servers as the users in Kigi's Secrets; stores the empty object layers/kigi-write-probe.",
)
@output_option
@cluster_options()
def command(access: Access, kigi_namespace: str | None, buckets: bool, form: Format) -> None:
    """Check the cluster and the installation, with remedies.

    Works before Kigi is installed, and after. What you may not read is 'not checked'. Exit code 3 if there is an error.
    """
    from kigi.cli.installation_facts import BUSY_S, gather_facts
    from kigi.doctor.examine import examine
    from kigi.doctor.findings import has_errors

    with open_cluster(access, busy_s=BUSY_S) as kube:
        namespace = find_namespace(kube, kigi_namespace)
        facts = gather_facts(kube, access, namespace, os.environ, asks_buckets=buckets)
    findings = examine(facts)
    data = {"version": facts.version, "namespace": namespace, "findings": [asdict(each) for each in findings]}
    print_data(data, lambda: _render(findings), form)
    if has_errors(findings):
        sys.exit(ExitCode.NOT_READY)


def _render(findings: list[Diagnosis]) -> Any:
    from rich.console import Group
    from rich.text import Text

    counts = Counter(finding.state for finding in findings)
    rows = (
        (finding.check, Text(finding.state, COLOURS[finding.state]), finding.object, finding.sentence, finding.remedy)
        for finding in findings
    )
    summary = ", ".join(f"{counts[state]} {state}" for state in ("error", "warning", "not checked", "ok"))
    return Group(table(("CHECK", "STATE", "OBJECT", "FOUND", "REMEDY"), rows), Text(), Text(summary))
