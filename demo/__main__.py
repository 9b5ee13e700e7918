"""``make demo``: the main job on a fresh machine, and its report."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from demo.costs import Step
from demo.report import build_svg, build_table
from demo.steps import Chapter, play
from demo.targets import DemoFailed, Target, install_kigi, start
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import open_repository
from kigi.errors import KigiError
from kigi.publishing.image_tree import publish_tree
from kigi.publishing.layer_folder import LayerFolder
from localcluster.bounded import DOWNLOAD_S, TimedOut
from localcluster.cluster import Cluster, ClusterError
from localcluster.paths import cache_dir
from scenario import kubernetes, real, tiny
from scenario.packages import BuildFailed

BUILDERS = {"tiny": tiny.build, "real": real.build}
SAMPLE = ("mail1", "desktop1")
"""A server and a desktop. Two cores emulate every guest: of the real exercise, and of second instances, these run."""

console = Console(width=None if sys.stdout.isatty() else 190)
_started = time.monotonic()


def say(text: str) -> None:
    """One line with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - _started:7.1f} s[/dim] {text}")


def main() -> int:
    """Exit status 0 when every step was done and checked."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--cluster", choices=["local", "kind"], default="local")
    parser.add_argument("--only", choices=sorted(BUILDERS), help="one exercise instead of both")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="start, install and publish the tiny exercise; deploy nothing, and keep it",
    )
    parser.add_argument("--keep", action="store_true", help="leave the local cluster running")
    parser.add_argument("--out", type=Path, default=Path(".out/demo"), help="folder of report.json and report.svg")
    options = parser.parse_args()
    steps: list[Step] = []
    try:
        target = start(options.cluster)
        say("the cluster runs; installing Kigi")
        install_kigi(target)
        if options.prepare:
            chapter = prepare(target, "tiny")
            target.apply(*kubernetes.system_nodes(chapter.manifest, chapter.namespace))
            say(f"namespace {chapter.namespace} has {len(chapter.layer_bytes)} images and the states of the exercise")
            return 0
        for variant in [options.only] if options.only else ["tiny", "real"]:
            chapter = prepare(target, variant)
            play(target, chapter, say, lambda step: _note(steps, step, options.out))
            target.kubectl("delete", "systemdeployment", "--all", "-n", chapter.namespace, "--timeout=600s")
            _nothing_left(target, chapter.namespace)
    except (DemoFailed, KigiError, ClusterError, BuildFailed, TimedOut) as exc:
        console.print(f"[red]the demo stopped:[/red] {exc}")
        console.print("the cluster still runs; look with 'python -m localcluster kubectl get ksd,knc -A'")
        return 1
    console.print(build_table(steps))
    say(f"report in {options.out}")
    if options.cluster == "local" and not options.keep:
        left = Cluster().down()
        say("the cluster is gone" if not left else f"still there: {left}")
    return 0


def prepare(target: Target, variant: str, namespace: str | None = None) -> Chapter:
    """Build the exercise (cached), publish its layers, apply its VMImageNodes in a namespace of that name."""
    folder = cache_dir() / "demo" / variant
    say(f"{variant}: building the exercise's disks (what is in the cache is not built again)")
    manifest = BUILDERS[variant](folder)
    say(f"{variant}: publishing {len(manifest.images)} layers")
    os.environ.update(target.environment)
    objects = asyncio.run(_publish(folder))
    namespace = namespace or f"{variant}-exercise"
    target.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    target.apply(*({**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in objects))
    layer_bytes: Mapping[str, int] = {each["metadata"]["name"]: each["spec"]["layer"]["sizeBytes"] for each in objects}
    everyone = tuple(manifest.roles)
    return Chapter(
        variant=variant,
        manifest=manifest,
        namespace=namespace,
        layer_bytes=layer_bytes,
        digests={each["metadata"]["name"]: each["spec"]["layer"]["digest"] for each in objects},
        running=everyone if variant == "tiny" else SAMPLE,
        second_running=SAMPLE if variant == "tiny" else (),
    )


async def _publish(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    settings = load_repositories(None, os.environ).get("default")
    async with asyncio.timeout(DOWNLOAD_S), open_repository(settings, os.environ) as repository:
        return await publish_tree(folder, LayerFolder(cache_dir() / "published"), repository)


def _note(steps: list[Step], step: Step, out: Path) -> None:
    """Show the table as it grows, and write the report anew."""
    steps.append(step)
    console.print(build_table(steps[-1:]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps([each.to_json() for each in steps], indent=2) + "\n")
    for variant in {each.variant for each in steps}:
        mine = [each for each in steps if each.variant == variant]
        (out / f"report-{variant}.svg").write_text(build_svg(mine, f"Ten VMs, three states ({variant} exercise)"))


def _nothing_left(target: Target, namespace: str) -> None:
    """Deleting the deployment left no VM, claim, volume or overlay."""
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims"
    left = [f"{o['kind']} {o['metadata']['name']}" for o in target.get(kinds, "-n", namespace)["items"]]
    selector = f"kigi.dev/namespace={namespace}"
    left += [f"PersistentVolume {o['metadata']['name']}" for o in target.get("pv", "-l", selector)["items"]]
    for cache in target.get("nodecaches")["items"]:
        left += [f"overlay {v['name']}" for v in cache["status"].get("volumes", []) if f".{namespace}." in v["name"]]
    if left:
        raise DemoFailed(f"deleting the deployment left {', '.join(left)}")
    say(f"{namespace}: deleted, and nothing is left")


if __name__ == "__main__":
    sys.exit(main())
