"""All errors that Kigi raises on purpose, as one tree. The class of an error decides what happens next:

- ``NeedsAction``: a person must act. The condition ``Stalled`` is True; retries are rare.
- ``Waiting``: something else must happen first. It enqueues the object again; no warning.
- ``Unreachable``: the API server, the repository or a node did not answer. Retried with backoff.
- ``LayerCorrupt``: data is damaged. The layer is quarantined and fetched again.

``reason`` is that of conditions and events (``cli/causes.py`` explains it). A class without one has its parent's.
"""

from __future__ import annotations

from typing import Any, ClassVar

_ACTION_REASONS: set[str] = set()


class KigiError(Exception):
    """Base class. The text of an error names the object, the field and the remedy."""

    reason: ClassVar[str] = "Error"


class NeedsAction(KigiError):
    """A person must act: no retry heals it. ``needs_action`` knows the reasons of all subclasses."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _ACTION_REASONS.add(cls.reason)


def needs_action(reason: str) -> bool:
    """Whether a person must act on an error with this reason. False for an unknown reason."""
    return reason in _ACTION_REASONS


class Waiting(KigiError):
    """Something else must happen first."""

    reason = "Waiting"
    retry_after_s: float | None = None
    """Seconds until a retry helps at the earliest; None: the backoff decides."""


class Unreachable(KigiError):
    """The API server, the repository or a node did not answer."""

    reason = "Unreachable"


class SpecInvalid(NeedsAction):
    """A field of an object, a setting or an argument is wrong."""

    reason = "SpecInvalid"


class LayerContradiction(SpecInvalid):
    """An image gives its layer another parent or size than what is known of the layer's digest."""

    reason = "LayerContradiction"


class StatusInvalid(NeedsAction):
    """A stored status that decisions depend on cannot be read: Kigi does not know what it has done before."""

    reason = "StatusInvalid"


# The API server's answers: ``adapters/kubernetes/api_errors.py`` maps each HTTP status to one of these.
class Forbidden(NeedsAction):
    """403: Kigi lacks a right, which the message names; an administrator must grant it."""

    reason = "Forbidden"


class Conflict(Waiting):
    """409: the object, or its version, is not the one that the decision was based on."""

    reason = "Conflict"
    retry_after_s = 0.2


class NotFound(Waiting):
    """404: the object, its namespace or its kind does not exist (yet)."""


class Expired(Unreachable):
    """410: the resourceVersion or page token is too old. List again."""


class Throttled(Unreachable):
    """429: the API server is too busy."""


class Unauthorized(Unreachable):
    """401: the API server does not accept the token. A replaced token is read before the retry."""


class LostLeadership(Waiting):
    """This operator's lease has ended, or may have ended: it must not write."""

    reason = "LostLeadership"


# Trees.
class ImageMissing(Waiting):
    """A parent, or the image of a machine, names a VMImageNode that does not exist (yet)."""

    reason = "ImageMissing"


class SystemMissing(Waiting):
    """A parent, or a deployment, names a SystemNode that does not exist (yet)."""

    reason = "SystemMissing"


class RefNotPermitted(Waiting):
    """No TreeGrant permits a reference to another namespace, or its object does not exist: one text for both."""

    reason = "RefNotPermitted"


class RefNotReady(Waiting):
    """A permitted object of another namespace cannot be resolved there; its owner sees why."""

    reason = "RefNotReady"


class ImageCycle(SpecInvalid):
    """An image is its own ancestor."""

    reason = "ImageCycle"


class SystemCycle(SpecInvalid):
    """A system is its own ancestor."""

    reason = "SystemCycle"


class ChainTooDeep(SpecInvalid):
    """A path to the root has more than ``MAX_DEPTH`` nodes."""

    reason = "ChainTooDeep"


class VirtualSizeShrinks(SpecInvalid):
    """A child's virtual disk is smaller than its parent's."""

    reason = "VirtualSizeShrinks"


class MachineUnknown(SpecInvalid):
    """A field names a machine or disk that the system does not have."""

    reason = "MachineUnknown"


class BootOrderCycle(SpecInvalid):
    """The ``after`` fields of some machines form a cycle."""

    reason = "BootOrderCycle"


class MachineWithoutImage(SpecInvalid):
    """A state adds a machine or disk without naming its image."""

    reason = "MachineWithoutImage"


class NameTaken(NeedsAction):
    """An object of that name exists and has another owner or other contents."""

    reason = "NameTaken"


class InUse(NeedsAction):
    """Other objects still use the object to be deleted."""

    reason = "InUse"


class ArchiveRefused(NeedsAction):
    """An exported file is damaged, or ``kigi export`` did not write it. Nothing of it was applied."""

    reason = "ArchiveRefused"


# Deployments.


class DeploymentMissing(Waiting):
    """A field names a SystemDeployment, or an instance of one, that does not exist (yet)."""

    reason = "DeploymentMissing"


class NotSelected(NeedsAction):
    """A SystemInstance whose SystemDeployment does not exist, or does not ask for an instance of that name."""

    reason = "NotSelected"


class TooManyMachines(SpecInvalid):
    """The status of one SystemDeployment cannot hold entries for so many machines."""

    reason = "TooManyMachines"


class QuotaExceeded(NeedsAction):
    """A SystemQuota of the namespace does not allow what is missing. What exists stays and runs."""

    reason = "QuotaExceeded"


class HookUnavailable(NeedsAction):
    """No feature gate of KubeVirt is on that lets it attach layered disks. No VM starts without one."""

    reason = "HookUnavailable"


class HookPending(Waiting):
    """KubeVirt's Plugin for layered disks is not in place yet."""

    reason = "HookPending"


class StateBesideDisk(NeedsAction):
    """A VM's preference gives it persistent state (TPM, EFI) outside of its disks, where no reset reaches it."""

    reason = "StateBesideDisk"


class NotSettled(Waiting):
    """An instance is changing to another state; it can be captured afterwards."""

    reason = "NotSettled"


class AgentMissing(NeedsAction):
    """A capture requires that guests freeze their file systems, and one of them cannot."""

    reason = "AgentMissing"


class NodesMissing(Waiting):
    """Fewer nodes qualify than a prefetch asks for."""

    reason = "NodesMissing"


# Layers on nodes and in repositories.


class LayerCorrupt(KigiError):
    """The bytes of a file do not have the digest that it is stored under. They are never served."""

    reason = "LayerCorrupt"


class LayerRefused(NeedsAction):
    """A layer's header breaks a rule (``rule``, such as ``data-file``) or its declaration. Publish the image again."""

    reason = "LayerRefused"

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{message} ({rule})")
        self.rule = rule


class LayerMissing(Waiting):
    """The node's cache does not hold a layer (yet)."""

    reason = "LayerMissing"


class LayerNotInRepository(Waiting):
    """The repository has no object for a layer. Retried, as it may be published later."""

    reason = "LayerNotInRepository"


class RepositoryUnknown(NeedsAction):
    """A layer names a repository that is not configured, or the repository's bucket does not exist."""

    reason = "RepositoryUnknown"


class RepositoryMisconfigured(NeedsAction):
    """The repository's answer shows a wrong setting: region, certificate, size limit or proxy."""

    reason = "RepositoryMisconfigured"


class RepositoryNotPermitted(SpecInvalid):
    """The LayerRepository does not exist, or is not for the namespace: one reason, so that a tenant learns nothing."""

    reason = "RepositoryNotPermitted"


class NoDefaultRepository(SpecInvalid):
    """An object names no repository, and its namespace has no default one, or several."""

    reason = "NoDefaultRepository"


class AccessDenied(NeedsAction):
    """The repository refuses the credentials."""

    reason = "AccessDenied"


class RepositoryUnreachable(Unreachable):
    """The repository does not answer, or the connection broke. A retry continues the transfer."""

    reason = "RepositoryUnreachable"


class BudgetExceeded(NeedsAction):
    """The desired layers exceed the node's budget even after eviction. Nothing was fetched."""

    reason = "BudgetExceeded"


class PrefetchWaits(Waiting):
    """The budget has no space for a prefetched layer beside the layers of disks."""

    reason = "PrefetchWaits"


class DiskPressure(Waiting):
    """The node's disk is nearly full. Fetches pause, because the kubelet would start to evict pods."""

    reason = "DiskPressure"


class NoRoom(Waiting):
    """The node's disk is full."""

    reason = "NoRoom"


class PublisherSilent(Waiting):
    """The capture publisher of a node does not run."""

    reason = "PublisherSilent"


class CaptureFailed(Waiting):
    """The layer of a captured disk could not be made or stored. Retried."""

    reason = "CaptureFailed"


# Disks on nodes.


class OverlayRejected(NeedsAction):
    """An overlay's header is not as Kigi made it: the guest may have written it. The overlay is never mounted."""

    reason = "OverlayRejected"


class OverlayMismatch(NeedsAction):
    """A volume is requested with another chain than its overlay has."""

    reason = "OverlayMismatch"


class VolumeUnknown(NeedsAction):
    """The node has no overlay of that handle, or not at the given path."""

    reason = "VolumeUnknown"


class VolumeBusy(Waiting):
    """Another operation on the same volume is running."""

    reason = "VolumeBusy"


class VolumeInUse(Waiting):
    """The overlay is mounted elsewhere, or something else is mounted at the target."""

    reason = "VolumeInUse"


class VolumeDiscarded(Waiting):
    """The overlay is being deleted, as its NodeCache requests."""

    reason = "VolumeDiscarded"


class MountFailed(KigiError):
    """The kernel refused to mount or unmount."""

    reason = "MountFailed"
