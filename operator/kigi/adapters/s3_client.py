"""Opens clients of S3 servers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from kigi.adapters.repositories import read_credentials
from kigi.api.repositories import Repository

ATTEMPTS = 4


@asynccontextmanager
async def open_client(
    repository: Repository,
    environment: Mapping[str, str] = os.environ,
    *,
    attempts: int = ATTEMPTS,
    read_timeout_s: float = 60.0,
) -> AsyncIterator[Any]:
    """A client of the repository's server with its credentials, or else those of the environment.

    It sends a request at most ``attempts`` times, and waits for data at most ``read_timeout_s``. Raises SpecInvalid
    without credentials.
    """
    access, secret = read_credentials(repository, environment)
    config = AioConfig(
        s3={"addressing_style": "path" if repository.addressing == "Path" else "virtual"},
        connect_timeout=5,
        read_timeout=read_timeout_s,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    options: dict[str, Any] = {"verify": repository.ca_file} if repository.ca_file else {}
    async with get_session().create_client(
        "s3",
        region_name=repository.region,
        endpoint_url=repository.endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=config,
        **options,
    ) as client:
        yield client
