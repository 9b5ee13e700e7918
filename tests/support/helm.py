"""Helm on the chart that is made of the present manifests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from localcluster.build import binary
from tools.chart.__main__ import write_chart
from tools.chart.build import Release
from tools.chart.source import label

Object = dict[str, Any]
_HELM_S = 240


class HelmFailed(AssertionError):
    """Helm refused; the text is what it printed."""


class Helm:
    """Helm with files of its own below ``home``, and with the chart of ``release``."""

    def __init__(self, home: Path, release: Release, kubeconfig: Path | None = None) -> None:
        self.archive = write_chart(home / release.version, release)
        self.folder = home / release.version / "chart/kigi"
        kinds = ("CACHE", "CONFIG", "DATA")
        self._environment = {
            **os.environ,
            **{f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in kinds},
            "KUBECONFIG": str(kubeconfig or home / "none"),
        }

    def __call__(self, *arguments: str) -> str:
        """Standard output of a call. Raises HelmFailed."""
        done = subprocess.run(
            [binary("helm"), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_HELM_S,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(done.stderr + done.stdout)
        return done.stdout

    def template(
        self, *sets: str, namespace: str = "kigi-system", values: Mapping[str, Any] | None = None
    ) -> list[Object]:
        """Objects that the chart renders with ``sets`` (``path=value``) and, if given, a file of values."""
        given: list[str] = []
        if values is not None:
            path = self.archive.with_name("values.yaml")
            path.write_text(yaml.safe_dump(dict(values)))
            given = ["--values", str(path)]
        for each in sets:
            given += ["--set", each]
        rendered = self("template", "kigi", str(self.archive), "--namespace", namespace, *given)
        return [each for each in yaml.load_all(rendered, Loader=yaml.CSafeLoader) if each]


def by_label(objects: list[Object]) -> dict[str, Object]:
    """Objects by kind and name. Raises AssertionError for two of one name."""
    found = {label(each): each for each in objects}
    assert len(found) == len(objects)
    return found


def without_policy(item: Object) -> Object:
    """The object without Helm's resource policy, the one annotation that the chart adds."""
    meta = {**item["metadata"], "annotations": {**item["metadata"].get("annotations", {})}}
    meta["annotations"].pop("helm.sh/resource-policy", None)
    if not meta["annotations"]:
        del meta["annotations"]
    return {**item, "metadata": meta}
