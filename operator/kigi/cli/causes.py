"""Every reason that a condition may give, as cause and remedy: what ``kigi why`` answers."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """``remedy`` empty: nothing need be done, it goes on by itself."""

    cause: str
    remedy: str = ""


CAUSES: dict[str, Cause] = {
    # Trees.
    "ImageMissing": Cause(
        "a VMImageNode that is named does not exist", "publish it: kigi publish, or correct the name"
    ),
    "SystemMissing": Cause("a SystemNode that is named does not exist", "apply it, or correct the name"),
    "DeploymentMissing": Cause("a SystemDeployment, or an instance of it, does not exist", "correct the name or index"),
    "ImageCycle": Cause("an image is its own ancestor", "publish one image of the circle anew under another parent"),
    "SystemCycle": Cause("a state is its own ancestor", "correct spec.parent of one state of the circle"),
    "ChainTooDeep": Cause("a chain has too many layers", "kigi flatten IMAGE --name NEW, and name the new image"),
    "VirtualSizeShrinks": Cause("a disk is smaller than its parent's", "grow the image and publish it anew"),
    "TooManyMachines": Cause("one object cannot tell of so many machines", "lower replicas; make another deployment"),
    "MachineUnknown": Cause("a machine is named that the state does not have", "correct the override's name"),
    "MachineWithoutImage": Cause("a machine has no image in any ancestor", "give it spec.machines[].image"),
    "BootOrderCycle": Cause("machines wait for each other", "remove one of the 'after' entries that the message names"),
    "SpecInvalid": Cause("a field does not make sense", "correct the field that the message names"),
    "NameTaken": Cause("an object of that name belongs to somebody else", "rename, or delete the other object"),
    "InUse": Cause("it was deleted and is still used", "delete the users that the message lists"),
    # Rights, API server.
    "Forbidden": Cause("the API server refuses it", "grant the right that the message names: manifests/rbac"),
    "Unreachable": Cause("the API server, the repository or a node did not answer"),
    "Waiting": Cause("something else must happen first"),
    "Conflict": Cause("an object changed meanwhile; it is looked at again"),
    "LostLeadership": Cause("another operator leads now"),
    "Error": Cause("something failed that has no name", "the message, and the operator's log, say what"),
    # Placement.
    "NoNode": Cause("no node can take the machine", "the message counts why: add nodes, room, or change placement"),
    "Placing": Cause("disks are being given to nodes"),
    "NodeNotReady": Cause("a node with a disk is away", "bring it back, or delete its Node object to start elsewhere"),
    # Layers.
    "LayersWarming": Cause("layers are on their way to the nodes"),
    "LayersFetching": Cause("layers are on their way"),
    "LayerMissing": Cause("a layer is not on the node yet"),
    "CacheSilent": Cause("a node's cache daemon has not reported", "kubectl -n kigi-system get pods -o wide; its log"),
    "LayerCorrupt": Cause("a stored file is not what its digest says", "publish the image again; it is fetched anew"),
    "LayerRefused": Cause("a layer has a header that Kigi does not take", "publish the image with kigi publish"),
    "LayerNotInRepository": Cause("the repository lacks a layer", "publish the image to that repository"),
    "RepositoryUnknown": Cause("a repository or bucket is not there", "correct repositories.yaml, or make the bucket"),
    "RepositoryUnreachable": Cause("the repository does not answer; transfers go on from where they were"),
    "AccessDenied": Cause(
        "the repository refuses the credentials", "correct the Secret kigi-repository-reader/-writer"
    ),
    "BudgetExceeded": Cause("the layers do not fit the node's budget", "raise KIGI_BUDGET_BYTES, or deploy less there"),
    "PrefetchWaits": Cause("a prefetched layer waits for room beside those that are needed"),
    "DiskPressure": Cause("a node's disk is nearly full", "free some, give it a larger disk, or lower KIGI_MIN_FREE"),
    "NoRoom": Cause("a node's disk is full", "free some, or give /var/lib/kigi a larger file system"),
    # Disks.
    "ClaimsPending": Cause("claims are being bound"),
    "OverlaysDeleting": Cause("disks that nobody needs are being deleted"),
    "OverlayRejected": Cause("a disk's header is not as Kigi made it", "kigi reset that machine; its guest is suspect"),
    "OverlayMismatch": Cause("a disk stands on another chain", "kigi reset that machine"),
    "VolumeUnknown": Cause("the node has no disk of that name", "kigi reset that machine"),
    "VolumeBusy": Cause("another operation on the disk is under way"),
    "VolumeInUse": Cause("the disk is mounted for another pod", "see which pod of the VM still ends"),
    "VolumeDiscarded": Cause("the disk is being deleted"),
    "MountFailed": Cause("the kernel refused a mount", "the daemon's log on that node says why"),
    # VMs.
    "HookUnavailable": Cause("KubeVirt cannot attach layered disks", "turn the feature gate on that the message names"),
    "HookPending": Cause("KubeVirt's Plugin for the disks is on its way"),
    "StateBesideDisk": Cause(
        "a VM's preference gives it a TPM or EFI whose state no reset reaches",
        "say persistent: false in the machine's patch, as the message names it",
    ),
    "MachinesPending": Cause("VirtualMachines are being made"),
    "MachinesStarting": Cause("VMs are starting", "if it lasts: kubectl describe vmi, and the guest's console"),
    "Deleting": Cause("it is being deleted"),
    "Unresolved": Cause("it waits for the states and images that it names"),
    # Prefetches.
    "NodesMissing": Cause(
        "fewer nodes can be taken than are asked for", "the message counts why: add nodes, or change count or nodes"
    ),
    # Captures.
    "NotSettled": Cause("the instance is on its way to another state; it is captured then"),
    "CaptureFailed": Cause("a captured layer cannot be made or stored now", "the message names the disk and the cause"),
    "PauseFailed": Cause("KubeVirt did not pause a VM", "see the message, and create another SystemCapture"),
    "MovedOn": Cause("a VM ran on before its disk was copied", "let nobody resume it, and capture again"),
    "TooSlow": Cause("copying took too long", "use XFS or Btrfs for /var/lib/kigi, or capture fewer machines"),
    "CopyLost": Cause("a node lost a copy before it was stored", "create another SystemCapture"),
    "PublisherSilent": Cause(
        "nothing makes layers of copies on that node",
        "kubectl -n kigi-system get pods -o wide; the log of the container capture-publisher there",
    ),
    "CaptureMissing": Cause("the node has no copy"),
    "Pending": Cause("nothing has been done yet"),
    "Checking": Cause("nodes are asked whether copies can be made and stored"),
    "Pausing": Cause("VMs are brought to rest"),
    "Copying": Cause("disks are being copied while their VMs stand still"),
    "Resuming": Cause("VMs are resumed"),
    "Storing": Cause("layers are made and stored"),
    "Publishing": Cause("the new state is being written"),
    # Publishing.
    "QemuImgFailed": Cause("qemu-img failed", "the message has its words"),
    "DisksDiffer": Cause("two images that must be equal are not", "publish the image again"),
    "ArchiveRefused": Cause("a file of an exported subtree is damaged", "export it again, and copy the file anew"),
    "NotSeenYet": Cause("no operator has looked at it", "kubectl -n kigi-system get pods; is the operator running?"),
}
"""Reason -> cause and remedy."""

FINE = frozenset(
    {"Captured", "ChainComplete", "Deployed", "LayersHeld", "LayersCached", "Resolved", "Placed", "ClaimsBound"}
    | {"MachinesCreated", "Copied", "Stored"}
)
"""Reasons of conditions that are True: nothing to explain."""


def cause_of(reason: str) -> Cause:
    """Of any reason; one that a later version gives has no remedy here."""
    return CAUSES.get(reason, Cause(reason))
