"""``make demo``: runs the exercise on a fresh machine and writes a report."""

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
from demo.steps import PublishedExercise, run_steps
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
"""A server and a desktop: the VMs that run in the real exercise and in second instances.

Two cores emulate all guests and cannot run more of them in reasonable time.
"""

console = Console(width=None if sys.stdout.isatty() else 190)
_started = time.monotonic()


def progress(text: str) -> None:
    """Print a line with the seconds since the start."""
    console.print(f"[dim]{time.monotonic() - _started:7.1f} s[/dim] {text}")


def main() -> int:
    """Run the demo; the exit status is 0 if every step succeeded and passed its checks, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--cluster", choices=["local", "kind"], default="local")
    parser.add_argument("--only", choices=sorted(BUILDERS), help="run this exercise only")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="start the cluster, install Kigi and publish the tiny exercise, but deploy nothing; keeps the cluster",
    )
    parser.add_argument("--keep", action="store_true", help="keep the local cluster running")
    parser.add_argument("--out", type=Path, default=Path(".out/demo"), help="folder of report.json and report.svg")
    options = parser.parse_args()
    steps: list[Step] = []
    try:
        target = start(options.cluster)
        progress("the cluster runs; installing Kigi")
        install_kigi(target)
        if options.prepare:
            published = prepare(target, "tiny")
            target.apply(*kubernetes.system_nodes(published.manifest, published.namespace))
            images = len(published.layer_bytes)
            progress(f"namespace {published.namespace} has {images} images and the states of the exercise")
            return 0
        for variant in [options.only] if options.only else ["tiny", "real"]:
            published = prepare(target, variant)
            run_steps(target, published, progress, lambda step: _note(steps, step, options.out))
            target.kubectl("delete", "systemdeployment", "--all", "-n", published.namespace, "--timeout=600s")
            _check_removed(target, published.namespace)
    except (DemoFailed, KigiError, ClusterError, BuildFailed, TimedOut) as exc:
        console.print(f"[red]the demo failed:[/red] {exc}")
        console.print("the cluster keeps running; inspect it with 'python -m localcluster kubectl get ksd,knc -A'")
        return 1
    console.print(build_table(steps))
    progress(f"report in {options.out}")
    if options.cluster == "local" and not options.keep:
        left = Cluster().down()
        progress("the cluster is removed" if not left else f"not removed: {left}")
    return 0


def prepare(target: Target, variant: str, namespace: str | None = None) -> PublishedExercise:
    """Build the exercise (cached), publish its layers, and apply its VMImageNodes in ``namespace``.

    The default namespace is ``tiny-exercise`` or ``real-exercise``.
    """
    folder = cache_dir() / "demo" / variant
    progress(f"{variant}: building the disks that are not in the cache")
    manifest = BUILDERS[variant](folder)
    progress(f"{variant}: publishing {len(manifest.images)} layers")
    os.environ.update(target.environment)
    objects = asyncio.run(_publish(folder))
    namespace = namespace or f"{variant}-exercise"
    target.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    target.apply(*({**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in objects))
    layer_bytes: Mapping[str, int] = {each["metadata"]["name"]: each["spec"]["layer"]["sizeBytes"] for each in objects}
    all_machines = tuple(manifest.roles)
    return PublishedExercise(
        variant=variant,
        manifest=manifest,
        namespace=namespace,
        layer_bytes=layer_bytes,
        digests={each["metadata"]["name"]: each["spec"]["layer"]["digest"] for each in objects},
        running=all_machines if variant == "tiny" else SAMPLE,
        second_running=SAMPLE if variant == "tiny" else (),
    )


async def _publish(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    settings = load_repositories(None, os.environ).get("default")
    async with asyncio.timeout(DOWNLOAD_S), open_repository(settings, os.environ) as repository:
        return await publish_tree(folder, LayerFolder(cache_dir() / "published"), repository)


def _note(steps: list[Step], step: Step, out: Path) -> None:
    """Print the step's row and rewrite the report with all steps so far."""
    steps.append(step)
    console.print(build_table(steps[-1:]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps([each.to_json() for each in steps], indent=2) + "\n")
    for variant in {each.variant for each in steps}:
        mine = [each for each in steps if each.variant == variant]
        (out / f"report-{variant}.svg").write_text(build_svg(mine, f"Ten VMs, three states ({variant} exercise)"))


def _check_removed(target: Target, namespace: str) -> None:
    """Raise DemoFailed if a VM, claim, volume or overlay of the deleted deployment is left."""
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims"
    left = [f"{o['kind']} {o['metadata']['name']}" for o in target.get(kinds, "-n", namespace)["items"]]
    selector = f"kigi.dev/namespace={namespace}"
    left += [f"PersistentVolume {o['metadata']['name']}" for o in target.get("pv", "-l", selector)["items"]]
    for cache in target.get("nodecaches")["items"]:
        left += [f"overlay {v['name']}" for v in cache["status"].get("volumes", []) if f".{namespace}." in v["name"]]
    if left:
        raise DemoFailed(f"after the deletion of the deployment these are left: {', '.join(left)}")
    progress(f"{namespace}: the deployment and all its disks are deleted")


if __name__ == "__main__":
    sys.exit(main())
