"""Release notes: the change log's part about one version, and how to verify the files."""

from __future__ import annotations

import re
from collections.abc import Mapping


class ChangesMissing(ValueError):
    """CHANGELOG.md has no part about the version."""


def changes(changelog: str, version: str) -> str:
    """The part below ``## VERSION`` or ``## VERSION (...)``, without that line. Raises ChangesMissing."""
    parts = re.split(r"^## (.+)$", changelog, flags=re.MULTILINE)
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        if title.split(" ")[0] == version and text.strip():
            return text.strip() + "\n"
    raise ChangesMissing(f"CHANGELOG.md: has no part '## {version}' with text; write what users notice")


def release_notes(changelog: str, version: str, digests: Mapping[str, str]) -> str:
    """Markdown of the release."""
    images = "".join(f"| kigi-{name} | `{digest}` |\n" for name, digest in sorted(digests.items()))
    return (
        f"# Kigi {version}\n\n{changes(changelog, version)}\n## Images\n\nFor linux/amd64 and linux/arm64.\n\n"
        f"| image | digest |\n|---|---|\n{images}\n"
        "## Verify\n\n```sh\nsha256sum --check SHA256SUMS\n```\n"
    )
