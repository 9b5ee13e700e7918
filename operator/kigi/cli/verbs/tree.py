"""``kigi tree``: both trees, with sizes, the nodes that cache an image, and the deployments that run a state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, INSTANCE, NODE_CACHE, PREFETCH, SYSTEM
from kigi.cli.api_trees import ApiTrees, read_api_trees
from kigi.cli.cluster import Access, open_cluster
from kigi.cli.options import cluster_options, listing_option
from kigi.cli.output import Format, Rows, object_name, print_data
from kigi.domain.images import Image
from kigi.domain.layers import missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedSystem, System
from kigi.errors import KigiError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

Node = dict[str, Any]
"""One image or state as JSON; with ``problem`` if it is not valid."""


COLUMNS = (
    *("namespace", "kind", "name", "parent", "digest", "layerBytes", "chainBytes", "depth", "cachedOn"),
    *("machines", "uniqueBytes", "addedBytes", "deployments", "prefetches", "problem"),
)
"""Of images and states together: each leaves those of the other empty."""


@click.command("tree")
@listing_option
@cluster_options(all_namespaces=True)
def command(access: Access, form: Format) -> None:
    """Show both trees with sizes, cached layers and users.

    Images with the size of their layer and of their chain and the number of nodes that cache them, and states with the
    bytes that they add to their parent and the deployments and prefetches that name them.
    """
    with open_cluster(access) as kube:
        api_trees = read_api_trees(kube, (IMAGE, SYSTEM, DEPLOYMENT, INSTANCE, PREFETCH, NODE_CACHE), access.scope())
    data = trees_of(api_trees)
    print_data(
        data,
        lambda: _render(data, wide=form is Format.WIDE),
        form,
        rows=lambda: Rows(COLUMNS, list(_rows(data))),
        names=lambda: [object_name(row["kind"], row["name"]) for row in _rows(data)],
    )


def trees_of(api_trees: ApiTrees) -> list[dict[str, Any]]:
    """One entry per namespace, each with its ``images`` and ``systems``, parents first; sizes in bytes."""
    return [
        {
            "namespace": namespace,
            "images": list(_images(api_trees, namespace)),
            "systems": list(_systems(api_trees, namespace)),
        }
        for namespace in api_trees.namespaces()
    ]


def _images(api_trees: ApiTrees, namespace: str) -> Iterator[Node]:
    images, trees = api_trees.images.get(namespace, {}), api_trees.trees(namespace)
    parents = {name: image.parent if isinstance(image, Image) else None for name, image in images.items()}
    for name in _parents_first(parents):
        image, chain = images[name], trees.chain(name)
        entry: Node = {"name": name, "parent": parents[name]}
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


def _systems(api_trees: ApiTrees, namespace: str) -> Iterator[Node]:
    systems, trees = api_trees.systems.get(namespace, {}), api_trees.trees(namespace)
    parents = {name: state.parent if isinstance(state, System) else None for name, state in systems.items()}
    for name in _parents_first(parents):
        parent = parents[name]
        entry: Node = {
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
    """Names in the order of the tree, children after their parent; nodes of a cycle come last."""
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


def _rows(data: list[dict[str, Any]]) -> Iterator[Node]:
    """Images and states of all namespaces, each with its namespace and kind."""
    for space in data:
        for kind, nodes in ((IMAGE.kind, space["images"]), (SYSTEM.kind, space["systems"])):
            yield from ({"namespace": space["namespace"], "kind": kind, **node} for node in nodes)


def _render(data: list[dict[str, Any]], *, wide: bool = False) -> RenderableType:
    from rich.console import Group

    if not data:
        return "no images and no states"
    parts: list[RenderableType] = []
    for space in data:
        parts.append(
            _draw(f"[bold]images in {space['namespace']}", space["images"], _wide_image_line if wide else _image_line)
        )
        parts.append(_draw(f"[bold]states in {space['namespace']}", space["systems"], _system_line))
    return Group(*parts)


def _draw(title: str, nodes: list[Node], line: Callable[[Node], str]) -> Tree:
    from rich.tree import Tree

    root = Tree(title)
    drawn: dict[str, Tree] = {}
    for node in nodes:
        parent = drawn.get(node["parent"] or "", root)
        drawn[node["name"]] = parent.add(line(node))
    return root


def _image_line(node: Node) -> str:
    from rich.markup import escape

    if "problem" in node:
        return f"{node['name']}  [red]{escape(node['problem'])}"
    cached = f"  on {len(node['cachedOn'])} nodes" if node["cachedOn"] else ""
    size, chain = format_bytes(node["layerBytes"]), format_bytes(node["chainBytes"])
    return f"{node['name']}  {size}[dim], chain {chain}{cached}"


def _wide_image_line(node: Node) -> str:
    if "problem" in node:
        return _image_line(node)
    return f"{_image_line(node)}[dim]  {node['digest']}  {' '.join(node['cachedOn'])}".rstrip()


def _system_line(node: Node) -> str:
    from rich.markup import escape

    if "problem" in node:
        return f"{node['name']}  [red]{escape(node['problem'])}"
    runs = f"  [green]{', '.join(node['deployments'])}" if node["deployments"] else ""
    added, whole = format_bytes(node["addedBytes"]), format_bytes(node["uniqueBytes"])
    warm = f"  [dim]kept warm by {', '.join(node['prefetches'])}[/dim]" if node["prefetches"] else ""
    return f"{node['name']}  {node['machines']} machines, {added}[dim] of {whole}[/dim]{runs}{warm}"
