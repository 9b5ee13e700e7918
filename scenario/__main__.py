"""Builds the ten-VM exercise, prints the bytes that deploying it moves, and prints its Kubernetes objects."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from scenario import kubernetes, real, tiny
from scenario.manifest import Manifest, load
from scenario.packages import BuildFailed
from scenario.sizes import table

BUILDERS: Mapping[str, Callable[[Path], Manifest]] = {"tiny": tiny.build, "real": real.build}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0, or 1 with the reason on standard error."""
    options = _parser().parse_args(arguments)
    if options.verb == "sizes":
        print(table(load(options.folder)))
    elif options.verb == "objects":
        manifest = load(options.folder)
        objects = [
            *kubernetes.system_nodes(manifest, options.namespace),
            kubernetes.system_deployment(options.name, options.system, options.namespace),
        ]
        print(yaml.safe_dump_all(objects, sort_keys=False), end="")
    else:
        return _build(options.variant, options.out)
    return 0


def _build(variant: str, out: Path) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    started = time.monotonic()
    try:
        manifest = BUILDERS[variant](out)
    except BuildFailed as exc:
        print(f"the build failed: {exc}", file=sys.stderr)
        return 1
    total = sum(image.file_size_bytes for image in manifest.images)
    print(f"{len(manifest.images)} layers, {total / 1e6:.1f} MB, in {time.monotonic() - started:.1f} s: {out}")
    print(table(manifest))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scenario", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="build the layers and manifest.json")
    build.add_argument("variant", choices=sorted(BUILDERS))
    build.add_argument("--out", type=Path, required=True, help="folder for the layers; created if missing")
    sizes = verbs.add_parser("sizes", help="print the bytes that the first deployment and each switch move")
    sizes.add_argument("folder", type=Path, help="folder of a build")
    objects = verbs.add_parser("objects", help="print the SystemNodes and a SystemDeployment as YAML")
    objects.add_argument("folder", type=Path, help="folder of a build")
    objects.add_argument("--namespace", help="namespace of the objects (default: that of kubectl's context)")
    objects.add_argument("--name", default="exercise", help="name of the deployment")
    objects.add_argument("--system", default="infected", help="state of the system that the deployment runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
