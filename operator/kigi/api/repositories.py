"""Repositories of layers: the model of ``repositories.yaml``, which daemons and the command line read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from kigi.api.base import DNS_LABEL, Model
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH
from kigi.errors import RepositoryUnknown, SpecInvalid

DEFAULT_BUCKET = "kigi"


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


class Repositories(Model):
    """All repositories by name. Layers without a repository are in ``default``."""

    repositories: dict[str, Repository] = Field(description="Repositories by name.", min_length=1)

    def get(self, name: str) -> Repository:
        """The repository of that name. Raises RepositoryUnknown with the configured names."""
        if name not in self.repositories:
            known = ", ".join(sorted(self.repositories))
            raise RepositoryUnknown(f"repository {name!r} is not configured; repositories.yaml has {known}")
        return self.repositories[name]


def repositories_of(settings: object, *, endpoint: str | None = None, bucket: str | None = None) -> Repositories:
    """The repositories of a parsed ``repositories.yaml``; ``endpoint`` and ``bucket`` replace those of ``default``.

    Raises SpecInvalid with the field that is wrong.
    """
    found = dict(_mapping(_mapping(settings, "repositories.yaml").get("repositories") or {}, "repositories"))
    if endpoint is not None:
        default = _mapping(found.get(DEFAULT_REPOSITORY) or {}, f"repositories.{DEFAULT_REPOSITORY}")
        found[DEFAULT_REPOSITORY] = {**default, "endpoint": endpoint, "bucket": bucket or DEFAULT_BUCKET}
    for name in found:
        if not isinstance(name, str) or not re.fullmatch(DNS_LABEL, name):
            raise SpecInvalid(f"repository name {name!r}: only lower-case letters, digits and '-' are allowed")
    try:
        return Repositories.model_validate({"repositories": found})
    except ValidationError as exc:
        raise SpecInvalid(str(exc)) from exc


def _mapping(value: object, field: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise SpecInvalid(f"{field}: expected a mapping, not {type(value).__name__}")
    return value
