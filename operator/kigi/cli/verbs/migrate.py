"""``kigi migrate``: converts every object of v1alpha1 in place, once per cluster."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kigi.cli.cluster import Access, open_cluster
from kigi.cli.cluster import kigi_namespace as find_namespace
from kigi.cli.consent import Consent, consent_options
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.options import PATH, cluster_options, kigi_namespace_option, output_option
from kigi.cli.output import Format, plain, print_data, print_message, print_result
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from kigi.migration.backup import Backup
    from kigi.migration.conversion import Conversion
    from kigi.migration.whole import Convert

_SHOWN = ("finalizers", "annotations")


@click.command("migrate")
@click.option("--crds", type=PATH, required=True, help="Folder crds/ of this release.")
@click.option(
    "--backup",
    type=PATH,
    required=True,
    help="File for all objects as they were; if the migration has begun, it resumes from it.",
)
@consent_options
@click.option("--back", is_flag=True, help="Convert from v1alpha2 to v1alpha1, to go back to the previous release.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="REPOSITORY=READER[,WRITER]",
    help="Secrets of a repository other than 'default'; may be repeated.",
)
@kigi_namespace_option
@click.option("--config-map", default="kigi-repositories", show_default=True, help="ConfigMap of the repositories.")
@output_option
@cluster_options(namespace=False)
def command(
    access: Access,
    crds: Path,
    backup: Path,
    consent: Consent,
    back: bool,
    secrets: tuple[str, ...],
    kigi_namespace: str | None,
    config_map: str,
    form: Format,
) -> None:
    """Convert all objects from v1alpha1 to v1alpha2, or back.

    Stop the operator first, and start that of the other release afterwards. VMs run on, and their disks stay. Users
    cannot change objects meanwhile. Asks first; --dry-run writes the backup, shows every difference, and changes
    nothing. After an interruption, call it again with the same --backup.
    """
    from kigi.migration.back_run import go_back, look_back
    from kigi.migration.freeze import MANAGER
    from kigi.migration.run import BUSY_S, Cluster, Place
    from kigi.migration.whole import look, migrate
    from kigi.runtime.leader import LEASE_NAME

    notes: list[str] = []
    converted = _converter(secrets, notes)
    with open_cluster(access, manager=MANAGER, busy_s=BUSY_S) as kube:
        place = Place(find_namespace(kube, kigi_namespace), LEASE_NAME, config_map)
        cluster = Cluster(kube, read_definitions(crds), report=print_message)
        if consent.dry_run:
            shown = look_back(cluster, backup) if back else look(cluster, backup, place, converted)
            done = _result(backup, len(shown[1].objects), shown[1].findings.notes, migrated=False)
            lines = list(differences(*shown))
            print_data({**done, "differences": lines}, lambda: plain("\n".join(lines)), form)
            return
        consent.obtain(f"convert all objects of the cluster to {'v1alpha1' if back else 'v1alpha2'}? No disk changes.")
        count = go_back(cluster, backup, place) if back else migrate(cluster, backup, place, converted)
    print_result(_result(backup, count, notes, migrated=True), form)
    if back:
        print_message(f"{count} objects are stored in v1alpha1; now apply the previous release's manifests")
        return
    print_message(
        f"{count} objects are stored in v1alpha2; now apply this release's manifests. Delete the definition "
        "nodecaches.kigi.dev when every daemon runs this release"
    )


def _result(backup: Path, count: int, notes: Iterable[str], *, migrated: bool) -> dict[str, Any]:
    return {"backup": str(backup), "objects": count, "notes": list(notes), "migrated": migrated}


def _converter(secrets: tuple[str, ...], notes: list[str]) -> Convert:
    """Converts a backup; prints what is noted, once, into ``notes``, and raises SpecInvalid for a problem."""
    from kigi.migration.conversion import convert
    from kigi.migration.repositories import DEFAULT_SECRETS

    known = {**DEFAULT_SECRETS, **dict(map(parse_secret, secrets))}

    def converted(saved: Backup) -> Conversion:
        conversion = convert(saved.objects, saved.repositories, known)
        if conversion.findings.notes != notes:
            notes[:] = conversion.findings.notes
            for note in notes:
                print_message(f"note: {note}")
        if conversion.findings.problems:
            raise SpecInvalid("nothing was changed:\n" + "\n".join(conversion.findings.problems))
        return conversion

    return converted


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
        yield from difflib.unified_diff(before, after, "before", " ".join(map(str, _key(body))), n=1, lineterm="")


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
