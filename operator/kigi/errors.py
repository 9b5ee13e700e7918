"""Everything that can go wrong, one tree.

The class decides what happens next: whether a person must act (``SpecInvalid``), something else must happen first
(``Waiting``), the outside world was silent (``Unreachable``), or data was damaged (``LayerCorrupt``). ``reason``
becomes the reason of the condition and of the event.
"""

from __future__ import annotations

from typing import ClassVar


class KigiError(Exception):
    """Base of every error that Kigi raises on purpose; its text names the object, the field and the remedy."""

    reason: ClassVar[str] = "Error"


class SpecInvalid(KigiError):
    """The user must act: no retry until something changes, ``Stalled=True``, Warning event."""

    reason = "SpecInvalid"


class Waiting(KigiError):
    """Something else must happen first: woken by that, no warning."""

    reason = "Waiting"
    retry_after_s: float | None = None


class Unreachable(KigiError):
    """API server, object store or node did not answer: retried with backoff, Warning event."""

    reason = "Unreachable"


class LayerCorrupt(KigiError):
    """A file is not the layer that its digest names: quarantined, fetched again, never served."""

    reason = "LayerCorrupt"


class ImageMissing(Waiting):
    """A VMImageNode that is named as parent or by a machine does not exist (yet)."""

    reason = "ImageMissing"


class SystemMissing(Waiting):
    """A SystemNode that is named as parent or by a deployment does not exist (yet)."""

    reason = "SystemMissing"


class ImageCycle(SpecInvalid):
    """An image is its own ancestor."""

    reason = "ImageCycle"


class SystemCycle(SpecInvalid):
    """A system is its own ancestor."""

    reason = "SystemCycle"


class ChainTooDeep(SpecInvalid):
    """A path to the root is longer than ``MAX_DEPTH``."""

    reason = "ChainTooDeep"


class VirtualSizeShrinks(SpecInvalid):
    """A child's virtual disk is smaller than its parent's."""

    reason = "VirtualSizeShrinks"


class MachineUnknown(SpecInvalid):
    """A machine is named that the system does not have."""

    reason = "MachineUnknown"


class BootOrderCycle(SpecInvalid):
    """Machines wait for each other."""

    reason = "BootOrderCycle"


class MachineWithoutImage(SpecInvalid):
    """A machine that no ancestor state defines does not name its image."""

    reason = "MachineWithoutImage"


class NameTaken(SpecInvalid):
    """An object of that name exists and belongs to somebody else."""

    reason = "NameTaken"


class Conflict(Waiting):
    """The API server holds a newer object than the one this decision was made on: look again."""

    reason = "Conflict"
    retry_after_s = 0.2


class InUse(SpecInvalid):
    """Something stands on the object that shall be deleted."""

    reason = "InUse"


class ArchiveRefused(SpecInvalid):
    """A file of an exported subtree is damaged, or is not what 'kigi export' writes; nothing of it is applied."""

    reason = "ArchiveRefused"


class TooManyMachines(SpecInvalid):
    """A deployment asks for more machines than the status of one object can tell of."""

    reason = "TooManyMachines"


class HookUnavailable(SpecInvalid):
    """KubeVirt has no gate on by which a layered disk can be attached; no VM is started without it."""

    reason = "HookUnavailable"


class HookPending(Waiting):
    """KubeVirt's Plugin for our disks is on its way."""

    reason = "HookPending"


class StateBesideDisk(SpecInvalid):
    """A VM keeps state that no reset reaches: its preference brings what a template may not ask for."""

    reason = "StateBesideDisk"


class LayerRefused(SpecInvalid):
    """A layer's header is not of Kigi's form, or not what was declared: publish it anew; it is never used.

    ``rule`` is the slug of the rule that it breaks, such as ``data-file``.
    """

    reason = "LayerRefused"

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{message} ({rule})")
        self.rule = rule


class OverlayRejected(SpecInvalid):
    """A writable disk does not have the header that it was made with: its guest may have written it; never mounted."""

    reason = "OverlayRejected"


class OverlayMismatch(SpecInvalid):
    """A volume is asked for with another chain than the one that its overlay stands on."""

    reason = "OverlayMismatch"


class VolumeUnknown(SpecInvalid):
    """No overlay of that handle is on the node, or it is not where the caller says."""

    reason = "VolumeUnknown"


class VolumeBusy(Waiting):
    """Another operation on the same volume is under way."""

    reason = "VolumeBusy"


class VolumeInUse(Waiting):
    """The overlay is mounted elsewhere, or its target is taken."""

    reason = "VolumeInUse"


class VolumeDiscarded(Waiting):
    """The overlay is being deleted, by the operator's order."""

    reason = "VolumeDiscarded"


class MountFailed(KigiError):
    """The kernel refused to mount or unmount."""

    reason = "MountFailed"


class Forbidden(SpecInvalid):
    """The API server does not let Kigi do it: an administrator must grant the right that the message names."""

    reason = "Forbidden"


class LostLeadership(Waiting):
    """Another operator leads, or may: this one must not write."""

    reason = "LostLeadership"


class LayerMissing(Waiting):
    """A layer is not in the node's cache (yet)."""

    reason = "LayerMissing"


class LayerNotInRepository(Waiting):
    """The repository has no object for a layer: publish it; it is looked for again."""

    reason = "LayerNotInRepository"


class RepositoryUnknown(SpecInvalid):
    """A layer names a repository, or a repository a bucket, that is not there."""

    reason = "RepositoryUnknown"


class AccessDenied(SpecInvalid):
    """The repository refuses the credentials."""

    reason = "AccessDenied"


class RepositoryUnreachable(Unreachable):
    """The repository does not answer, or breaks off; the transfer goes on from where it was."""

    reason = "RepositoryUnreachable"


class BudgetExceeded(SpecInvalid):
    """The wanted layers do not fit the node's budget, whatever is evicted; nothing was fetched."""

    reason = "BudgetExceeded"


class PrefetchWaits(Waiting):
    """A layer that is only kept warm has no room beside those that are needed; it comes when there is."""

    reason = "PrefetchWaits"


class DiskPressure(Waiting):
    """The node's disk is nearly full: nothing is fetched until it has more room, so that no pod is evicted for it."""

    reason = "DiskPressure"


class NoRoom(Waiting):
    """The node's disk is full; tried again when there is room."""

    reason = "NoRoom"


class DeploymentMissing(Waiting):
    """A SystemDeployment, or an instance of it, that is named does not exist (yet)."""

    reason = "DeploymentMissing"


class NotSettled(Waiting):
    """An instance is on its way to another state; it can be captured when it is there."""

    reason = "NotSettled"


class CacheSilent(Waiting):
    """A node's cache daemon has not reported lately; what is asked of it goes on when it does."""

    reason = "CacheSilent"


class PublisherSilent(Waiting):
    """What makes layers of frozen copies does not run beside a node's daemon; it goes on when it does."""

    reason = "PublisherSilent"


class CaptureFailed(Waiting):
    """A layer of a captured disk cannot be made or stored now; it is tried again."""

    reason = "CaptureFailed"


class NodesMissing(Waiting):
    """Fewer nodes than asked for can be taken."""

    reason = "NodesMissing"


NEEDS_A_PERSON = frozenset(
    kind.reason for kind in (LayerRefused, BudgetExceeded, AccessDenied, RepositoryUnknown, SpecInvalid)
)
"""Refusals of a layer that no retry heals: the layer, the budget, the credentials or the settings must change."""
