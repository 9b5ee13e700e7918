"""Where layers are stored: the settings file that daemons and the command line read, ``repositories.yaml``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from kigi.api.base import DNS_LABEL, Model
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH
from kigi.errors import RepositoryUnknown, SpecInvalid


class Repository(Model):
    """One bucket of an S3 server."""

    endpoint: str = Field(pattern=r"^https?://[^/\s]+/?$", description="URL of the S3 server, without the bucket.")
    bucket: str = Field(min_length=3, max_length=63, description="Name of the bucket.")
    region: str = Field(default="us-east-1", description="Region that requests are signed for.")
    path_style: bool = Field(default=True, description="True: bucket in the path; False: in the host name.")
    credentials_dir: str | None = Field(
        default=None,
        description="Folder with the files accessKeyId and secretAccessKey (a mounted Secret); none: environment.",
    )
    max_depth: int = Field(
        default=MAX_DEPTH,
        ge=1,
        le=MAX_DEPTH,
        description="Longest chain, in layers, that may be published; 'kigi flatten' shortens one.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Connections that one node's daemon opens to it at the same time; none: KIGI_CONNECTIONS.",
    )
    ca_file: str | None = Field(default=None, description="PEM file of the authority of an https endpoint.")

    def credentials(self, environment: Mapping[str, str]) -> tuple[str, str]:
        """Access key and secret, read anew each time so that a rotated Secret counts. Raises SpecInvalid."""
        if self.credentials_dir is None:
            try:
                return environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
            except KeyError as exc:
                raise SpecInvalid(f"repository {self.bucket}: set {exc.args[0]}, or credentialsDir") from exc
        folder = Path(self.credentials_dir)
        try:
            return (folder / "accessKeyId").read_text().strip(), (folder / "secretAccessKey").read_text().strip()
        except OSError as exc:
            raise SpecInvalid(f"repository {self.bucket}: credentialsDir: cannot read {exc.filename}") from exc


class Repositories(Model):
    """All repositories by name; ``default`` is where layers are that name none."""

    repositories: dict[str, Repository] = Field(description="Repositories by name.", min_length=1)

    def get(self, name: str) -> Repository:
        """That repository; raises RepositoryUnknown with the names that there are."""
        if name not in self.repositories:
            known = ", ".join(sorted(self.repositories))
            raise RepositoryUnknown(f"repository {name!r} is not configured; repositories.yaml has {known}")
        return self.repositories[name]


def load_repositories(path: Path | None, environment: Mapping[str, str] = os.environ) -> Repositories:
    """The settings of ``path``, with ``default`` from KIGI_S3_ENDPOINT and KIGI_S3_BUCKET where they are set.

    Raises SpecInvalid with the field at fault.
    """
    data: dict[str, object] = {"repositories": {}}
    try:
        if path is not None:
            data = yaml.safe_load(path.read_text()) or data
        merged = dict(data.get("repositories") or {})  # type: ignore[call-overload]
        if "KIGI_S3_ENDPOINT" in environment:
            merged[DEFAULT_REPOSITORY] = {
                **dict(merged.get(DEFAULT_REPOSITORY, {})),
                "endpoint": environment["KIGI_S3_ENDPOINT"],
                "bucket": environment.get("KIGI_S3_BUCKET", "kigi"),
            }
        for name in merged:
            if not _is_label(name):
                raise SpecInvalid(f"repositories.yaml: repository name {name!r}: letters, digits and '-' only")
        return Repositories.model_validate({"repositories": merged})
    except (OSError, yaml.YAMLError, ValidationError, TypeError, ValueError) as exc:
        raise SpecInvalid(f"repositories: {path or 'KIGI_S3_ENDPOINT'}: {exc}") from exc


def _is_label(name: str) -> bool:
    return re.fullmatch(DNS_LABEL, name) is not None
