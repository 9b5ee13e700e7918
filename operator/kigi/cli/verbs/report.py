"""``kigi report``: a support archive without secrets."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from kigi.cli.cluster import Access, open_cluster
from kigi.cli.cluster import kigi_namespace as find_namespace
from kigi.cli.options import PATH, cluster_options, kigi_namespace_option, result_option
from kigi.cli.output import Format, plain, print_data, print_message, spinner
from kigi.errors import SpecInvalid


@click.command("report")
@click.option("--to", "file", type=PATH, help="Archive to write; default: kigi-report-TIME.tar.gz in this folder.")
@kigi_namespace_option
@result_option
@cluster_options()
def command(access: Access, file: Path | None, kigi_namespace: str | None, form: Format) -> None:
    """Write a support archive without secrets.

    It has Kigi's objects, events, ends of logs, versions and the findings of 'kigi doctor'. Secrets, credentials,
    cloud-init data and free texts are removed. With fewer rights it has less, and says what is missing.
    """
    from kigi.cli.installation_facts import BUSY_S, gather_facts
    from kigi.cli.support_archive import Archive, fill_archive, known_secrets
    from kigi.doctor.redaction import Redactor

    folder = f"kigi-report-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    file = file or Path(f"{folder}.tar.gz")
    if file.exists():
        raise SpecInvalid(f"{file} exists already; name another file, or delete it")
    with open_cluster(access, busy_s=BUSY_S) as kube, spinner("reading the installation") as progress:
        namespace = find_namespace(kube, kigi_namespace)
        facts = gather_facts(kube, access, namespace, os.environ)
        archive = Archive(Redactor(known_secrets(kube, namespace, access.endpoint(), os.environ)))
        fill_archive(archive, kube, facts, progress)
    _write(file, archive.packed(folder))
    size = file.stat().st_size
    print_message(f"{file}: {len(archive.members)} files, {size} bytes; {len(archive.missing)} parts are missing")
    done = {"file": str(file), "files": len(archive.members), "sizeBytes": size, "missing": archive.missing}
    print_data(done, lambda: plain(str(file)), form, names=lambda: [str(file)])


def _write(file: Path, data: bytes) -> None:
    """Readable by the caller alone. Raises SpecInvalid."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as output:
            output.write(data)
    except OSError as exc:
        raise SpecInvalid(f"{file}: {exc.strerror}; name another file") from exc
