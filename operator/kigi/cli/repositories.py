"""The repository that a verb's options name, and the local folder of layers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kigi.domain.layers import DEFAULT_REPOSITORY
from kigi.errors import SpecInvalid

if TYPE_CHECKING:
    from kigi.api.repositories import Repositories, Repository


@dataclass(frozen=True, slots=True)
class RepositoryChoice:
    """A repository of the settings; ``endpoint`` and ``bucket`` replace its server and bucket."""

    settings: Path | None
    """repositories.yaml; None: the file or the variables that the environment names."""
    name: str = DEFAULT_REPOSITORY
    endpoint: str | None = None
    bucket: str | None = None

    def all(self) -> Repositories:
        """Every repository of the settings; raises SpecInvalid."""
        from kigi.adapters.repositories import load_repositories

        environment = dict(os.environ)
        if self.endpoint is not None and self.name == DEFAULT_REPOSITORY:
            environment["KIGI_S3_ENDPOINT"] = self.endpoint
        return load_repositories(self.settings, environment)

    def load(self) -> Repository:
        """The repository; raises SpecInvalid or RepositoryUnknown."""
        from pydantic import ValidationError

        from kigi.api.repositories import Repository

        options = {"endpoint": self.endpoint, "bucket": self.bucket}
        changes = {field: value for field, value in options.items() if value is not None}
        try:
            return Repository.model_validate({**self.all().get(self.name).model_dump(by_alias=True), **changes})
        except ValidationError as exc:
            raise SpecInvalid(f"--endpoint, --bucket: {exc}") from exc


def default_layers_dir() -> Path:
    """Folder of layers in the user's cache: ``$KIGI_CACHE``, or ``kigi`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("KIGI_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kigi"
    return Path(cache) / "published"
