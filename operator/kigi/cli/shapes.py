"""The JSON that each verb prints with ``-o json``: source of docs/reference/output.md, and of its tests.

Verbs do not import it. Fields are added in later releases; none is removed or gets another meaning within one API
version. Sizes are in bytes, times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from kigi.cli.plan_shapes import ChangePlan, Preview

Condition = dict[str, Any]
"""A condition as the API server has it."""
MACHINES = "Machines of all instances: `status.machines` of each SystemInstance, with its name as `instance`."
HISTORY = "Changes of all instances, oldest first: `status.history` of each, with its name as `instance`."


class DeploymentStatus(TypedDict):
    """``kigi status``: one entry per deployment; ``machines`` and ``history`` only for one that is named."""

    namespace: Annotated[str, "Namespace."]
    name: Annotated[str, "SystemDeployment."]
    system: Annotated[str, "State that it asks for; NAMESPACE/NAME in another namespace."]
    ready: Annotated[bool, "Whether it is Ready."]
    reason: Annotated[str, "Reason of the condition Ready; NotSeenYet before the operator has processed it."]
    message: Annotated[str, "Message of the condition Ready."]
    instances: Annotated[int, "Desired instances."]
    readyInstances: Annotated[int, "Instances that are Ready."]
    cachedPercent: Annotated[int | None, "Part of the layers' bytes that nodes hold, in percent."]
    plan: Annotated[dict[str, Any], "Bytes of the last change: `status.plan`; {} before there is one."]
    conditions: Annotated[list[Condition], "All conditions."]
    machines: NotRequired[Annotated[list[dict[str, Any]], MACHINES]]
    history: NotRequired[Annotated[list[dict[str, Any]], HISTORY]]


class ImageEntry(TypedDict):
    """One image of ``kigi tree``; one with a ``problem`` has no sizes."""

    name: Annotated[str, "VMImageNode."]
    parent: Annotated[str | None, "Its parent; null: a root."]
    digest: NotRequired[Annotated[str, "Digest of its layer."]]
    layerBytes: NotRequired[Annotated[int, "Size of its layer."]]
    chainBytes: NotRequired[Annotated[int, "Size of all layers of its chain."]]
    depth: NotRequired[Annotated[int, "Layers of its chain."]]
    cachedOn: NotRequired[Annotated[list[str], "Nodes that hold the whole chain."]]
    problem: NotRequired[Annotated[str, "Why it is not valid."]]


class StateEntry(TypedDict):
    """One state of ``kigi tree``; one with a ``problem`` has no sizes."""

    name: Annotated[str, "SystemNode."]
    parent: Annotated[str | None, "Its parent; null: a root."]
    deployments: Annotated[list[str], "Deployments and instances that name it."]
    prefetches: Annotated[list[str], "Prefetches that name it."]
    machines: NotRequired[Annotated[int, "Number of machines."]]
    uniqueBytes: NotRequired[Annotated[int, "Size of its layers, each counted once."]]
    addedBytes: NotRequired[Annotated[int, "Size of the layers that its parent does not have."]]
    problem: NotRequired[Annotated[str, "Why it is not valid."]]


class Tree(TypedDict):
    """``kigi tree``: one entry per namespace, parents before children."""

    namespace: Annotated[str, "Namespace."]
    images: Annotated[list[ImageEntry], "The image tree."]
    systems: Annotated[list[StateEntry], "The system tree."]


class Explanation(TypedDict):
    """``kigi why``: one entry per object that is not Ready; an empty list if all are."""

    object: Annotated[str, "KIND/NAME, or a part of an object in words."]
    reason: Annotated[str, "Reason of its condition, or state of a machine."]
    stalled: Annotated[bool, "Whether a person must act."]
    message: Annotated[str, "Message of the condition."]
    cause: Annotated[str, "What is wrong."]
    remedy: Annotated[str, "What to do; empty: Kigi continues by itself."]
    because: Annotated[list[Explanation], "The same for what it depends on."]


class Reason(TypedDict):
    """``kigi why REASON``."""

    reason: Annotated[str, "The reason."]
    cause: Annotated[str, "What is wrong."]
    remedy: Annotated[str, "What to do; empty: Kigi continues by itself."]


Difference = TypedDict(
    "Difference",
    {
        "name": Annotated[str, "Machine."],
        "change": Annotated[Literal["added", "removed", "image", "hardware"], "What differs."],
        "from": Annotated[str | None, "Its image in the first state."],
        "to": Annotated[str | None, "Its image in the second state."],
        "bytes": Annotated[int, "Size of its layers that its disks in the first state do not use."],
    },
)
Difference.__doc__ = "One machine of ``kigi diff``."
Comparison = TypedDict(
    "Comparison",
    {
        "from": Annotated[str, "The first state."],
        "to": Annotated[str, "The second state."],
        "machines": Annotated[list[Difference], "Machines that differ."],
        "movedBytes": Annotated[int, "What a node with the first state lacks for the second."],
        "backBytes": Annotated[int, "What a node with the second state lacks for the first."],
    },
)
Comparison.__doc__ = "``kigi diff``."


class HistoryEntry(TypedDict):
    """One decision of ``kigi history``; with ``--follow`` one JSON document per line."""

    time: Annotated[str, "Time of the decision."]
    deployment: Annotated[str, "SystemDeployment."]
    instance: Annotated[str, "Name of the instance."]
    action: Annotated[str, "Deployed, Switched, Reset or Renewed; further values may be added."]
    fromSystem: Annotated[str | None, "State before; null: there was none."]
    toSystem: Annotated[str, "State afterwards."]
    machines: Annotated[list[str], "Machines with new disks, at most eight; empty: all."]
    machineCount: Annotated[int, "Number of these machines."]
    requestedBy: Annotated[str | None, "User, or field manager of the change; null: unknown."]
    request: Annotated[str | None, "SystemReset; null: none."]
    reason: Annotated[str | None, "Its reason; null: none, or the request is deleted."]


class GivenAccess(TypedDict):
    """One account of ``kigi access``."""

    deployment: Annotated[str, "SystemDeployment."]
    instance: Annotated[str, "Name of the instance."]
    account: Annotated[str, "ServiceAccount."]
    expires: Annotated[str | None, "End of its last token."]
    givenBy: Annotated[str | None, "User who gave it."]
    file: NotRequired[Annotated[str | None, "File of the kubeconfig; null: none was written."]]
    kubeconfig: NotRequired[Annotated[str, "The kubeconfig, if no file was written."]]
    revoked: NotRequired[Annotated[bool, "--revoke: that it has ended."]]


class Picture(TypedDict):
    """``kigi screenshot``."""

    kind: Annotated[str, "Kind of the object."]
    namespace: Annotated[str, "Its namespace."]
    name: Annotated[str, "Its name."]
    file: Annotated[str, "File of the picture, a PNG."]
    sizeBytes: Annotated[int, "Its size."]


class Written(TypedDict):
    """``kigi switch``, ``reset`` and ``capture``: the object that was written or created."""

    kind: Annotated[str, "Its kind."]
    namespace: Annotated[str, "Its namespace."]
    name: Annotated[str, "Its name."]
    field: NotRequired[Annotated[str, "switch: the field."]]
    value: NotRequired[Annotated[str, "switch: its value."]]
    alsoOwnedBy: NotRequired[Annotated[list[str], "switch: other field managers that set it."]]
    spec: NotRequired[Annotated[dict[str, Any], "reset, capture: the spec of the request."]]
    ready: NotRequired[Annotated[bool, "With --wait: whether it got Ready."]]


class Deleted(TypedDict):
    """``kigi delete``."""

    kind: Annotated[str, "Kind of the object."]
    namespace: Annotated[str, "Its namespace."]
    name: Annotated[str, "Its name."]
    action: Annotated[Literal["none", "deleted", "deleting"], "What happened; none: --dry-run."]
    freedBytes: NotRequired[Annotated[int, "--dry-run: bytes of the repository that nothing would use."]]
    exact: NotRequired[Annotated[bool, "--dry-run: false if these are an upper bound."]]
    unusedImages: NotRequired[Annotated[list[str], "--dry-run: images that only this state uses."]]


class Reference(TypedDict):
    """An object."""

    kind: Annotated[str, "Its kind."]
    name: Annotated[str, "Its name."]


class Imported(TypedDict):
    """``kigi import``."""

    namespace: Annotated[str, "Namespace of the objects."]
    layers: Annotated[int, "Layers of the file."]
    storedBytes: Annotated[int, "Bytes that were stored."]
    nodes: Annotated[int, "Images and states of the file."]
    created: Annotated[list[Reference], "Those that were created; the others existed."]


class Exported(TypedDict):
    """``kigi export``; with ``--list-have`` a list of digests."""

    file: Annotated[str, "The file."]
    sizeBytes: Annotated[int, "Its size."]
    images: Annotated[int, "Images in it."]
    states: Annotated[int, "States in it."]
    layers: Annotated[int, "Layers that they need."]
    includedLayers: Annotated[int, "Layers in the file."]


class UnusedLayer(TypedDict):
    """A layer of ``kigi gc``."""

    digest: Annotated[str, "Digest."]
    sizeBytes: Annotated[int, "Size."]
    stored: Annotated[str, "When it was stored."]


class Garbage(TypedDict):
    """``kigi gc``."""

    unused: Annotated[list[UnusedLayer], "Layers that no tree names."]
    unusedBytes: Annotated[int, "Their size."]
    unfinishedUploads: Annotated[list[str], "Keys of unfinished uploads."]
    named: Annotated[int, "Layers that trees name."]
    young: Annotated[int, "Layers below the age of --grace."]
    foreign: Annotated[int, "Objects that are no layers."]
    deleted: Annotated[list[str], "Digests that were deleted."]
    freedBytes: Annotated[int, "Their size."]
    uploadsGivenUp: NotRequired[Annotated[int, "Unfinished uploads that were given up."]]


class CheckedPoint(TypedDict):
    """One point of ``kigi repository check``."""

    name: Annotated[str, "The point."]
    verdict: Annotated[Literal["ok", "not ok", "unknown"], "Result."]
    found: Annotated[str, "What the server answered."]
    remedy: Annotated[str, "What to do."]


class RepositoryCheck(TypedDict):
    """``kigi repository check``."""

    endpoint: Annotated[str, "URL of the server."]
    bucket: Annotated[str, "Bucket."]
    points: Annotated[list[CheckedPoint], "One entry per point."]


class Migration(TypedDict):
    """``kigi migrate``."""

    backup: Annotated[str, "File with all objects as they were."]
    objects: Annotated[int, "Objects."]
    notes: Annotated[list[str], "What a person should know."]
    migrated: Annotated[bool, "False with --dry-run."]
    differences: NotRequired[Annotated[list[str], "--dry-run: lines of a unified difference."]]


class GateChange(TypedDict):
    """``kigi enable-hook``."""

    object: Annotated[str, "The KubeVirt object."]
    changed: Annotated[bool, "Whether it was changed."]
    text: Annotated[str, "The same in words."]
    gate: NotRequired[Annotated[str, "The feature gate; empty: none is needed."]]
    operations: NotRequired[Annotated[list[dict[str, Any]], "The JSON patch (RFC 6902)."]]


class HangingObject(TypedDict):
    """An object that is being deleted and waits for an operator."""

    kind: Annotated[str, "Its kind."]
    namespace: Annotated[str | None, "Its namespace."]
    name: Annotated[str, "Its name."]
    uid: Annotated[str, "Its uid."]
    ours: Annotated[list[str], "Kigi's finalizers."]
    others: Annotated[list[str], "Finalizers of other controllers, which stay."]
    left_behind: Annotated[str, "What remains when the object is gone."]


class Release(TypedDict):
    """``kigi release``."""

    hanging: Annotated[list[HangingObject], "Objects that wait."]
    freed: Annotated[list[HangingObject], "Those that were freed."]


class Client(TypedDict):
    """This program."""

    version: Annotated[str, "Version of kigi."]
    platform: Annotated[str, "Python's name of the platform, such as linux."]


class OperatorVersion(TypedDict):
    """The operator as the NodeCaches show it."""

    version: Annotated[str | None, "Version; null: not reported."]
    protocol: Annotated[int | None, "Protocol between operator and daemons."]


class DaemonVersion(TypedDict):
    """The daemon of one node."""

    name: Annotated[str, "Node."]
    version: Annotated[str | None, "Version; null: not reported."]
    skew: Annotated[str, "Remedy if it is too far from the operator's version; else empty."]


class Diagnosis(TypedDict):
    """One check of ``kigi doctor``."""

    check: Annotated[str, "Name of the check."]
    state: Annotated[Literal["ok", "warning", "error", "not checked"], "Result."]
    object: Annotated[str, "Kind/name, or a part of the cluster."]
    sentence: Annotated[str, "What was found."]
    remedy: Annotated[str, "What to do; empty: nothing."]


class Examination(TypedDict):
    """``kigi doctor``."""

    version: Annotated[str, "Version of kigi."]
    namespace: Annotated[str, "Namespace of the operator."]
    findings: Annotated[list[Diagnosis], "Results, the most urgent first."]


class Report(TypedDict):
    """``kigi report``."""

    file: Annotated[str, "The archive."]
    files: Annotated[int, "Files in it."]
    sizeBytes: Annotated[int, "Its size."]
    missing: Annotated[list[str], "Parts that could not be read, with the reason."]


class Versions(TypedDict):
    """``kigi version``; ``operator`` is null and ``nodes`` empty if the cluster cannot be read."""

    client: Annotated[Client, "This program."]
    operator: Annotated[OperatorVersion | None, "The operator."]
    nodes: Annotated[list[DaemonVersion], "The daemons."]


SHAPES: dict[str, Any] = {
    "status": list[DeploymentStatus],
    "history": list[HistoryEntry],
    "access": list[GivenAccess],
    "screenshot": Picture,
    "tree": list[Tree],
    "why": list[Explanation],
    "why REASON": Reason,
    "plan": list[ChangePlan],
    "diff": Comparison,
    "switch": Written,
    "start": Written,
    "stop": Written,
    "reset": Written,
    "capture": Written,
    "switch of several instances": list[Written],
    "start of several instances": list[Written],
    "stop of several instances": list[Written],
    "capture of several instances": list[Written],
    "switch --dry-run": Preview,
    "stop --dry-run": Preview,
    "reset --dry-run": Preview,
    "delete": Deleted,
    "publish": list[dict[str, Any]],
    "publish-tree": list[dict[str, Any]],
    "flatten": list[dict[str, Any]],
    "gc": Garbage,
    "repository check": RepositoryCheck,
    "export": Exported,
    "export --list-have": list[str],
    "import": Imported,
    "migrate": Migration,
    "enable-hook": GateChange,
    "release": Release,
    "doctor": Examination,
    "report": Report,
    "version": Versions,
}
"""Call -> what it prints; the lists of publish, publish-tree and flatten have the VMImageNodes."""
