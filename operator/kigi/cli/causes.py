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
    "RefNotPermitted": Cause(
        "an object of another namespace is named that does not exist, or that no TreeGrant there gives",
        "correct the reference, or ask the owner of that namespace for a TreeGrant",
    ),
    "RefNotReady": Cause(
        "an object of another namespace cannot be resolved there", "ask its owner: kigi why there shows the reason"
    ),
    "TargetMissing": Cause("a TreeGrant names a node that does not exist", "create it, or correct the name"),
    "DeploymentMissing": Cause("a SystemDeployment, or an instance of it, does not exist", "correct the name"),
    "NotSelected": Cause(
        "no SystemDeployment asks for the instance", "delete it, or raise replicas or add its name to the deployment"
    ),
    "InstancesPending": Cause("instances are being created, or have not reported on the newest spec"),
    "ImageCycle": Cause("an image is its own ancestor", "publish one image of the cycle again under another parent"),
    "SystemCycle": Cause("a state is its own ancestor", "correct spec.parentRef of one state of the cycle"),
    "ChainTooDeep": Cause("a chain has too many layers", "kigi flatten IMAGE --name NEW, and name the new image"),
    "VirtualSizeShrinks": Cause("a disk is smaller than its parent's", "grow the image and publish it again"),
    "TooManyMachines": Cause("an instance has too many machines", "divide the state into two, and deploy both"),
    "MachineUnknown": Cause("a machine is named that the state does not have", "correct the name"),
    "MachineWithoutImage": Cause("a machine has no image in any ancestor", "give it spec.machines[].rootDisk.imageRef"),
    "BootOrderCycle": Cause("machines wait for each other", "remove one of the 'after' entries that the message names"),
    "SpecInvalid": Cause("a field has an invalid value", "correct the field that the message names"),
    "LayerContradiction": Cause(
        "the object gives its layer another parent or size than what is known of the layer's digest",
        "correct the field that the message names, or publish the disk again: kigi publish",
    ),
    "NamespaceTooLarge": Cause(
        "the objects of the namespace have more content than Kigi reads of one",
        "delete objects that are not needed, or use more namespaces; Kigi reads the object at the next resync",
    ),
    "QuotaExceeded": Cause(
        "a SystemQuota, or the default limits without one, do not allow what is missing; what exists runs on",
        "delete what is not needed, or ask an administrator for more",
    ),
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
        "a node with a disk is not ready",
        "repair it, or delete its Node and its NodeCache to start the machine elsewhere",
    ),
    "NodeMissing": Cause(
        "the Node of a machine's disks was deleted",
        "bring it back, or delete its NodeCache to give its disks up; without either, Kigi gives them up after a time",
    ),
    # Layers.
    "LayersWarming": Cause("the nodes are fetching layers"),
    "LayersFetching": Cause("layers are being fetched"),
    "LayerMissing": Cause("a layer is not on the node yet"),
    "CacheSilent": Cause(
        "a node's cache daemon has not reported",
        "kubectl get pods -A -l app.kubernetes.io/part-of=kigi -o wide; its log",
    ),
    "LayerCorrupt": Cause("a stored file does not match its digest", "publish the image again; it is fetched again"),
    "LayerRefused": Cause("a layer has a header that Kigi does not accept", "publish the image with kigi publish"),
    "LayerNotInRepository": Cause("the repository lacks a layer", "publish the image to that repository"),
    "RepositoryUnknown": Cause(
        "a repository is not known on a node, or its bucket does not exist",
        "see kubectl describe layerrepository, or create the bucket",
    ),
    "RepositoryMisconfigured": Cause(
        "a repository's answer shows a wrong setting: region, certificate, size limit or proxy",
        "set what the message names; docs/repositories.md has the settings of each provider",
    ),
    "RepositoryNotPermitted": Cause(
        "the namespace has no repository of that name", "name another one, or ask an administrator for it"
    ),
    "NoDefaultRepository": Cause(
        "no repository is named, and the namespace has no single default one",
        "name one, or ask an administrator to set defaultFor of one LayerRepository",
    ),
    "RepositoryUnreachable": Cause("the repository does not answer; transfers resume where they stopped"),
    "AccessDenied": Cause(
        "the repository refuses the credentials", "correct the Secret that its LayerRepository names"
    ),
    "BudgetExceeded": Cause("the layers do not fit the node's budget", "raise KIGI_BUDGET_BYTES, or deploy less there"),
    "NodeCacheFull": Cause(
        "a node's NodeCache has no place for more layers (2000) or copies (1000)",
        "delete prefetches or deployments on that node, flatten long chains, or place machines on other nodes",
    ),
    "VersionSkew": Cause(
        "the cache daemon of a node and the operator are of versions that do not work together",
        "kubectl get daemonsets,deployments -A -l app.kubernetes.io/part-of=kigi -o wide; upgrade the older one",
    ),
    "PrefetchWaits": Cause("a prefetched layer waits for free space; the layers of running machines come first"),
    "DiskPressure": Cause("a node's disk is nearly full", "free space, give it a larger disk, or lower KIGI_MIN_FREE"),
    "CacheUnreadable": Cause(
        "a node's cache daemon cannot use its directory",
        "repair the file system of /var/lib/kigi on that node; the daemon goes on by itself",
    ),
    "OverlaysGrow": Cause(
        "machines write so much that a node's disk fills",
        "kigi reset or stop the machine that the message names first, or give the node a larger disk",
    ),
    "TaskFailed": Cause(
        "a part of a node's cache daemon fails and is started again",
        "kubectl get pods -A -l app.kubernetes.io/part-of=kigi -o wide; the log of that node's daemon",
    ),
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
    "ImageNotPulled": Cause(
        "a node cannot pull an image of a VM's pod, such as that of the disk hook, which is Kigi's own image",
        "correct the image's name, or give the namespace a pull secret: manifests/examples/pull-secret.yaml",
    ),
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
    "UploadRefused": Cause(
        "the operator does not let the node store a captured layer",
        "do what the message says; for a repository that cannot be written to, set spec.credentials.writerSecretRef",
    ),
    "StatusInvalid": Cause(
        "another version of Kigi, or a person, wrote a status that this version cannot read",
        "resume VMs that are paused, delete the object, and create another",
    ),
    "AgentMissing": Cause(
        "the capture requires frozen file systems, and a guest has no agent", "start the agent, or use FreezeIfPossible"
    ),
    "DeadlineExceeded": Cause(
        "the capture was not complete within spec.activeDeadlineSeconds", "create another SystemCapture with more time"
    ),
    "FreezeFailed": Cause("a guest agent did not freeze its file systems", "see the message; the capture tries again"),
    "PauseFailed": Cause("KubeVirt did not pause a VM", "see the message, and create another SystemCapture"),
    "MovedOn": Cause("a VM ran on before its disk was copied", "let nothing else resume it, and capture again"),
    "TooSlow": Cause("copying took too long", "use XFS or Btrfs for /var/lib/kigi, or capture fewer machines"),
    "CopyLost": Cause("a node lost a copy before it was stored", "create another SystemCapture"),
    "PublisherSilent": Cause(
        "no capture publisher makes layers of copies on that node",
        "kubectl get pods -A -l app.kubernetes.io/part-of=kigi -o wide; its container capture-publisher",
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
    "NotSeenYet": Cause(
        "no operator has processed it",
        "kubectl get pods -A -l app.kubernetes.io/part-of=kigi -o wide; is the operator running?",
    ),
}
"""Reason -> cause and remedy."""

FINE = frozenset(
    {"DeadlineAhead", "ReadyInTime", "DeadlineMissed", "Complete", "ProtocolUnderstood", "TasksRunning"}
    | {"SpaceAvailable"}
    | {"Granted", "Captured", "ChainComplete", "Deployed", "LayersHeld", "LayersCached", "Resolved", "Placed"}
    | {"ClaimsBound", "MachinesCreated", "PolicyApplied", "Copied", "Stored", "ContentCurrent"}
    | {"EditsWait", "Possible", "Deleted", "Reachable", "Counted", "Writable"}
    | {"ConditionalWritesUnsupported", "NoWriter"}
    | {"Accepted", "ResetComplete", "ExpirationAhead", "ExpiresSoon", "Expired"}
)
"""Reasons of conditions that are as they should be: nothing to explain."""

REPOSITORY_CAUSES: dict[str, Cause] = {
    "RepositoryUnreachable": Cause(
        "the operator cannot reach it, so nodes fetch layers only from each other",
        "repair its server or the network, or correct spec.s3.endpoint or caBundleRef; then Kigi continues by itself",
    ),
    "RepositoryUnknown": Cause("it has no bucket of that name", "create the bucket, or correct spec.s3.bucket"),
    "RepositoryMisconfigured": Cause(
        "its answer shows a wrong setting: region, certificate, size limit or proxy", "set what the message names"
    ),
    "AccessDenied": Cause(
        "it refuses the credentials", "correct the Secret in spec.credentials; Kigi reads it again within a minute"
    ),
}
"""Reason of a LayerRepository itself -> cause and remedy, for its administrator."""

MACHINE_CAUSES: dict[str, Cause] = {
    "Failed": Cause("KubeVirt cannot start the VM", "correct what the message names; then Kigi continues by itself"),
    "CrashLooping": Cause(
        "the VM ends again and again", "kigi console shows how its guest ends; kigi reset repairs it"
    ),
    "Unschedulable": Cause("no node takes the VM's pod", "uncordon its node, or free memory there"),
    "Paused": Cause(
        "a user paused the VM, or its node's disk is full",
        "virtctl unpause vmi, when they are done, or the disk has space",
    ),
    "PoweredOff": Cause("its guest powered itself off", "start, reset or switch it; or guestPowerOffPolicy: Restart"),
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
