"""Reads the settings of repositories from files and environment variables."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from kigi.api.repositories import (
    FILE_SUFFIX,
    Repositories,
    Repository,
    default_repository,
    is_repository_name,
    repository_of,
)
from kigi.errors import SpecInvalid

logger = logging.getLogger(__name__)


def load_repositories(folder: Path | None, environment: Mapping[str, str] = os.environ) -> Repositories:
    """The repositories in ``folder``, one in each file ``NAME.json``, and ``default`` of KIGI_S3_ENDPOINT if it is set.

    A file that is invalid is logged and left out, so that one repository does not stop the others. A folder that does
    not exist has none. Raises SpecInvalid if the variables are wrong.
    """
    found: dict[str, Repository] = {}
    for path in sorted(folder.glob(f"*{FILE_SUFFIX}")) if folder is not None else ():
        try:
            found[path.stem] = read_repository(path)
        except SpecInvalid as exc:
            logger.warning("repository ignored", extra={"path": str(path), "cause": str(exc)})
    endpoint = environment.get("KIGI_S3_ENDPOINT")
    if endpoint:
        bucket, limit = environment.get("KIGI_S3_BUCKET"), environment.get("KIGI_S3_MAX_PUT_BYTES")
        found.update(default_repository(endpoint, bucket, limit).repositories)
    return Repositories(repositories=found)


def read_repository(path: Path) -> Repository:
    """The repository of one file; a relative ``caFile`` is in the file's folder. Raises SpecInvalid."""
    if not is_repository_name(path.stem):
        raise SpecInvalid(f"{path.stem!r} is no name of a repository: only lower-case letters, digits and '-'")
    try:
        repository = repository_of(json.loads(path.read_text()))
    except (OSError, ValueError) as exc:  # UnicodeDecodeError and JSONDecodeError, whose text shows no secret
        raise SpecInvalid(str(exc)) from exc
    if repository.ca_file is None:
        return repository
    return repository.model_copy(update={"ca_file": str(path.parent / repository.ca_file)})
