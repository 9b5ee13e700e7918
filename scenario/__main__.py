"""``python -m scenario build tiny|real --out DIR``: build the ten-VM exercise; ``sizes DIR``: what moving it costs."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from scenario import manifest as manifests
from scenario import tiny
from scenario.packages import BuildFailed


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m scenario", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="build the layers and manifest.json")
    build.add_argument("variant", choices=("tiny", "real"))
    build.add_argument("--out", type=Path, required=True, help="folder for the layers; made if missing")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    began = time.monotonic()
    try:
        made = tiny.build(options.out)
    except BuildFailed as exc:
        print(f"not built: {exc}", file=sys.stderr)
        return 1
    total = sum(image.file_size_bytes for image in made.images)
    print(f"{len(made.images)} layers, {total / 1e6:.1f} MB, in {time.monotonic() - began:.1f} s: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
