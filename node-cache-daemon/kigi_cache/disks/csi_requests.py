"""Validation of CSI requests. Each function raises ``Refused`` with the field at fault."""

from __future__ import annotations

from grpc import StatusCode
from pydantic import Field, TypeAdapter, ValidationError

from kigi.api.base import DNS_LABEL, DigestText, Model
from kigi.domain.layers import DEFAULT_REPOSITORY, MAX_DEPTH, MAX_FILE_BYTES, Chain, Digest, Layer
from kigi_cache.disks.csi_errors import Refused
from kigi_cache.disks.overlay_files import is_handle
from kigi_cache.rpc import csi_pb2 as pb

MAX_CHAIN_CHARACTERS = 64 * 1024
"""A chain of 64 layers has 14 KB of JSON."""
POD_NAME = "csi.storage.k8s.io/pod.name"
LAUNCHER_PREFIX = "virt-launcher-"
"""Begins the name of each pod in which KubeVirt runs a VM."""
_MODES = {
    pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER,
    pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER,
}


class ChainLayer(Model):
    """One layer in the volume attribute ``chain``."""

    digest: DigestText
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES)
    virtual_size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES, multiple_of=512)
    repository: str = Field(default=DEFAULT_REPOSITORY, max_length=63, pattern=DNS_LABEL)


_CHAIN = TypeAdapter(list[ChainLayer])


def parse_chain(text: str) -> Chain:
    """The volume attribute ``chain`` (JSON, root first) as layers. Raises ValueError with the cause.

    Unlike ``kigi.domain.chain_attribute``, which reads what the operator wrote, it trusts nothing: every user that
    may create PersistentVolumes can write the attribute.
    """
    if len(text) > MAX_CHAIN_CHARACTERS:
        raise ValueError(f"{len(text)} characters; expected at most {MAX_CHAIN_CHARACTERS}")
    try:
        entries = _CHAIN.validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
    if not 1 <= len(entries) <= MAX_DEPTH:
        raise ValueError(f"{len(entries)} layers; expected 1 to {MAX_DEPTH}")
    if len({entry.digest for entry in entries}) != len(entries):
        raise ValueError("a layer is listed twice")
    layers: list[Layer] = []
    for entry in entries:
        layers.append(_layer(entry, layers[-1] if layers else None))
    return tuple(layers)


def _layer(entry: ChainLayer, parent: Layer | None) -> Layer:
    if parent is not None and entry.virtual_size_bytes < parent.virtual_size_bytes:
        raise ValueError(f"{entry.digest}: virtual size {entry.virtual_size_bytes} is below its parent's")
    return Layer(
        Digest(entry.digest),
        entry.size_bytes,
        entry.virtual_size_bytes,
        parent.digest if parent else None,
        entry.repository,
    )


def chain_of(request: pb.NodePublishVolumeRequest) -> Chain:
    """The chain that a volume to publish is based on."""
    try:
        return parse_chain(request.volume_context.get("chain", "[]"))
    except ValueError as exc:
        raise Refused(StatusCode.INVALID_ARGUMENT, f"volume attribute chain: {exc}") from exc


def check_node(request: pb.NodePublishVolumeRequest, node_name: str) -> None:
    """Refuse a volume that belongs to another node; a volume without the attribute ``node`` belongs to any."""
    node = request.volume_context.get("node", node_name)
    if node != node_name:
        raise Refused(
            StatusCode.FAILED_PRECONDITION,
            f"{request.volume_id} is a volume of node {node}, and this is {node_name}; the pod must be scheduled there",
        )


def check_pod(request: pb.NodePublishVolumeRequest) -> None:
    """Refuse a pod that is no virtual machine's, as far as its name shows; a request without a name is accepted.

    The kubelet adds the name, see ``podInfoOnMount``. Who may create a pod of that name with a Kigi disk is decided by
    the admission policy ``kigi-disk-users``.
    """
    pod = request.volume_context.get(POD_NAME, LAUNCHER_PREFIX)
    if not pod.startswith(LAUNCHER_PREFIX):
        raise Refused(
            StatusCode.FAILED_PRECONDITION,
            f"{request.volume_id} is a virtual machine's disk, and pod {pod[:253]} is none; capture the machine to "
            "get the disk's content",
        )


def handle_and_target(volume_id: str, target_path: str) -> tuple[str, str]:
    """Both, if they are safe to build paths from: a volume handle and an absolute path without ``..``."""
    if not volume_id:
        raise Refused(StatusCode.INVALID_ARGUMENT, "volume_id is required")
    if not target_path:
        raise Refused(StatusCode.INVALID_ARGUMENT, "target_path is required")
    if not is_handle(volume_id):
        raise Refused(StatusCode.INVALID_ARGUMENT, f"volume_id {volume_id[:80]!r} is not a Kigi volume handle")
    if not _is_plain_path(target_path):
        raise Refused(StatusCode.INVALID_ARGUMENT, f"target_path {target_path[:200]!r} is not a plain absolute path")
    return volume_id, target_path


def _is_plain_path(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and "\0" not in path and path.strip("/") != ""


def check_capability(request: pb.NodePublishVolumeRequest) -> None:
    """Refuse whatever a Kigi disk cannot be: a block device, read-only, shared, or mounted with options."""
    if not request.HasField("volume_capability"):
        raise Refused(StatusCode.INVALID_ARGUMENT, "volume_capability is required")
    capability = request.volume_capability
    if capability.WhichOneof("access_type") != "mount":
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk is a mounted volume (volumeMode: Filesystem)")
    if capability.access_mode.mode not in _MODES:
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk has one writer (accessModes: ReadWriteOnce)")
    if request.readonly:
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk is writable: leave readOnly unset")
    if capability.mount.fs_type or capability.mount.mount_flags or capability.mount.volume_mount_group:
        raise Refused(StatusCode.INVALID_ARGUMENT, "a Kigi disk takes no fsType, mount options or mount group")
