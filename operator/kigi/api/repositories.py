"""Settings of repositories as the operator, daemons, publishers and the command line use them.

The operator renders one file for each LayerRepository with the reader's credentials, for the nodes. It keeps those of
the writer.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from kigi.api.base import DNS_LABEL, Model
from kigi.api.layer_repository import Addressing, Bucket, Endpoint, LayerRepositorySpec, Region
from kigi.api.problems import problems
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH, MAX_FILE_BYTES
from kigi.domain.quantities import parse_quantity
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
    region: Region | None = Field(
        default=None, description="Region that requests are signed for; none: AWS_REGION, else the server's answer."
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
    conditional_writes: bool = Field(
        default=True, description="Whether the server takes If-None-Match: one that answers 501 does not."
    )
    ca_file: str | None = Field(default=None, description="PEM file of the authorities of an https endpoint.")
    access_key_id: str | None = Field(
        default=None, min_length=1, repr=False, description="Access key; none: AWS_ACCESS_KEY_ID."
    )
    secret_access_key: str | None = Field(
        default=None, min_length=1, repr=False, description="Secret key; none: AWS_SECRET_ACCESS_KEY."
    )
    session_token: str | None = Field(
        default=None, min_length=1, repr=False, description="Session token of temporary keys; none: they are lasting."
    )
    rendered: bool = Field(
        default=False, description="Whether an operator has written it, perhaps with fields of a later version."
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
    """The repository of a parsed file. Raises SpecInvalid with each field that is wrong or unknown, and the remedy.

    ``names``: field -> the option or variable that it comes from.
    """
    if not isinstance(settings, Mapping):
        raise SpecInvalid(f"expected a mapping, not {type(settings).__name__}")
    known = {field.alias or name: name for name, field in Repository.model_fields.items()}
    accepted = {*known, *known.values()}
    unknown = [] if settings.get("rendered") is True else sorted(str(key) for key in settings if key not in accepted)
    try:
        repository = Repository.model_validate(settings)
    except ValidationError as exc:
        found = [*_sentences(exc, names or {}), *(_unknown(key, known) for key in unknown)]
        raise SpecInvalid("; ".join(found)) from exc
    if unknown:
        raise SpecInvalid("; ".join(_unknown(key, known) for key in unknown))
    return repository


def _sentences(exc: ValidationError, names: Mapping[str, str]) -> list[str]:
    """As ``problems``, with the remedy for the fields that people write most often."""
    remedies: dict[str, Callable[[str], str]] = {
        "endpoint": _endpoint_problem,
        "addressing": lambda text: "write Path or VirtualHost",
    }
    found = problems(exc, Repository, names)
    for place, error in enumerate(exc.errors(include_url=False, include_context=False)):
        field, given = str(error["loc"][0]), error.get("input")
        if field in remedies and isinstance(given, str):
            expected = (Repository.model_fields[field].description or "").rstrip(".")
            name, problem = names.get(field) or field, remedies[field](given)
            found[place] = f"{name} {_without_user(given)!r}: {problem}; expected: {expected}"
    return found


def _endpoint_problem(text: str) -> str:
    scheme, found, rest = text.partition("://")
    if not found:
        return f"it has no scheme; write https://{text}" if text else "it is empty; write https://HOST"
    if scheme not in ("http", "https"):
        return f"the scheme {scheme!r} is not known; write https://{rest}"
    if "@" in rest:
        return "it has a user; leave it out, and give the credentials as keys"
    host, slash, path = rest.partition("/")
    if not host:
        return f"it has no host; write {scheme}://HOST"
    if slash and path:
        return (
            f"it has the path /{path}; write {scheme}://{host}, and the bucket apart from it. A server below a path is "
            "not supported: requests are signed for the path that the server sees"
        )
    return f"write {scheme}://HOST or {scheme}://HOST:PORT, with a port of 1 to 65535"


def _without_user(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", text)


def _unknown(key: str, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(key.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    meant = next((name for name in known if near and name.lower() == near[0]), None)
    return f"{key[:80]}: no such field; " + (f"did you mean {meant}?" if meant else f"there are {', '.join(known)}")


def repository_of_spec(spec: LayerRepositorySpec, **more: Any) -> Repository:
    """The settings of a LayerRepository; ``more``: ``ca_file`` and credentials."""
    limits = spec.limits
    return Repository(
        endpoint=spec.s3.endpoint,
        bucket=spec.s3.bucket,
        region=spec.s3.region,
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


VARIABLES = {"endpoint": "KIGI_S3_ENDPOINT", "bucket": "KIGI_S3_BUCKET", "maxPutBytes": "KIGI_S3_MAX_PUT_BYTES"}
"""Field -> environment variable of the repository ``default``."""


def default_repository(endpoint: str, bucket: str | None, max_put_bytes: str | None = None) -> Repositories:
    """Only the repository ``default``, with that server and bucket. Raises SpecInvalid with the wrong variable."""
    return Repositories(
        repositories={DEFAULT_REPOSITORY: environment_repository(endpoint, bucket, max_put_bytes, VARIABLES)}
    )


def environment_repository(
    endpoint: str, bucket: str | None, max_put_bytes: str | None, names: Mapping[str, str]
) -> Repository:
    """A repository of texts as options and variables have them; ``max_put_bytes`` may be a quantity such as 50Mi."""
    settings: dict[str, object] = {"endpoint": endpoint, "bucket": bucket or DEFAULT_BUCKET}
    if max_put_bytes:
        try:
            settings["maxPutBytes"] = parse_quantity(max_put_bytes)
        except ValueError as exc:
            raise SpecInvalid(f"KIGI_S3_MAX_PUT_BYTES {max_put_bytes!r}: write bytes, or a quantity as 50Mi") from exc
    return repository_of(settings, names)


def is_repository_name(name: str) -> bool:
    """Whether a LayerRepository can have this name."""
    return len(name) <= 63 and re.fullmatch(DNS_LABEL, name) is not None
