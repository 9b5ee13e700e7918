"""Every reason that a condition may have, with its cause and remedy, for ``kigi why``."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """What is wrong, and what a person must do; an empty ``remedy``: nothing, Kigi continues by itself."""

    cause: str
    remedy: str = ""


CAUSES: dict[str, Cause] = {
    # Trees.
    "ImageMissing": Cause(
        "a VMImageNode that is named does not exist", "publish it: kigi publish, or correct the name"
    ),
    "SystemMissing": Cause("a SystemNode that is named does not exist", "apply it, or correct the name"),
    "DeploymentMissing": Cause("a SystemDeployment, or an instance of it, does not exist", "correct the name or index"),
    "ImageCycle": Cause("an image is its own ancestor", "publish one image of the cycle again under another parent"),
    "SystemCycle": Cause("a state is its own ancestor", "correct spec.parent of one state of the cycle"),
    "ChainTooDeep": Cause("a chain has too many layers", "kigi flatten IMAGE --name NEW, and name the new image"),
    "VirtualSizeShrinks": Cause("a disk is smaller than its parent's", "grow the image and publish it again"),
    "TooManyMachines": Cause(
        "the status of one object cannot hold so many machines", "lower replicas; make another deployment"
    ),
    "MachineUnknown": Cause("a machine is named that the state does not have", "correct the override's name"),
    "MachineWithoutImage": Cause("a machine has no image in any ancestor", "give it spec.machines[].image"),
    "BootOrderCycle": Cause("machines wait for each other", "remove one of the 'after' entries that the message names"),
    "SpecInvalid": Cause("a field has an invalid value", "correct the field that the message names"),
    "NameTaken": Cause("an object of that name belongs to another owner", "rename, or delete the other object"),
    "InUse": Cause("it was deleted and is still used", "delete the users that the message lists"),
    # Rights, API server.
    "Forbidden": Cause("the API server refuses it", "grant the right that the message names: manifests/rbac"),
    "Unreachable": Cause("the API server, the repository or a node did not answer"),
    "Waiting": Cause("something else must happen first"),
    "Conflict": Cause("an object changed meanwhile; Kigi reads it again"),
    "LostLeadership": Cause("another operator leads now"),
    "Error": Cause("an unexpected error", "see the message, and the operator's log"),
    # Placement.
    "NoNode": Cause(
        "no node can take the machine", "the message counts the reasons: add nodes or memory, or change placement"
    ),
    "Placing": Cause("disks are being assigned to nodes"),
    "NodeNotReady": Cause(
        "a node with a disk is not ready", "repair it, or delete its Node object to start the machine elsewhere"
    ),
    # Layers.
    "LayersWarming": Cause("the nodes are fetching layers"),
    "LayersFetching": Cause("layers are being fetched"),
    "LayerMissing": Cause("a layer is not on the node yet"),
    "CacheSilent": Cause("a node's cache daemon has not reported", "kubectl -n kigi-system get pods -o wide; its log"),
    "LayerCorrupt": Cause("a stored file does not match its digest", "publish the image again; it is fetched again"),
    "LayerRefused": Cause("a layer has a header that Kigi does not accept", "publish the image with kigi publish"),
    "LayerNotInRepository": Cause("the repository lacks a layer", "publish the image to that repository"),
    "RepositoryUnknown": Cause(
        "a repository or bucket does not exist", "correct repositories.yaml, or create the bucket"
    ),
    "RepositoryUnreachable": Cause("the repository does not answer; transfers resume where they stopped"),
    "AccessDenied": Cause(
        "the repository refuses the credentials", "correct the Secret kigi-repository-reader/-writer"
    ),
    "BudgetExceeded": Cause("the layers do not fit the node's budget", "raise KIGI_BUDGET_BYTES, or deploy less there"),
    "PrefetchWaits": Cause("a prefetched layer waits for free space; the layers of running machines come first"),
    "DiskPressure": Cause("a node's disk is nearly full", "free space, give it a larger disk, or lower KIGI_MIN_FREE"),
    "NoRoom": Cause("a node's disk is full", "free space, or give /var/lib/kigi a larger file system"),
    # Disks.
    "ClaimsPending": Cause("claims are being bound"),
    "OverlaysDeleting": Cause("unused disks are being deleted"),
    "OverlayRejected": Cause(
        "a disk's header is not the one that Kigi wrote", "kigi reset that machine; its guest may have changed it"
    ),
    "OverlayMismatch": Cause("a disk depends on another chain", "kigi reset that machine"),
    "VolumeUnknown": Cause("the node has no disk of that name", "kigi reset that machine"),
    "VolumeBusy": Cause("another operation on the disk is running"),
    "VolumeInUse": Cause("the disk is mounted for another pod", "find the pod of the VM that is still terminating"),
    "VolumeDiscarded": Cause("the disk is being deleted"),
    "MountFailed": Cause("the kernel refused a mount", "see the daemon's log on that node"),
    # VMs.
    "HookUnavailable": Cause("KubeVirt cannot attach layered disks", "enable the feature gate that the message names"),
    "HookPending": Cause("KubeVirt's Plugin for the disks is being created"),
    "StateBesideDisk": Cause(
        "a VM's preference gives it a TPM or EFI whose state no reset reaches",
        "set persistent: false in the machine's patch, as the message names it",
    ),
    "MachinesPending": Cause("VirtualMachines are being created"),
    "MachinesStarting": Cause("VMs are starting", "if it lasts: kubectl describe vmi, and the guest's console"),
    "Deleting": Cause("it is being deleted"),
    "Unresolved": Cause("it waits for the states and images that it names"),
    # Prefetches.
    "NodesMissing": Cause(
        "fewer nodes are available than requested",
        "the message counts the reasons: add nodes, or change count or nodes",
    ),
    # Captures.
    "NotSettled": Cause("the instance is changing to another state; the capture starts when it is there"),
    "CaptureFailed": Cause("a captured layer cannot be made or stored now", "the message names the disk and the cause"),
    "PauseFailed": Cause("KubeVirt did not pause a VM", "see the message, and create another SystemCapture"),
    "MovedOn": Cause("a VM ran on before its disk was copied", "let nothing else resume it, and capture again"),
    "TooSlow": Cause("copying took too long", "use XFS or Btrfs for /var/lib/kigi, or capture fewer machines"),
    "CopyLost": Cause("a node lost a copy before it was stored", "create another SystemCapture"),
    "PublisherSilent": Cause(
        "no capture publisher makes layers of copies on that node",
        "kubectl -n kigi-system get pods -o wide; the log of the container capture-publisher there",
    ),
    "CaptureMissing": Cause("the node has no copy"),
    "Pending": Cause("nothing has been done yet"),
    "Checking": Cause("nodes check whether copies can be made and stored"),
    "Pausing": Cause("VMs are being paused"),
    "Copying": Cause("disks are being copied while their VMs are paused"),
    "Resuming": Cause("VMs are resumed"),
    "Storing": Cause("layers are made and stored"),
    "Publishing": Cause("the new state is being written"),
    # Publishing.
    "QemuImgFailed": Cause("qemu-img failed", "see its output in the message"),
    "DisksDiffer": Cause("two images that must be equal are not", "publish the image again"),
    "ArchiveRefused": Cause("a file of an exported subtree is damaged", "export it again, and copy the file again"),
    "NotSeenYet": Cause("no operator has processed it", "kubectl -n kigi-system get pods; is the operator running?"),
}
"""Reason -> cause and remedy."""

FINE = frozenset(
    {"Captured", "ChainComplete", "Deployed", "LayersHeld", "LayersCached", "Resolved", "Placed", "ClaimsBound"}
    | {"MachinesCreated", "Copied", "Stored"}
)
"""Reasons of conditions that are True: nothing to explain."""

MACHINE_CAUSES: dict[str, Cause] = {
    "Failed": Cause("KubeVirt cannot start the VM", "correct what the message names; then Kigi continues by itself"),
    "CrashLooping": Cause(
        "the VM ends again and again", "kigi console shows how its guest ends; kigi reset repairs it"
    ),
    "Unschedulable": Cause("no node takes the VM's pod", "uncordon its node, or free memory there"),
    "Paused": Cause("a user paused the VM", "virtctl unpause vmi, when they are done"),
    "PoweredOff": Cause("its guest powered itself off", "start, reset or switch it; or runStrategy: Always"),
}
"""State of a machine that does not start by itself -> cause and remedy."""
_STARTING = Cause("the VM is starting", "if this lasts: kubectl describe vmi, and the guest's console")


def cause_of(reason: str) -> Cause:
    """Cause of a condition's reason; a reason that this version does not know is its own cause, without a remedy."""
    return CAUSES.get(reason, Cause(reason))


def machine_cause(state: str) -> Cause:
    """Cause of the state of a machine that is not running."""
    if state == "Starting":
        return _STARTING
    return MACHINE_CAUSES.get(state, Cause(f"the VM is {state}"))
