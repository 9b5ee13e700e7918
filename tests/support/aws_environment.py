"""An environment without any credentials for S3, whatever the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def nowhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No variable, no file below ~/.aws and no metadata service gives credentials or a region."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
