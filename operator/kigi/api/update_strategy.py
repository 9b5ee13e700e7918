"""How the machines of a SystemDeployment take another state."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kigi.api.base import Model, Rule, planned


class UpdateStrategy(Model):
    """How machines take another state; what it omits has the default that is named with the field."""

    RULES: ClassVar[tuple[Rule, ...]] = (planned("restart"), planned("maxConcurrentInstances"))

    on_switch: Literal["ReplaceAll", "ReplaceChanged"] | None = Field(
        default=None,
        description="What a switch replaces. ReplaceAll (default): the disks of all machines. ReplaceChanged: only "
        "disks with other images. Unknown: as ReplaceAll; further values may be added.",
    )
    on_edit: Literal["OnReset", "Immediate"] | None = Field(
        default=None,
        description="When an edit of a SystemNode (other images, hardware or machines under the same name) reaches the "
        "machines that run it. OnReset (default): with the next reset or switch of the machine. Immediate: at once; a "
        "changed image discards what guests wrote. Unknown: as OnReset; further values may be added.",
    )
    restart: Literal["InPlaceIfPossible", "Recreate"] | None = Field(
        default=None,
        description="Reserved. How a machine takes a fresh disk: in its running VMI if that is possible, or with "
        "another VMI. Unknown: as Recreate; further values may be added.",
    )
    max_concurrent_instances: int | None = Field(
        default=None, ge=1, le=1000, description="Reserved. Instances that a switch changes at the same time."
    )
