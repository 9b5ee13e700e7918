"""Reads the settings of repositories and their credentials, from files and environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from kigi.api.repositories import Repositories, Repository, repositories_of
from kigi.errors import SpecInvalid


def load_repositories(path: Path | None, environment: Mapping[str, str] = os.environ) -> Repositories:
    """The settings in ``path``. KIGI_S3_ENDPOINT and KIGI_S3_BUCKET replace those of ``default`` if they are set.

    Raises SpecInvalid with the field that is wrong.
    """
    try:
        settings = (yaml.safe_load(path.read_text()) if path is not None else None) or {}
        return repositories_of(
            settings, endpoint=environment.get("KIGI_S3_ENDPOINT"), bucket=environment.get("KIGI_S3_BUCKET")
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError, SpecInvalid) as exc:
        raise SpecInvalid(f"repositories: {path or 'KIGI_S3_ENDPOINT'}: {exc}") from exc


def read_credentials(repository: Repository, environment: Mapping[str, str]) -> tuple[str, str]:
    """Access key and secret key. Reads the files on each call, so that a rotated Secret takes effect.

    Raises SpecInvalid if they are missing.
    """
    if repository.credentials_dir is None:
        try:
            return environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        except KeyError as exc:
            raise SpecInvalid(f"repository {repository.bucket}: set {exc.args[0]}, or credentialsDir") from exc
    folder = Path(repository.credentials_dir)
    try:
        return (folder / "accessKeyId").read_text().strip(), (folder / "secretAccessKey").read_text().strip()
    except OSError as exc:
        raise SpecInvalid(f"repository {repository.bucket}: credentialsDir: cannot read {exc.filename}") from exc
