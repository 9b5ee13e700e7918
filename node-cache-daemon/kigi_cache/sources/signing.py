"""Signed URLs of layers in S3 repositories; botocore signs, nothing is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from kigi.adapters.repositories import read_credentials
from kigi.api.repositories import Repository
from kigi.domain.layers import Layer, object_key
from kigi.errors import RepositoryUnknown
from kigi_cache.clock import REAL_TIME, Clock

URL_LIFE_S = 600


class _Client(Protocol):
    """What is used of a botocore client."""

    def generate_presigned_url(self, ClientMethod: str, Params: dict[str, str], ExpiresIn: int) -> str: ...


class Signer:
    """Signs requests for layers with each repository's current credentials. Thread-safe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """``environment`` has the credentials of repositories that have none of their own."""
        self._environment = environment
        self._session = botocore.session.Session()
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str], tuple[tuple[Repository, str, str], _Client]] = {}

    def prepare(self, repository: Repository) -> None:
        """Create the client of a repository now: the first one takes 50 ms. Raises as ``sign``."""
        self._client(repository)

    def sign(self, repository: Repository, layer: Layer) -> str:
        """URL of the layer's object, valid for URL_LIFE_S.

        Raises SpecInvalid without credentials, and RepositoryUnknown if the settings cannot be used.
        """
        parameters = {"Bucket": repository.bucket, "Key": object_key(layer.digest)}
        try:
            return self._client(repository).generate_presigned_url("get_object", parameters, URL_LIFE_S)
        except BotoCoreError as exc:
            raise _unusable(repository, exc) from exc

    def _client(self, repository: Repository) -> _Client:
        """The repository's client, created again when its settings or credentials have changed."""
        access, secret = read_credentials(repository, self._environment)
        key, made_for = (repository.endpoint, repository.bucket), (repository, access, secret)
        with self._lock:
            known = self._clients.get(key)
            if known is None or known[0] != made_for:
                known = self._clients[key] = (made_for, self._create(repository, access, secret))
            return known[1]

    def _create(self, repository: Repository, access: str, secret: str) -> _Client:
        style: Literal["path", "virtual"] = "path" if repository.addressing == "Path" else "virtual"
        try:
            client: Any = self._session.create_client(
                "s3",
                region_name=repository.region,
                endpoint_url=repository.endpoint,
                aws_access_key_id=access,
                aws_secret_access_key=secret,
                config=Config(signature_version="s3v4", s3={"addressing_style": style}),
            )
        except (BotoCoreError, ValueError) as exc:  # ValueError: an endpoint that is not a URL
            raise _unusable(repository, exc) from exc
        return client  # type: ignore[no-any-return]


class SignedUrl:
    """A signed URL of one object, signed again before it expires. Thread-safe."""

    def __init__(self, sign: Callable[[], str], clock: Clock = REAL_TIME) -> None:
        self._sign = sign
        self._clock = clock
        self._lock = threading.Lock()
        self._url = sign()
        self._signed_at_s = clock.monotonic_s()

    def get(self) -> str:
        """A URL that is valid for at least half of URL_LIFE_S. Raises what ``sign`` raises."""
        with self._lock:
            if self._clock.monotonic_s() - self._signed_at_s > URL_LIFE_S / 2:
                self._url, self._signed_at_s = self._sign(), self._clock.monotonic_s()
            return self._url


def _unusable(repository: Repository, cause: Exception) -> RepositoryUnknown:
    where = f"{repository.endpoint}: bucket {repository.bucket}"
    return RepositoryUnknown(f"{where} cannot be used: {cause}; correct the LayerRepository")
