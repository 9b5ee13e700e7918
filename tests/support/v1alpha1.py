"""Objects of v1alpha1, as a cluster has them before its migration."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "data/v1alpha1"
REPOSITORIES: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kigi-repositories", "namespace": "kigi-system"},
    "data": {
        "repositories.yaml": "repositories:\n  default:\n    endpoint: https://s3.example.org\n    bucket: kigi\n"
        "    maxDepth: 32\n    maxConnections: 4\n    credentialsDir: /etc/kigi-credentials/default\n"
    },
}


def manifests() -> list[dict[str, Any]]:
    """The objects as a user applied them."""
    return list(yaml.safe_load_all((FOLDER / "objects.yaml").read_text(encoding="utf-8")))


def stored() -> list[dict[str, Any]]:
    """The objects with the metadata that the API server adds."""
    found = manifests()
    for body in found:
        name = f"{body['kind']}/{body['metadata']['namespace']}/{body['metadata']['name']}"
        body["metadata"] |= {
            "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
            "generation": 1,
            "creationTimestamp": "2026-10-01T09:00:00Z",
        }
    return found


def definitions() -> list[dict[str, Any]]:
    """The CustomResourceDefinitions of v1alpha1."""
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.kigi.dev.yaml"))]
