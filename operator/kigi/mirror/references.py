"""References between objects: which images and states an object names, and which objects depend on a node."""

from __future__ import annotations

from collections.abc import Iterable

from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.systems import System
from kigi.domain.tree_names import TreeNode, node_of
from kigi.domain.usage import images_of
from kigi.errors import KigiError
from kigi.mirror.records import (
    CaptureRecord,
    DeploymentRecord,
    ImageRecord,
    InstanceRecord,
    PrefetchRecord,
    Record,
    SystemRecord,
)
from kigi.planning.capture_progress import CaptureProgress, uses
from kigi.planning.targets import named_systems, systems_of_instance

_KINDS: dict[type[Record], str] = {
    ImageRecord: kinds.IMAGE,
    SystemRecord: kinds.SYSTEM,
    DeploymentRecord: kinds.DEPLOYMENT,
    InstanceRecord: kinds.INSTANCE,
    PrefetchRecord: kinds.PREFETCH,
    CaptureRecord: kinds.CAPTURE,
}


def references_of(record: Record | None) -> frozenset[TreeNode]:
    """The nodes that an object names; none if its spec is invalid."""
    if record is None:
        return frozenset()
    home = record.meta.namespace or ""
    return frozenset(node_of(kind, home, name) for kind, name in _named(record))


def node_of_image(record: ImageRecord) -> TreeNode:
    """The node of the image tree that the object is."""
    return TreeNode(kinds.IMAGE, record.meta.namespace or "", record.meta.name)


def kind_of(record: Record) -> str:
    """Kind of an object that names nodes of trees."""
    return _KINDS[type(record)]


def _named(record: Record) -> Iterable[tuple[str, str]]:
    """(kind, name in the object's namespace)."""
    match record:
        case ImageRecord(image=Image(parent=str(parent))):
            yield kinds.IMAGE, parent
        case SystemRecord(system=System() as system):
            if system.parent is not None:
                yield kinds.SYSTEM, system.parent
            yield from ((kinds.IMAGE, image) for image in images_of(system))
        case DeploymentRecord() if not isinstance(record.spec, KigiError):
            yield from ((kinds.SYSTEM, name) for name in named_systems(record.spec))
        case InstanceRecord() if not isinstance(record.spec, KigiError):
            yield from ((kinds.SYSTEM, name) for name in systems_of_instance(record.spec))
        case PrefetchRecord() if not isinstance(record.spec, KigiError):
            yield from ((kind, name) for kind in (kinds.SYSTEM, kinds.IMAGE) for name in record.spec.names_of(kind))
        case CaptureRecord(progress=CaptureProgress() as progress):
            states, images = uses(progress)
            yield from ((kinds.SYSTEM, name) for name in states)
            yield from ((kinds.IMAGE, name) for name in images)
        case _:
            pass
