"""``kigi tree``: both trees, with sizes, where layers are cached, and who runs what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, NODE_CACHE, PREFETCH, SYSTEM
from kigi.cli.api_trees import ApiTrees, read_api_trees
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.output import Format, show
from kigi.domain.images import Image
from kigi.domain.layers import missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedSystem, System
from kigi.errors import KigiError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree


def run_tree(access: Access, form: Format) -> None:
    """Prints; raises KigiError."""
    with open_cluster(access) as kube:
        api_trees = read_api_trees(kube, (IMAGE, SYSTEM, DEPLOYMENT, PREFETCH, NODE_CACHE), access.scope())
    data = trees_of(api_trees)
    show(data, lambda: _render(data), form)


def trees_of(api_trees: ApiTrees) -> list[dict[str, Any]]:
    """One entry for each namespace with nodes, each with ``images`` and ``systems``, parents first. Bytes."""
    return [
        {"namespace": space, "images": list(_images(api_trees, space)), "systems": list(_systems(api_trees, space))}
        for space in api_trees.namespaces()
    ]


def _images(api_trees: ApiTrees, namespace: str) -> Iterator[dict[str, Any]]:
    images, trees = api_trees.images.get(namespace, {}), api_trees.trees(namespace)
    parents = {name: image.parent if isinstance(image, Image) else None for name, image in images.items()}
    for name in _parents_first(parents):
        image, chain = images[name], trees.chain(name)
        entry: dict[str, Any] = {"name": name, "parent": parents[name]}
        if isinstance(image, KigiError) or isinstance(chain, KigiError):
            problem = image if isinstance(image, KigiError) else chain
            yield {**entry, "problem": str(problem)}
            continue
        holders = [api_trees.holders.get(layer.digest, set()) for layer in chain]
        yield {
            **entry,
            "digest": image.digest,
            "layerBytes": image.size_bytes,
            "chainBytes": total_bytes(chain),
            "depth": len(chain),
            "cachedOn": sorted(set.intersection(*holders)) if all(holders) else [],
        }


def _systems(api_trees: ApiTrees, namespace: str) -> Iterator[dict[str, Any]]:
    systems, trees = api_trees.systems.get(namespace, {}), api_trees.trees(namespace)
    parents = {name: state.parent if isinstance(state, System) else None for name, state in systems.items()}
    for name in _parents_first(parents):
        parent = parents[name]
        entry: dict[str, Any] = {
            "name": name,
            "parent": parent,
            "deployments": sorted(api_trees.runs.get((namespace, name), ())),
            "prefetches": sorted(api_trees.warmed.get((namespace, name), ())),
        }
        system = trees.system(name)
        if isinstance(system, KigiError):
            yield {**entry, "problem": str(system)}
            continue
        above = trees.system(parent) if parent is not None else None
        known = above.layers().keys() if isinstance(above, ResolvedSystem) else set()
        yield {
            **entry,
            "machines": len(system.machines),
            "uniqueBytes": system.unique_bytes(),
            "addedBytes": total_bytes(missing_layers(system.layers(), known).values()),
        }


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
    from rich.console import Group

    if not data:
        return "no images and no states"
    parts: list[RenderableType] = []
    for space in data:
        parts.append(_grow(f"[bold]images in {space['namespace']}", space["images"], _image_line))
        parts.append(_grow(f"[bold]states in {space['namespace']}", space["systems"], _system_line))
    return Group(*parts)


def _grow(title: str, nodes: list[dict[str, Any]], line: Any) -> Tree:
    from rich.tree import Tree

    root = Tree(title)
    grown: dict[str, Tree] = {}
    for node in nodes:
        below = grown.get(node["parent"] or "", root)
        grown[node["name"]] = below.add(line(node))
    return root


def _image_line(node: dict[str, Any]) -> str:
    from rich.markup import escape

    if "problem" in node:
        return f"{node['name']}  [red]{escape(node['problem'])}"
    cached = f"  on {len(node['cachedOn'])} nodes" if node["cachedOn"] else ""
    size, chain = format_bytes(node["layerBytes"]), format_bytes(node["chainBytes"])
    return f"{node['name']}  {size}[dim], chain {chain}{cached}"


def _system_line(node: dict[str, Any]) -> str:
    from rich.markup import escape

    if "problem" in node:
        return f"{node['name']}  [red]{escape(node['problem'])}"
    runs = f"  [green]{', '.join(node['deployments'])}" if node["deployments"] else ""
    added, whole = format_bytes(node["addedBytes"]), format_bytes(node["uniqueBytes"])
    warm = f"  [dim]kept warm by {', '.join(node['prefetches'])}[/dim]" if node["prefetches"] else ""
    return f"{node['name']}  {node['machines']} machines, {added}[dim] of {whole}[/dim]{runs}{warm}"
