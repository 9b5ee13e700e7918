"""Builds the documentation site: ``python -m tools.site DIRECTORY [--without-diagrams]``.

Every warning is an error: a link without a target, a page that no list of contents has, an unknown language of a block.
The site needs no other host. Diagrams are drawn by a script that npm fetches once, in the version below.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MERMAID = "12.3.0"
_PARTS = ("package/dist/mermaid.esm.min.mjs", "package/dist/chunks/mermaid.esm.min/")


class SiteInvalid(RuntimeError):
    """The pages have faults, which Sphinx has printed."""


def fetch_mermaid(directory: Path) -> Path:
    """The folder with mermaid's modules, which npm verifies by the registry's digest. Raises CalledProcessError."""
    target = directory / f"mermaid-{MERMAID}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            command = ["npm", "pack", "--silent", f"mermaid@{MERMAID}"]
            name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
            with tarfile.open(Path(folder) / name) as package:
                wanted = [
                    member for member in package if member.name.startswith(_PARTS) and member.name.endswith(".mjs")
                ]
                package.extractall(folder, members=wanted, filter="data")
            (Path(folder) / "package/dist").rename(target)
    return target


def build_site(target: Path, scripts: Path | None) -> None:
    """The pages as HTML in ``target``; without ``scripts``, diagrams stay text. Raises SiteInvalid."""
    env = {name: value for name, value in os.environ.items() if name != "KIGI_MERMAID"}
    if scripts is not None:
        env["KIGI_MERMAID"] = str(scripts)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs/site"]
    cache = target.with_name(f"{target.name}-cache")
    if subprocess.run([*command, "-d", str(cache), ".", str(target)], cwd=ROOT, env=env, check=False).returncode:
        raise SiteInvalid("the pages have faults; see above")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--without-diagrams", action="store_true", help="do not fetch the script that draws them")
    options = parser.parse_args(arguments)
    target = options.directory.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        build_site(target, None if options.without_diagrams else fetch_mermaid(target.parent))
    except SiteInvalid as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    print(f"{target}/docs/site/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
