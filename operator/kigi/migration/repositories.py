"""Conversion of the ConfigMap ``kigi-repositories`` of v1alpha1 to LayerRepositories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from kigi.domain import kinds, names
from kigi.domain.layers import DEFAULT_REPOSITORY
from kigi.migration.problems import Body, Findings, without_none

Secrets = Mapping[str, tuple[str, str | None]]
"""Repository -> Secrets with its reader's and its writer's credentials."""
DEFAULT_SECRETS: Secrets = {DEFAULT_REPOSITORY: ("kigi-repository-reader", "kigi-repository-writer")}
"""Those of the manifests of v1alpha1."""


def convert_repositories(config: Body, secrets: Secrets, findings: Findings) -> list[Body]:
    """One LayerRepository per entry, for all namespaces, as the ConfigMap was."""
    try:
        data = yaml.safe_load((config.get("data") or {}).get("repositories.yaml") or "") or {}
    except yaml.YAMLError as exc:
        findings.problem(config, f"data[repositories.yaml] is no YAML: {exc}; correct it")
        return []
    found = data.get("repositories") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        findings.problem(config, "data[repositories.yaml] has no mapping 'repositories'; correct it")
        return []
    return [_repository(config, name, entry, secrets, findings) for name, entry in found.items()]


def _repository(config: Body, name: str, old: Mapping[str, Any], secrets: Secrets, findings: Findings) -> Body:
    if name not in secrets:
        findings.problem(
            config, f"repository {name}: name its Secrets in Kigi's namespace: --secret {name}=READER,WRITER"
        )
    if old.get("caFile"):
        findings.note(
            config,
            f"repository {name}: its caFile is dropped; store the authorities as key ca.crt of a ConfigMap in Kigi's "
            "namespace, and set spec.s3.caBundleRef",
        )
    reader, writer = secrets.get(name, ("unknown", None))
    limits = without_none(maxDepth=old.get("maxDepth"), connectionsPerNode=old.get("maxConnections"))
    spec = without_none(
        s3=without_none(
            endpoint=old.get("endpoint"),
            bucket=old.get("bucket"),
            region=old.get("region"),
            addressing=None if old.get("pathStyle", True) else "VirtualHost",
        ),
        credentials=without_none(
            readerSecretRef={"name": reader}, writerSecretRef={"name": writer} if writer else None
        ),
        limits=limits or None,
        namespaceSelector={},
        defaultFor="AllNamespaces" if name == DEFAULT_REPOSITORY else None,
    )
    return {"apiVersion": names.API_VERSION, "kind": kinds.REPOSITORY, "metadata": {"name": name}, "spec": spec}
