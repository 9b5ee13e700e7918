"""Builds an exercise with Linux guests and publishes its images into a namespace."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from demo.steps import PublishedExercise
from demo.targets import Target
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import open_repository
from kigi.publishing.image_tree import publish_tree
from kigi.publishing.layer_folder import LayerFolder
from localcluster.bounded import DOWNLOAD_S
from localcluster.paths import cache_dir
from scenario import real, tiny

BUILDERS = {"tiny": tiny.build, "real": real.build}
SAMPLE = ("mail1", "desktop1")
"""A server and a desktop: the VMs that run in the real exercise and in second instances.

Two cores emulate all guests and cannot run more of them in reasonable time.
"""

console = Console(width=None if sys.stdout.isatty() else 190)
_started = time.monotonic()


def progress(text: str) -> None:
    """Print a line with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - _started:7.1f} s[/dim] {text}")


def prepare(target: Target, variant: str, namespace: str | None = None) -> PublishedExercise:
    """Build the exercise (cached), publish its layers, and apply its VMImageNodes in ``namespace``.

    The default namespace is ``tiny-exercise`` or ``real-exercise``.
    """
    folder = cache_dir() / "demo" / variant
    progress(f"{variant}: building the disks that are not in the cache")
    manifest = BUILDERS[variant](folder)
    progress(f"{variant}: publishing {len(manifest.images)} layers")
    os.environ.update(target.environment)
    objects = asyncio.run(_publish(folder))
    namespace = namespace or f"{variant}-exercise"
    target.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    target.apply(*({**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in objects))
    layer_bytes: Mapping[str, int] = {each["metadata"]["name"]: each["spec"]["layer"]["sizeBytes"] for each in objects}
    all_machines = tuple(manifest.roles)
    return PublishedExercise(
        variant=variant,
        manifest=manifest,
        namespace=namespace,
        layer_bytes=layer_bytes,
        digests={each["metadata"]["name"]: each["spec"]["layer"]["digest"] for each in objects},
        running=all_machines if variant == "tiny" else SAMPLE,
        second_running=SAMPLE if variant == "tiny" else (),
    )


async def _publish(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    settings = load_repositories(None, os.environ).get("default")
    async with asyncio.timeout(DOWNLOAD_S), open_repository(settings, os.environ) as repository:
        return await publish_tree(folder, LayerFolder(cache_dir() / "published"), repository)
