"""``kigi migrate``: converts every object of v1alpha1 in place, once per cluster."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import KIGI_NAMESPACE, Access, open_cluster
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.options import PATH, cluster_options, output_option
from kigi.cli.output import Format, plain, print_data, print_message, print_result
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from kigi.migration.backup import Backup
    from kigi.migration.conversion import Conversion
    from kigi.migration.run import Cluster

_SHOWN = ("finalizers", "annotations")


@click.command("migrate")
@click.option("--crds", type=PATH, required=True, help="Folder crds/ of this release.")
@click.option(
    "--backup",
    type=PATH,
    required=True,
    help="File for all objects as they were; if it exists, the migration resumes from it.",
)
@click.option("--dry-run", is_flag=True, help="Write the backup, show every difference, and change nothing.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="REPOSITORY=READER[,WRITER]",
    help="Secrets of a repository other than 'default'; may be repeated.",
)
@click.option("--kigi-namespace", default=KIGI_NAMESPACE, show_default=True, help="Namespace of the operator.")
@click.option("--config-map", default="kigi-repositories", show_default=True, help="ConfigMap of the repositories.")
@output_option
@cluster_options(namespace=False)
def command(
    access: Access,
    crds: Path,
    backup: Path,
    dry_run: bool,
    secrets: tuple[str, ...],
    kigi_namespace: str,
    config_map: str,
    form: Format,
) -> None:
    """Convert the cluster's objects from v1alpha1 to v1alpha2.

    Stop the operator first, and start that of this release afterwards. VMs run on, and their disks stay. After an
    interruption, call it again with the same --backup.
    """
    from kigi.migration.conversion import convert
    from kigi.migration.repositories import DEFAULT_SECRETS
    from kigi.migration.run import BUSY_S, Cluster

    with open_cluster(access, manager="kigi-migrate", busy_s=BUSY_S) as kube:
        cluster = Cluster(kube, read_definitions(crds), report=print_message)
        saved = _saved(cluster, backup, kigi_namespace, config_map)
        known = {**DEFAULT_SECRETS, **dict(map(parse_secret, secrets))}
        conversion = convert(saved.objects, saved.repositories, known)
        _report(conversion)
        done: dict[str, Any] = {
            "backup": str(backup),
            "objects": len(conversion.objects),
            "notes": list(conversion.findings.notes),
            "migrated": not dry_run,
        }
        if dry_run:
            lines = list(differences(saved, conversion))
            print_data({**done, "differences": lines}, lambda: plain("\n".join(lines)), form)
            return
        _apply(cluster, saved, conversion, kigi_namespace)
        print_result(done, form)
    print_message(
        f"{len(conversion.objects)} objects are stored in v1alpha2; now apply this release's manifests. Delete the "
        "definition nodecaches.kigi.dev when every daemon runs this release"
    )


def parse_secret(text: str) -> tuple[str, tuple[str, str | None]]:
    """``main=reader,writer`` as ("main", ("reader", "writer")). Raises OptionInvalid."""
    name, equals, rest = text.partition("=")
    reader, _, writer = rest.partition(",")
    if not (name and equals and reader):
        raise OptionInvalid(f"--secret {text}: write REPOSITORY=READER or REPOSITORY=READER,WRITER")
    return name, (reader, writer or None)


def read_definitions(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> CustomResourceDefinition of a folder. Raises SpecInvalid."""
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.yaml")):
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(body, dict) and body.get("kind") == "CustomResourceDefinition":
            found[body["metadata"]["name"]] = body
    if "systeminstances.kigi.dev" not in found:
        raise SpecInvalid(f"--crds {folder}: it has no definition systeminstances.kigi.dev; give crds/ of this release")
    return found


def differences(saved: Backup, conversion: Conversion) -> Iterator[str]:
    """Unified differences of every object, as YAML."""
    old = {_key(body): body for body in saved.objects}
    for body in conversion.objects:
        before, after = _text(old.get(_key(body))), _text(body)
        yield from difflib.unified_diff(before, after, "v1alpha1", " ".join(map(str, _key(body))), n=1, lineterm="")


def _saved(cluster: Cluster, path: Path, namespace: str, config_map: str) -> Backup:
    from kigi.migration.backup import read_backup, write_backup
    from kigi.migration.run import export

    if path.exists():
        print_message(f"resuming from {path}")
        return read_backup(path)
    backup = export(cluster, namespace, config_map)
    write_backup(path, backup)
    print_message(f"{len(backup.objects)} objects are saved in {path}")
    return backup


def _report(conversion: Conversion) -> None:
    for note in conversion.findings.notes:
        print_message(f"note: {note}")
    if conversion.findings.problems:
        raise SpecInvalid("nothing was changed:\n" + "\n".join(conversion.findings.problems))


def _apply(cluster: Cluster, saved: Backup, conversion: Conversion, namespace: str) -> None:
    from kigi.migration.run import apply, lock, unlock
    from kigi.runtime.leader import LEASE_NAME

    lock(cluster, namespace, LEASE_NAME)
    apply(cluster, saved, conversion.objects)
    unlock(cluster, namespace, LEASE_NAME)


def _key(body: Mapping[str, Any]) -> tuple[str, str, str]:
    meta = body["metadata"]
    return body["kind"], meta.get("namespace") or "", meta["name"]


def _text(body: Mapping[str, Any] | None) -> list[str]:
    import yaml

    if body is None:
        return []
    shown = {key: value for key, value in body["metadata"].items() if key in _SHOWN and value}
    text: str = yaml.safe_dump({**({"metadata": shown} if shown else {}), "spec": body["spec"]}, sort_keys=False)
    return text.splitlines()
