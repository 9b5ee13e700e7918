"""Signed URLs of layers in S3 repositories; botocore signs, nothing is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from kigi.adapters.credentials import EnvironmentKeys, keys_of, region_of
from kigi.api.repositories import Repository, object_url
from kigi_cache.clock import REAL_TIME, Clock

URL_LIFE_S = 600
"""Temporary credentials are renewed so early that they are valid for as long, see ``EnvironmentKeys.get``."""


class Signer:
    """Signs requests with each repository's current credentials, for the region of its bucket. Thread-safe."""

    def __init__(self, environment: Mapping[str, str], keys: EnvironmentKeys | None = None) -> None:
        """``environment`` and ``keys`` have the credentials of repositories that have none of their own."""
        self._environment = environment
        self._keys = keys or EnvironmentKeys()
        self._regions: dict[tuple[str, str], str] = {}

    def sign(self, repository: Repository, key: str) -> str:
        """URL of the object, valid for URL_LIFE_S.

        Blocks while new temporary credentials are fetched. Raises SpecInvalid without credentials, and what
        ``EnvironmentKeys.get`` raises.
        """
        request = AWSRequest(method="GET", url=object_url(repository, key))
        signer = keys_of(repository, self._environment, self._keys).signer()
        S3SigV4QueryAuth(signer, "s3", self.region(repository), expires=URL_LIFE_S).add_auth(request)
        return str(request.url)

    def region(self, repository: Repository) -> str:
        """The region that requests are signed for now."""
        return self._regions.get((repository.endpoint, repository.bucket)) or region_of(repository, self._environment)

    def use_region(self, repository: Repository, region: str) -> None:
        """The server has named this region as the bucket's."""
        self._regions[repository.endpoint, repository.bucket] = region


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

    def expire(self) -> None:
        """The next ``get`` signs again: another region or other credentials are known."""
        with self._lock:
            self._signed_at_s = float("-inf")
