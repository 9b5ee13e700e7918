"""``kigi tree``: both trees, with sizes, where layers are cached, and who runs what."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.tree import Tree

from kigi.cli.cluster import OURS, Access, open_cluster, read_mirror
from kigi.cli.output import Format, show
from kigi.domain.images import Image
from kigi.domain.layers import missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedSystem, System
from kigi.errors import KigiError
from kigi.mirror import Mirror
from kigi.planning.wishes import named_systems


def run_tree(access: Access, form: Format) -> None:
    """Prints; raises KigiError."""
    data = asyncio.run(_read(access))
    show(data, lambda: _render(data), form)


async def _read(access: Access) -> list[dict[str, Any]]:
    async with open_cluster(access) as kube:
        mirror = await read_mirror(kube, OURS, access.scope())
    return trees_of(mirror)


def trees_of(mirror: Mirror) -> list[dict[str, Any]]:
    """One entry for each namespace with nodes, each with ``images`` and ``systems``, parents first. Bytes."""
    spaces = {str(value) for store in (mirror.images, mirror.systems) for value in store.values_of("namespace")}
    return [
        {"namespace": space, "images": list(_images(mirror, space)), "systems": list(_systems(mirror, space))}
        for space in sorted(spaces)
    ]


def _images(mirror: Mirror, namespace: str) -> Iterator[dict[str, Any]]:
    parents: dict[str, str | None] = {}
    for record in mirror.images.by("namespace", namespace):
        parents[record.meta.name] = record.image.parent if isinstance(record.image, Image) else None
    for name in _parents_first(parents):
        record = mirror.images.objects[namespace, name]
        entry: dict[str, Any] = {"name": name, "parent": parents[name]}
        chain = mirror.chain(namespace, name)
        if isinstance(record.image, KigiError) or isinstance(chain, KigiError):
            problem = record.image if isinstance(record.image, KigiError) else chain
            yield {**entry, "problem": str(problem)}
            continue
        holders = [mirror.holders.get(layer.digest, set()) for layer in chain]
        yield {
            **entry,
            "digest": record.image.digest,
            "layerBytes": record.image.size_bytes,
            "chainBytes": total_bytes(chain),
            "depth": len(chain),
            "cachedOn": sorted(set.intersection(*holders)) if all(holders) else [],
        }


def _systems(mirror: Mirror, namespace: str) -> Iterator[dict[str, Any]]:
    parents: dict[str, str | None] = {}
    for record in mirror.systems.by("namespace", namespace):
        parents[record.meta.name] = record.system.parent if isinstance(record.system, System) else None
    users, warmers = _runs(mirror, namespace), _warmed(mirror, namespace)
    for name in _parents_first(parents):
        parent = parents[name]
        entry: dict[str, Any] = {"name": name, "parent": parent, "deployments": users.get(name, [])}
        entry["prefetches"] = warmers.get(name, [])
        system = mirror.resolved(namespace, name)
        if isinstance(system, KigiError):
            yield {**entry, "problem": str(system)}
            continue
        above = mirror.resolved(namespace, parent) if parent is not None else None
        known = above.layers().keys() if isinstance(above, ResolvedSystem) else set()
        yield {
            **entry,
            "machines": len(system.machines),
            "uniqueBytes": system.unique_bytes(),
            "addedBytes": total_bytes(missing_layers(system.layers(), known).values()),
        }


def _runs(mirror: Mirror, namespace: str) -> dict[str, list[str]]:
    """State -> deployments that run it, or an instance or a machine of it; what they only keep warm does not count."""
    users: dict[str, list[str]] = defaultdict(list)
    for record in sorted(mirror.deployments.by("namespace", namespace), key=lambda r: r.meta.name):
        if not isinstance(record.spec, KigiError):
            for state in named_systems(record.spec.model_copy(update={"prefetch": []})):
                users[state].append(record.meta.name)
    return users


def _warmed(mirror: Mirror, namespace: str) -> dict[str, list[str]]:
    """State -> prefetches that keep it warm."""
    users: dict[str, list[str]] = defaultdict(list)
    for record in sorted(mirror.prefetches.by("namespace", namespace), key=lambda r: r.meta.name):
        if not isinstance(record.spec, KigiError):
            for ref in record.spec.systems:
                users[ref.name].append(record.meta.name)
    return users


def _parents_first(parents: Mapping[str, str | None]) -> list[str]:
    """Names in the order of the tree, each below its parent; circles and orphans are roots."""
    children: dict[str | None, list[str]] = defaultdict(list)
    for name, parent in sorted(parents.items()):
        children[parent if parent in parents else None].append(name)
    order: list[str] = []
    stack = list(reversed(children[None]))
    while stack:
        name = stack.pop()
        order.append(name)
        stack.extend(reversed(children.get(name, [])))
    return [*order, *sorted(parents.keys() - set(order))]


def _render(data: list[dict[str, Any]]) -> RenderableType:
    if not data:
        return "no images and no states"
    parts: list[RenderableType] = []
    for space in data:
        parts.append(_grow(f"[bold]images in {space['namespace']}", space["images"], _image_line))
        parts.append(_grow(f"[bold]states in {space['namespace']}", space["systems"], _system_line))
    return Group(*parts)


def _grow(title: str, nodes: list[dict[str, Any]], line: Any) -> Tree:
    root = Tree(title)
    grown: dict[str, Tree] = {}
    for node in nodes:
        below = grown.get(node["parent"] or "", root)
        grown[node["name"]] = below.add(line(node))
    return root


def _image_line(node: dict[str, Any]) -> str:
    if "problem" in node:
        return f"{node['name']}  [red]{escape(node['problem'])}"
    cached = f"  on {len(node['cachedOn'])} nodes" if node["cachedOn"] else ""
    size, chain = format_bytes(node["layerBytes"]), format_bytes(node["chainBytes"])
    return f"{node['name']}  {size}[dim], chain {chain}{cached}"


def _system_line(node: dict[str, Any]) -> str:
    if "problem" in node:
        return f"{node['name']}  [red]{escape(node['problem'])}"
    runs = f"  [green]{', '.join(node['deployments'])}" if node["deployments"] else ""
    added, whole = format_bytes(node["addedBytes"]), format_bytes(node["uniqueBytes"])
    warm = f"  [dim]kept warm by {', '.join(node['prefetches'])}[/dim]" if node["prefetches"] else ""
    return f"{node['name']}  {node['machines']} machines, {added}[dim] of {whole}[/dim]{runs}{warm}"
