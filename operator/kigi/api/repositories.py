"""Settings of repositories as the operator, daemons, publishers and the command line use them.

The operator renders one file for each LayerRepository with the reader's credentials, for the nodes. It keeps those of
the writer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from kigi.api.base import DNS_LABEL, Model
from kigi.api.layer_repository import DEFAULT_REGION, Addressing, Bucket, Endpoint, LayerRepositorySpec, Region
from kigi.api.problems import problems
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH, MAX_FILE_BYTES
from kigi.domain.signed_put import MAX_PUT_BYTES
from kigi.errors import RepositoryUnknown, SpecInvalid

DEFAULT_BUCKET = "kigi"
FILE_SUFFIX = ".json"
"""Of the file with the settings of one repository; the rest of its name is the repository's."""


class Repository(Model):
    """One bucket of an S3 server."""

    model_config = ConfigDict(hide_input_in_errors=True)  # an error must not show a secret

    endpoint: Endpoint = Field(
        description="URL of the S3 server with http:// or https:// and without bucket and path, such as https://s3.example."
    )
    bucket: Bucket = Field(
        description="Name of the bucket: 3 to 63 lower-case letters, digits, '-' and '.', such as kigi-layers."
    )
    region: Region = Field(
        default=DEFAULT_REGION, description="Region that requests are signed for, such as eu-central-1."
    )
    addressing: Addressing = Field(default="Path", description="Where requests name the bucket.")
    max_depth: int = Field(
        default=MAX_DEPTH, ge=1, le=MAX_DEPTH, description="Longest chain, in layers, that may be published."
    )
    max_put_bytes: int = Field(
        default=MAX_PUT_BYTES,
        ge=5 * 2**20,
        le=MAX_FILE_BYTES,
        description="Largest object, in bytes, that the server takes in one request; a larger captured layer is stored "
        "in parts.",
    )
    connections_per_node: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Connections that one node's daemon opens to it at the same time; none: KIGI_CONNECTIONS.",
    )
    ca_file: str | None = Field(default=None, description="PEM file of the authorities of an https endpoint.")
    access_key_id: str | None = Field(
        default=None, min_length=1, repr=False, description="Access key; none: AWS_ACCESS_KEY_ID."
    )
    secret_access_key: str | None = Field(
        default=None, min_length=1, repr=False, description="Secret key; none: AWS_SECRET_ACCESS_KEY."
    )


class Repositories(Model):
    """Repositories by name."""

    repositories: dict[str, Repository] = Field(default_factory=dict, description="Repositories by name.")

    def get(self, name: str) -> Repository:
        """The repository of that name. Raises RepositoryUnknown."""
        if name not in self.repositories:
            raise RepositoryUnknown(
                f"repository {name!r} is not known here; LayerRepository {name} must exist, name a Secret that exists, "
                "and reaches nodes a minute later"
            )
        return self.repositories[name]


def repository_of(settings: object, names: Mapping[str, str] | None = None) -> Repository:
    """The repository of a parsed file. Raises SpecInvalid with each field that is wrong, and what it expects.

    ``names``: field -> the option or variable that it comes from.
    """
    if not isinstance(settings, Mapping):
        raise SpecInvalid(f"expected a mapping, not {type(settings).__name__}")
    try:
        return Repository.model_validate(settings)
    except ValidationError as exc:
        raise SpecInvalid("; ".join(problems(exc, Repository, names))) from exc


def repository_of_spec(spec: LayerRepositorySpec, **more: Any) -> Repository:
    """The settings of a LayerRepository; ``more``: ``ca_file`` and credentials."""
    limits = spec.limits
    return Repository(
        endpoint=spec.s3.endpoint,
        bucket=spec.s3.bucket,
        region=spec.s3.region or DEFAULT_REGION,
        addressing=spec.s3.addressing or "Path",
        max_depth=(limits.max_depth if limits else None) or MAX_DEPTH,
        max_put_bytes=(limits.max_put_bytes if limits else None) or MAX_PUT_BYTES,
        connections_per_node=limits.connections_per_node if limits else None,
        **more,
    )


def object_url(repository: Repository, key: str) -> str:
    """URL of an object, in the repository's addressing."""
    endpoint = repository.endpoint.rstrip("/")
    if repository.addressing == "Path":
        return f"{endpoint}/{repository.bucket}/{key}"
    scheme, host = endpoint.split("://", 1)
    return f"{scheme}://{repository.bucket}.{host}/{key}"


VARIABLES = {"endpoint": "KIGI_S3_ENDPOINT", "bucket": "KIGI_S3_BUCKET"}
"""Field -> environment variable of the repository ``default``."""


def default_repository(endpoint: str, bucket: str | None) -> Repositories:
    """Only the repository ``default``, with that server and bucket. Raises SpecInvalid with the wrong variable."""
    settings = {"endpoint": endpoint, "bucket": bucket or DEFAULT_BUCKET}
    return Repositories(repositories={DEFAULT_REPOSITORY: repository_of(settings, VARIABLES)})


def is_repository_name(name: str) -> bool:
    """Whether a LayerRepository can have this name."""
    return len(name) <= 63 and re.fullmatch(DNS_LABEL, name) is not None
