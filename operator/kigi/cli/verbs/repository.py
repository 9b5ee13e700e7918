"""``kigi repository check``: whether a repository's bucket survives a stolen node."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import REPOSITORY, SECRET
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.cluster import kigi_namespace as find_namespace
from kigi.cli.exit_codes import ExitCode
from kigi.cli.options import cluster_options, kigi_namespace_option, repository_options, rows_option
from kigi.cli.output import Format, Rows, print_data, print_message, table
from kigi.cli.reach import reachable
from kigi.cli.repositories import RepositoryChoice
from kigi.cli.secret_keys import Keys, keys_of_secret
from kigi.cli.services import names_credentials
from kigi.errors import Forbidden

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.api.repositories import Repository
    from kigi.domain.repository_points import Point

COLUMNS = ("name", "verdict", "found", "remedy")


@click.group("repository")
def command() -> None:
    """Check the bucket of a repository."""


@command.command("check")
@click.argument("name", required=False)
@kigi_namespace_option
@repository_options(name=False)
@rows_option
@cluster_options(namespace=False)
def check(
    access: Access, name: str | None, kigi_namespace: str | None, repository: RepositoryChoice, form: Format
) -> None:
    """Check whether a bucket loses layers to a stolen node: ok, not ok or unknown for each point.

    \b
    NAME: LayerRepository; the users in its Secrets are checked too, if you may read these. Without it, the server
    is the one of --endpoint or KIGI_S3_ENDPOINT.

    Asks as AWS_ACCESS_KEY_ID (or AWS_PROFILE, or a web identity), best the bucket's owner, or else as the writer.
    KIGI_READER_ACCESS_KEY_ID and KIGI_WRITER_ACCESS_KEY_ID (and _SECRET_ACCESS_KEY, _SESSION_TOKEN) replace the users
    in the Secrets. Stores one empty object, layers/kigi-write-probe. Exit code 3 if a point is not ok.
    """
    import asyncio

    from kigi.adapters.s3_checks import ask_all
    from kigi.domain.repository_points import has_failed, points_of

    chosen = RepositoryChoice(name, repository.endpoint, repository.bucket).chosen(access)
    secrets = _keys_of_secrets(access, name, kigi_namespace) if name is not None else {}
    with reachable(chosen, access, keys=False) as reached:
        keys = {user: _keys_of_environment(user) or secrets.get(user, {}) for user in ("reader", "writer")}
        users = {user: _with(reached, found) for user, found in keys.items()}
        caller = reached if names_credentials(os.environ) else users["writer"] or reached
        answers = asyncio.run(ask_all(caller, users["reader"], users["writer"], os.environ))
    points = points_of(answers)
    where = {"endpoint": chosen.settings.endpoint, "bucket": chosen.settings.bucket}
    found = [asdict(point) for point in points]
    print_data({**where, "points": found}, lambda: _table(points), form, rows=lambda: Rows(COLUMNS, found))
    if has_failed(points):
        sys.exit(ExitCode.NOT_READY)


def _table(points: list[Point]) -> Any:
    return table(
        ("POINT", "VERDICT", "FOUND", "REMEDY"),
        ((point.name, point.verdict, point.found, point.remedy) for point in points),
    )


def _with(repository: Repository, keys: Keys) -> Repository | None:
    """The repository with these credentials; None: there are none."""
    return repository.model_copy(update=dict(keys)) if keys else None


def _keys_of_environment(user: str) -> Keys:
    fields = ("access_key_id", "secret_access_key", "session_token")
    names = {field: f"KIGI_{user.upper()}_{field.upper()}" for field in fields}
    found = {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}
    return found if set(fields[:2]) <= found.keys() else {}


def _keys_of_secrets(access: Access, name: str, namespace: str | None) -> dict[str, Keys]:
    """Credentials by user, of the Secrets that the caller may read."""
    found: dict[str, Keys] = {}
    with open_cluster(access) as kube:
        namespace = find_namespace(kube, namespace)
        credentials = (kube.get(REPOSITORY, None, name) or {}).get("spec", {}).get("credentials", {})
        for user in ("reader", "writer"):
            secret = (credentials.get(f"{user}SecretRef") or {}).get("name")
            if secret:
                found[user] = _read_secret(kube, namespace, secret)
    return found


def _read_secret(kube: KubeSession, namespace: str, name: str) -> Keys:
    try:
        keys = keys_of_secret(kube.get(SECRET, namespace, name))
    except Forbidden as exc:
        print_message(f"Secret {namespace}/{name} is not read: {exc}")
        return {}
    if not keys:
        print_message(f"Secret {namespace}/{name} does not exist, or lacks accessKeyId or secretAccessKey")
    return keys
