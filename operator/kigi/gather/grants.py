"""The view of one TreeGrant."""

from __future__ import annotations

from datetime import datetime

from kigi.errors import KigiError
from kigi.mirror.records import GrantRecord
from kigi.mirror.store import Mirror
from kigi.planning.view import GrantView


def gather_grant(mirror: Mirror, record: GrantRecord, now: datetime) -> GrantView:
    """The view of one grant, whose spec must be valid. O(targets + namespaces)."""
    assert not isinstance(record.grant, KigiError)
    namespace, grant = record.meta.namespace or "", record.grant
    trees = mirror.trees(namespace)
    others = (other for other in mirror.namespaces if other.meta.name != namespace)
    return GrantView(
        generation=record.meta.generation,
        grant=grant,
        missing=tuple(target for target in grant.targets if not trees.has(target.kind, target.name)),
        namespace_count=sum(grant.selector.matches(other.labels) for other in others),
        now=now,
        old_status=record.status,
    )
