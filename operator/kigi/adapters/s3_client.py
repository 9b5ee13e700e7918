"""Opens clients of S3 servers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError

from kigi.adapters.credentials import WAYS, fixed_keys, region_of, use_environment_region
from kigi.adapters.proxies import proxy_for
from kigi.api.repositories import Repository
from kigi.errors import RepositoryUnreachable, SpecInvalid

ATTEMPTS = 4


class _Direct:
    """An HTTP session that returns a redirect as the answer."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def request(self, method: str, **options: Any) -> Any:
        return self._session.request(method, **options, allow_redirects=False)


class _NoRedirects(AIOHTTPSession):
    """aiobotocore 3.10 sends a redirected request, with its body, to any server that the answer names.

    botocore itself takes the other region of a redirect, and signs anew for the same endpoint.
    """

    async def _get_session(self, proxy_url: str | None) -> _Direct:
        return _Direct(await super()._get_session(proxy_url))  # type: ignore[misc]


@asynccontextmanager
async def open_client(
    repository: Repository,
    environment: Mapping[str, str] = os.environ,
    *,
    attempts: int = ATTEMPTS,
    read_timeout_s: float = 60.0,
) -> AsyncIterator[Any]:
    """A client of the repository's server with its credentials, or else those that botocore finds.

    It sends a request at most ``attempts`` times, waits for data at most ``read_timeout_s``, and renews temporary
    credentials. Raises SpecInvalid without credentials.
    """
    keys = fixed_keys(repository, environment)
    session = get_session()
    region = _region(session, repository, environment)
    if keys is None:
        await _check_credentials(session, repository)
    proxy = proxy_for(repository.endpoint, environment)
    config = AioConfig(
        s3={"addressing_style": "path" if repository.addressing == "Path" else "virtual"},
        http_session_cls=_NoRedirects,
        connect_timeout=5,
        read_timeout=read_timeout_s,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # An empty mapping: botocore must not read the variables again, see ``proxies``.
        proxies=dict.fromkeys(("http", "https"), proxy.geturl()) if proxy is not None else {},
    )
    options: dict[str, Any] = {"verify": repository.ca_file} if repository.ca_file else {}
    if keys is not None:
        options |= {
            "aws_access_key_id": keys.access_key_id,
            "aws_secret_access_key": keys.secret_access_key,
            "aws_session_token": keys.session_token,
        }
    async with session.create_client(
        "s3",
        region_name=region,
        endpoint_url=repository.endpoint,
        config=config,
        **options,
    ) as client:
        yield client


def _region(session: AioSession, repository: Repository, environment: Mapping[str, str]) -> str:
    """As ``region_of``; the profile's region precedes the default."""
    has_own = repository.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    try:
        return (None if has_own else session.get_config_variable("region")) or region_of(repository, environment)
    except BotoCoreError as exc:  # a profile that does not exist
        raise SpecInvalid(f"credentials of the environment: {exc}; {WAYS}") from exc


async def _check_credentials(session: AioSession, repository: Repository) -> None:
    """Raises SpecInvalid if botocore finds no credentials, with the reason; else they are in the session."""
    try:
        use_environment_region(session)
        found = await session.get_credentials()
    except (BotoCoreError, ValueError) as exc:
        raise SpecInvalid(f"credentials of the environment: {exc}; {WAYS}") from exc
    except OSError as exc:
        raise RepositoryUnreachable(f"credentials of the environment: {exc}; call again") from exc
    if found is None:
        raise SpecInvalid(f"repository {repository.bucket}: there are no credentials; {WAYS}")
