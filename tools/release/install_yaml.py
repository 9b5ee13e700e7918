"""``install.yaml``: the objects of ``kubectl apply -k manifests``, with the images of a release."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.chart.source import Object, load
from tools.chart.workloads import CONTAINERS, HOOK_IMAGE, containers, is_workload


def install_yaml(manifests: Path, images: Mapping[str, str]) -> str:
    """One document for each object. ``images``: ``operator``, ``daemon`` and ``hook`` -> name of the image."""
    objects = [_with_images(item, images) for source in load(manifests) for item in source.objects]
    head = "# kubectl apply --server-side -f install.yaml\n---\n"
    text: str = yaml.safe_dump_all(objects, sort_keys=False, width=2**31, allow_unicode=True)
    return head + text


def _with_images(source: Object, images: Mapping[str, str]) -> Object:
    if not is_workload(source):
        return source
    item = copy.deepcopy(source)
    for container in containers(item):
        part = CONTAINERS[container["name"]].image.removeprefix("images.")
        container["image"] = images[part]
        if part == "operator":
            others: list[dict[str, Any]] = [each for each in container["env"] if each["name"] != HOOK_IMAGE]
            container["env"] = [*others, {"name": HOOK_IMAGE, "value": images["hook"]}]
    return item
