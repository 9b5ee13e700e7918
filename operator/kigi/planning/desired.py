"""The machines of an instance as they should be, in the light of the disks that they have."""

from __future__ import annotations

from kigi.planning.edits import with_older_content
from kigi.planning.observed_disks import ObservedDisks
from kigi.planning.resets import Requests
from kigi.planning.targets import MachineTarget, machine_targets
from kigi.planning.view import InstanceView


def desired_targets(view: InstanceView, disks: ObservedDisks, *, hook_image: str = "") -> tuple[MachineTarget, ...]:
    """Every VM that should exist: what the spec asks for, with requests for resets, and with edits that wait.

    Raises what ``machine_targets`` raises.
    """
    requests = Requests(view.resets, disks)
    targets = requests.added_to(machine_targets(view, hook_image=hook_image))
    return with_older_content(view, disks, requests, targets, hook_image)
