"""Credentials for S3: those of a repository's settings, or else those that botocore finds in the environment.

botocore searches the variables AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, a web identity (AWS_WEB_IDENTITY_TOKEN_FILE and
AWS_ROLE_ARN), the profile AWS_PROFILE in ~/.aws, and the metadata of containers and machines. Temporary ones are
renewed before they expire.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import botocore.session
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from kigi.api.layer_repository import DEFAULT_REGION
from kigi.api.repositories import Repository
from kigi.errors import AccessDenied, KigiError, RepositoryUnreachable, SpecInvalid

WAYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE"
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials at one moment."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def signer(self) -> Credentials:
        """As botocore's signers take them."""
        return Credentials(self.access_key_id, self.secret_access_key, self.session_token)


def fixed_keys(repository: Repository, environment: Mapping[str, str]) -> Keys | None:
    """Those of the repository's settings, else of the variables; an empty variable counts as unset.

    None: botocore has to search further. Raises SpecInvalid if one of two belonging settings is missing.
    """
    if repository.access_key_id or repository.secret_access_key:
        if not (repository.access_key_id and repository.secret_access_key):
            raise SpecInvalid(f"repository {repository.bucket}: give accessKeyId and secretAccessKey, or neither")
        return Keys(repository.access_key_id, repository.secret_access_key, repository.session_token)
    access, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access:
        return None
    if not secret:
        raise SpecInvalid(f"repository {repository.bucket}: AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not")
    return Keys(access, secret, environment.get("AWS_SESSION_TOKEN") or environment.get("AWS_SECURITY_TOKEN") or None)


class EnvironmentKeys:
    """What botocore finds besides the variables of keys. Thread-safe; blocks while it asks a server for new ones."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        """``now``: an aware time that decides when temporary ones are renewed; None: botocore's clock."""
        self._now = now
        self._lock = threading.Lock()
        self._session: botocore.session.Session | None = None
        self._found: Any = None

    def get(self) -> Keys:
        """Valid for some minutes at least: botocore renews temporary ones 10 to 15 minutes before they expire.

        Raises SpecInvalid if there are none, AccessDenied, or RepositoryUnreachable if the server that issues them does
        not answer.
        """
        try:
            with self._lock:
                found = self._credentials()
                frozen = found.get_frozen_credentials() if found is not None else None
        except (ClientError, BotoCoreError, OSError, ValueError) as exc:
            raise _unusable(exc) from exc
        if frozen is None or not (frozen.access_key and frozen.secret_key):
            raise SpecInvalid(f"there are no credentials for S3: {WAYS}")
        return Keys(frozen.access_key, frozen.secret_key, frozen.token or None)

    def _credentials(self) -> Any:
        if self._found is None:
            self._found = self._of_session().get_credentials()
            if self._now is not None and hasattr(self._found, "_time_fetcher"):
                self._found._time_fetcher = self._now  # botocore has no argument for it
        return self._found

    def _of_session(self) -> botocore.session.Session:
        if self._session is None:
            self._session = botocore.session.Session()
            use_environment_region(self._session)
        return self._session


def use_environment_region(session: Any) -> None:
    """A web identity is exchanged in some region, also for a server that has none; botocore reads no AWS_REGION.

    ``session``: of botocore or aiobotocore. Raises BotoCoreError for a profile that does not exist.
    """
    if not session.get_config_variable("region"):
        session.set_config_variable("region", os.environ.get("AWS_REGION") or DEFAULT_REGION)


def keys_of(repository: Repository, environment: Mapping[str, str], others: EnvironmentKeys) -> Keys:
    """The keys to sign with now. Raises as ``EnvironmentKeys.get``."""
    return fixed_keys(repository, environment) or others.get()


def region_of(repository: Repository, environment: Mapping[str, str] = os.environ) -> str:
    """The region to sign for: of the settings, else of AWS_REGION or AWS_DEFAULT_REGION, else us-east-1."""
    return repository.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or DEFAULT_REGION


def _unusable(exc: Exception) -> KigiError:
    text = f"credentials of the environment: {exc}"
    if isinstance(exc, ClientError):
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if 400 <= status < 500:
            return AccessDenied(f"{text}; correct AWS_ROLE_ARN, or the role's trust in this identity")
        return RepositoryUnreachable(f"{text}; it is tried again")
    if isinstance(exc, OSError):
        return SpecInvalid(f"{text}; AWS_WEB_IDENTITY_TOKEN_FILE must name a readable file")
    kind = type(exc).__name__
    if any(word in kind for word in ("Connect", "Timeout", "HTTPClient", "MetadataRetrieval", "Retriev")):
        return RepositoryUnreachable(f"{text}; it is tried again")
    return SpecInvalid(f"{text}; {WAYS}")
