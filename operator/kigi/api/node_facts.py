"""What a NodeCache reports of its daemon and its node."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kigi.api.base import Model


class DaemonInfo(Model):
    """The daemon that wrote the status."""

    version: str = Field(max_length=63, description="Version of Kigi.")
    protocols: list[int] = Field(
        max_length=8,
        description="Protocols that it understands.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class NodeFacts(Model):
    """What the daemon found on its node when it started."""

    file_system: str = Field(
        default="", max_length=32, description="Type of the file system that holds the cache, such as xfs."
    )
    features: list[Annotated[str, Field(max_length=32)]] = Field(
        default_factory=list,
        max_length=16,
        description="What that file system can do. HardLinks: files are linked and renamed between its directories. "
        "Reflink: copies share blocks. FsVerity: the kernel seals layers. ProjectQuotas: it counts by directory. "
        "Further values may be added; ignore an unknown one.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
