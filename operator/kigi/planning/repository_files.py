"""Files with the settings of repositories, as keys of the Secret that the nodes' pods mount.

It has the readers' credentials. Each LayerRepository has its own keys, so that reconciles of several repositories do
not disturb each other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping

from kigi.api.repositories import FILE_SUFFIX, Repository

DAEMON_SECRET = "kigi-daemon-repositories"
"""Mounted by daemons and capture publishers."""
FORMER_SECRET = "kigi-publisher-repositories"
"""Had the writers' credentials for the capture publishers of earlier versions; it is emptied."""
CA_SUFFIX = ".ca.crt"


def repository_files(name: str, repository: Repository, ca_bundle: str | None) -> dict[str, str]:
    """File name -> content of one repository. O(size of the bundle)."""
    files: dict[str, str] = {}
    if ca_bundle is not None:
        files[name + CA_SUFFIX] = ca_bundle
        repository = repository.model_copy(update={"ca_file": name + CA_SUFFIX})
    files[name + FILE_SUFFIX] = json.dumps({**repository.to_api(), "rendered": True}, sort_keys=True)
    return files


def changed_data(
    present: Mapping[str, str], name: str, files: Mapping[str, str], known: Iterable[str]
) -> dict[str, str | None]:
    """The merge patch of a Secret's ``data``: new and changed keys, and None for keys to remove.

    ``present``: its data now. Keys of ``name`` that are not in ``files``, and keys of repositories that are not
    ``known``, are removed.
    """
    wanted = {key: base64.b64encode(text.encode()).decode() for key, text in files.items()}
    kept = {other + suffix for other in known if other != name for suffix in (FILE_SUFFIX, CA_SUFFIX)}
    changes: dict[str, str | None] = {key: None for key in present if key not in wanted and key not in kept}
    return changes | {key: value for key, value in wanted.items() if present.get(key) != value}
