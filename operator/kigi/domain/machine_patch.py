"""Patches of a VM's manifest: ``{"merge": a JSON merge patch without null, "remove": paths}``.

``remove`` takes effect before ``merge``, so one patch can replace a whole map. Source of the merge: RFC 7396.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kigi.domain.merge_patch import merge_patch

PATCHABLE = (
    "domain",
    "volumes",
    "hostname",
    "subdomain",
    "dnsPolicy",
    "dnsConfig",
    "terminationGracePeriodSeconds",
    "livenessProbe",
    "accessCredentials",
    "evictionStrategy",
    "priorityClassName",
    "topologySpreadConstraints",
)
"""Fields of a VMI's spec that a patch may change; placement, networks and everything else are Kigi's."""
REMOVABLE = (
    r"^(metadata[.](labels|annotations)[.][A-Za-z0-9][-A-Za-z0-9_./]*"
    r"|spec[.](" + "|".join(PATCHABLE) + r")([.][A-Za-z0-9][-A-Za-z0-9_]*)*)$"
)
"""Paths of ``remove``; the key of a label or annotation may contain dots."""
MAX_BYTES = 16 * 2**10
MAX_DEPTH = 16

Path = tuple[str, ...]
Patch = Mapping[str, Any]


def path_of(text: str) -> Path:
    """Keys of a path of ``remove``: ``metadata.labels.example.org/a`` has three."""
    return tuple(text.split(".", 2) if text.startswith("metadata.") else text.split("."))


def patch_problem(merge: Mapping[str, Any]) -> str | None:
    """What is wrong with ``merge``, with the remedy; None if it is valid. Never recurses: the depth is unknown."""
    level: list[Any] = [merge]
    for _ in range(MAX_DEPTH + 1):
        level = [value for item in level for value in _values(item)]
        if None in level:
            return "it contains null; name the path in patch.remove instead"
        if not level:
            break
    else:
        return f"it is more than {MAX_DEPTH} levels deep; use a flatter patch"
    if unknown := sorted({*merge} - {"metadata", "spec"}) or _unknown_spec(merge):
        return f"it has the field {unknown[0][:63]}; only metadata, and {', '.join(PATCHABLE)} of spec can be changed"
    size_bytes = len(json.dumps(merge, separators=(",", ":")).encode())
    if size_bytes > MAX_BYTES:
        return f"it has {size_bytes} bytes of JSON, and at most {MAX_BYTES} are accepted; shorten it"
    return None


def _unknown_spec(merge: Mapping[str, Any]) -> list[str]:
    spec = merge.get("spec")
    return sorted(f"spec.{key}" for key in spec if key not in PATCHABLE) if isinstance(spec, Mapping) else []


def _values(item: Any) -> Iterable[Any]:
    if isinstance(item, Mapping):
        return item.values()
    return item if isinstance(item, list) else ()


def join_patches(first: Patch, second: Patch) -> dict[str, Any]:
    """One patch with the effect of ``first`` followed by ``second``, on every manifest."""
    below = without(first.get("merge") or {}, map(path_of, second.get("remove") or ()))
    above = second.get("merge") or {}
    paths = dict.fromkeys([*(first.get("remove") or ()), *(second.get("remove") or ()), *_replaced(below, above)])
    merge = merge_patch(below, above)
    return {**({"merge": merge} if merge else {}), **({"remove": list(paths)} if paths else {})}


def _replaced(below: Patch, above: Patch, at: Path = ()) -> Iterator[str]:
    """Paths at which ``above`` has a map and ``below`` another value: the map merges with nothing of before."""
    for key in below.keys() & above.keys():
        if isinstance(above[key], Mapping):
            if isinstance(below[key], Mapping):
                yield from _replaced(below[key], above[key], (*at, key))
            else:
                yield ".".join((*at, key))


def apply_patch(manifest: Mapping[str, Any], patch: Patch) -> dict[str, Any]:
    """``manifest`` without the paths of ``remove``, and then with ``merge`` over it."""
    return merge_patch(without(manifest, map(path_of, patch.get("remove") or ())), patch.get("merge") or {})


def without(value: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """A copy without these paths. A path that does not exist, or leads through a list or text, is no error."""
    result = dict(value)
    for path in paths:
        at = result
        for key in path[:-1]:
            below = at.get(key)
            if not isinstance(below, Mapping):
                break
            at[key] = at = dict(below)
        else:
            at.pop(path[-1], None)
    return result
