"""``make demo``: starts a real cluster on this machine, runs an exercise on it, and writes a report.

The default exercise is that of ``kigi demo``, called as on any other cluster. ``--exercise real`` runs ten Debian
systems with their services, of which two run at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from demo.prepare import console, prepare, progress
from demo.steps import PublishedExercise, run_steps
from demo.targets import DemoFailed, Target, install_kigi, start
from kigi.cli.demo.costs import Step
from kigi.cli.demo.report import build_svg, build_table
from kigi.errors import KigiError
from localcluster.bounded import KUBECTL_S, TimedOut
from localcluster.cluster import Cluster, ClusterError
from localcluster.timeline import Timeline
from scenario import kubernetes
from scenario.packages import BuildFailed

EXERCISES = {"tiny": ("tiny",), "real": ("real",), "both": ("tiny", "real")}


def main() -> int:
    """Run the demo; the exit status is 0 if every step succeeded and passed its checks, 1 otherwise."""
    options = _parser().parse_args()
    timeline = Timeline()
    try:
        _run(options, timeline)
    except (DemoFailed, KigiError, ClusterError, BuildFailed, TimedOut) as exc:
        console.print(f"[red]the demo failed:[/red] {exc}")
        console.print("the cluster keeps running; inspect it with 'python -m localcluster kubectl get ksd,knc -A'")
        return 1
    if options.cluster == "local" and not options.keep and not options.prepare:
        with timeline.phase("remove the cluster"):
            left = Cluster().down()
        progress("the cluster is removed" if not left else f"not removed: {left}")
    print(timeline.table())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--cluster", choices=["local", "kind"], default="local")
    parser.add_argument("--exercise", choices=sorted(EXERCISES), default="tiny")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="start the cluster, install Kigi and publish the tiny exercise with Linux guests, but deploy nothing; "
        "keeps the cluster",
    )
    parser.add_argument("--keep", action="store_true", help="keep the local cluster running")
    parser.add_argument("--out", type=Path, default=Path(".out/demo"), help="folder of the reports and figures")
    return parser


def _run(options: argparse.Namespace, timeline: Timeline) -> None:
    target = start(options.cluster, timeline)
    progress("the cluster runs; installing Kigi")
    with timeline.phase("install Kigi"):
        install_kigi(target)
    if options.prepare:
        _prepare_tutorial(target)
        return
    for variant in EXERCISES[options.exercise]:
        if variant == "tiny":
            _run_kigi_demo(target, options.out, timeline)
        else:
            _run_linux(target, variant, options.out, timeline)
    progress(f"report in {options.out}")


def _prepare_tutorial(target: Target) -> None:
    published = prepare(target, "tiny")
    target.apply(*kubernetes.system_nodes(published.manifest, published.namespace))
    images = len(published.layer_bytes)
    progress(f"namespace {published.namespace} has {images} images and the states of the exercise")


def _run_kigi_demo(target: Target, out: Path, timeline: Timeline) -> None:
    """Runs ``kigi demo``; raises DemoFailed unless it succeeds and moves exactly the missing layers."""
    folder = out / "tiny"
    command = [sys.executable, "-m", "kigi.cli.main", "demo", "--out", str(folder)]
    began_s = timeline.elapsed_s()
    environment = {**os.environ, **target.environment}
    done = subprocess.run(command, env=environment, check=False, timeout=10 * KUBECTL_S)
    if done.returncode:
        raise DemoFailed(f"kigi demo ended with exit code {done.returncode}")
    report = json.loads((folder / "report.json").read_text())
    timeline.add({f"kigi demo: {name}": seconds for name, seconds in report["seconds"].items()}, began_s)
    for step in report["steps"]:
        if step["moved_bytes"] != step["minimum_bytes"]:
            raise DemoFailed(
                f"{step['name']}: {step['moved_bytes']} bytes moved, but the minimum is {step['minimum_bytes']}"
            )


def _run_linux(target: Target, variant: str, out: Path, timeline: Timeline) -> None:
    """Runs an exercise with Linux guests from this repository."""
    steps: list[Step] = []
    with timeline.phase(f"{variant}: build and publish"):
        published = prepare(target, variant)
    with timeline.phase(f"{variant}: steps"):
        run_steps(target, published, progress, lambda step: _note(steps, step, out))
    with timeline.phase(f"{variant}: delete"):
        target.kubectl("delete", "systemdeployment", "--all", "-n", published.namespace, "--timeout=600s")
        _check_removed(target, published)
    console.print(build_table(steps))


def _note(steps: list[Step], step: Step, out: Path) -> None:
    """Print the step's row and rewrite the report with all steps so far."""
    steps.append(step)
    console.print(build_table(steps[-1:]))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"report-{step.variant}.json").write_text(json.dumps([each.to_json() for each in steps], indent=2) + "\n")
    (out / f"report-{step.variant}.svg").write_text(
        build_svg(steps, f"Ten VMs, three states ({step.variant} exercise)")
    )


def _check_removed(target: Target, published: PublishedExercise) -> None:
    """Raise DemoFailed if a VM, claim, volume or overlay of the deleted deployment is left."""
    namespace = published.namespace
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
