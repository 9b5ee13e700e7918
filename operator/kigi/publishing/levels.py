"""Publishes a qcow2 file and each of its backing files as images of their own, instead of as one image."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from kigi.adapters.s3 import LayerBucket, Progress
from kigi.domain.layers import Digest
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.publish import Published, publish_image
from kigi.publishing.source import inspect


async def publish_levels(
    path: Path,
    folder: LayerFolder,
    repository: LayerBucket,
    *,
    parent: Digest | None = None,
    backing_dirs: Sequence[Path] = (),
    progress: Progress = lambda count: None,
) -> list[Published]:
    """One layer per file, the root first, above ``parent``. Raises what ``publish_image`` raises."""
    source = await asyncio.to_thread(inspect, path, "qcow2", backing_dirs)
    trusted = [path.parent, *backing_dirs]
    done: list[Published] = []
    for file in (*reversed(source.backing), source.path):
        below = done[-1].layer.digest if done else parent
        done.append(
            await publish_image(
                file,
                folder,
                repository,
                parent=below,
                image_format="qcow2",
                backing_dirs=trusted,
                progress=progress,
            )
        )
    return done


def level_names(name: str, count: int) -> list[str]:
    """Names of the images, the root first: ``NAME-level0``, ``NAME-level1``, ..., ``NAME``."""
    return [*(f"{name}-level{number}" for number in range(count - 1)), name]
